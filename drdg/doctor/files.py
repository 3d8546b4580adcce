"""Station 6, doctor: whether all ranks see one folder, how soon, how fast it is written, and whether it has room.

Rank 0 writes a token, the others read it and write theirs, rank 0 reads those: all in a folder of its own, which is
removed whatever happens. It lies in the nearest folder above that is there, as no run's folder is made for this.
"""

from __future__ import annotations

import os
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from drdg.doctor.answers import Answer, Rank, groups, milliseconds, named
from drdg.doctor.context import Context, nearest
from drdg.doctor.finding import Finding, bad, ok, warning
from drdg.doctor.mounts import is_network, kind
from drdg.doctor.networks import Networks
from drdg.files import whole_file

SHARED, SPEED = "shared folder", "checkpoint disk"
FOLDER = ".drdg-doctor-{token}"
LOOK_S = 0.01
# A rank that starts again must see the checkpoint that rank 0 has just written.
LATE_S = 1.0
SMALL_BYTES, SMALL_FILES = 4096, 8
BLOCK_BYTES, BLOCKS, WRITE_S = 8 << 20, 32, 1.0
# Of the room that is left, at most this part is written to.
MOST_OF_FREE = 4
SLOW_SYNC_S = 0.25
# A checkpoint is copied in the background, but at a time limit the scheduler waits only so long.
SLOW_CHECKPOINT_S = 60.0


def folder(context: Context, root: str, token: str) -> Path:
    """Where the probes of ``run.root`` or ``shards.root`` go; ``token`` is letters and digits."""
    if not token.isalnum():
        raise ValueError(f"{token!r} is no token")
    return nearest(Path(getattr(context.config, root).root)) / FOLDER.format(token=token)


def probe_begin(context: Context, root: str, token: str) -> dict[str, Any]:
    """Rank 0 makes the folder and writes its token; says where, and why it cannot."""
    place = folder(context, root, token)
    found = {"place": str(place.parent), "kind": kind(place.parent), "error": ""}
    try:
        place.mkdir()
        _write(place / "0", token)
    except OSError as error:
        found["error"] = str(error.strerror or error)
    return found


def probe_look(context: Context, root: str, token: str) -> dict[str, Any]:
    """Every other rank waits for the token and answers it: seconds until it saw it, or why it does not."""
    place = folder(context, root, token)
    found: dict[str, Any] = {"place": str(place.parent), "kind": kind(place.parent), "error": "", "seconds": None}
    found["seconds"] = _wait_for([place / "0"], token, context.timeout / 2)
    try:
        if found["seconds"] is not None:
            _write(place / str(context.rank.number), token)
    except OSError as error:
        found["error"] = str(error.strerror or error)
    return found


def probe_gather(context: Context, root: str, token: str, ranks: Sequence[int]) -> dict[str, Any]:
    """Rank 0 reads what ``ranks`` have written: seconds until it saw all, and whose it does not see."""
    paths = [folder(context, root, token) / str(rank) for rank in ranks]
    seconds = _wait_for(paths, token, context.timeout / 2)
    unseen = [rank for rank, path in zip(ranks, paths, strict=True) if _read(path) != token] if seconds is None else []
    return {"seconds": seconds, "unseen": unseen}


def probe_speed(context: Context, root: str, token: str) -> dict[str, Any]:
    """Seconds for a small file to be synced and renamed, bytes a second of a large one, and the room there is."""
    place = folder(context, root, token)
    free = shutil.disk_usage(place).free
    found: dict[str, Any] = {"free_bytes": free, "sync_s": None, "bytes_per_s": None, "error": ""}
    try:
        times = [_timed(lambda: _write(place / "small", "x" * SMALL_BYTES)) for _ in range(SMALL_FILES)]
        found["sync_s"] = statistics.median(times)
        began, written, block = time.perf_counter(), 0, os.urandom(BLOCK_BYTES)
        with (place / "large").open("wb", buffering=0) as file:
            while written < min(BLOCKS * BLOCK_BYTES, free // MOST_OF_FREE) and time.perf_counter() - began < WRITE_S:
                written += file.write(block)
            os.fsync(file.fileno())
        found["bytes_per_s"] = written / (time.perf_counter() - began) if written else None
    except OSError as error:
        found["error"] = str(error.strerror or error)
    return found


def probe_clear(context: Context, root: str, token: str) -> dict[str, Any]:
    """Rank 0 removes the folder."""
    for lock in context.kept.pop("locks", []):
        lock.close()
    shutil.rmtree(folder(context, root, token), ignore_errors=True)
    return {}


def judge_begin(root: str, begun: Answer) -> list[Finding]:
    """Whether rank 0 can write to ``root`` (``run`` or ``shards``) at all."""
    if begun.value["error"]:
        measured = f"{root}.root: {named([begun.who])} cannot write to {begun.value['place']} ({begun.value['error']})"
        return [bad(SHARED, measured, f"make room, give yourself permission, or set {root}.root to another folder")]
    return []


def judge_shared(root: str, begun: Answer, looks: Sequence[Answer], gathered: Answer | None) -> list[Finding]:
    """Whether all ranks see what each of them writes to ``root``, and how soon."""
    place, name = begun.value["place"], begun.value["kind"]
    found = []

    def blind(value: Any) -> tuple[str, str] | None:
        return None if value["seconds"] is not None else (value["place"], value["kind"])

    for where, ranks in groups(looks, blind).items():
        if where is not None:
            measured = f"{root}.root: {named(ranks)} see{_s(ranks)} nothing of what rank 0 wrote to {place} ({name})"
            if where[0] != place:
                measured += f", and look{_s(ranks)} in {where[0]} ({where[1]})"
            cure = f"set {root}.root to a folder that all nodes have from one server, by the same path"
            found.append(bad(SHARED, measured, cure))
    for reason, ranks in groups(looks, lambda value: str(value["error"])).items():
        if reason:
            measured = f"{root}.root: {named(ranks)} cannot write to {place} ({reason})"
            found.append(bad(SHARED, measured, "give all nodes the right to write there (mount options, user ids)"))
    if gathered is not None and gathered.value["unseen"]:
        unseen = [answer.who for answer in looks if answer.who.number in gathered.value["unseen"]]
        cure = f"set {root}.root to a folder that all nodes have from one server"
        found.append(bad(SHARED, f"{root}.root: rank 0 does not see what {named(unseen)} wrote to {place}", cure))
    if found or gathered is None:
        return found
    latest = max([gathered.value["seconds"], *(answer.value["seconds"] for answer in looks)])
    measured = f"{root}.root: {place} ({name}) seen by all, a new file after {milliseconds(latest)}"
    if latest > LATE_S:
        cure = "mount it with a shorter attribute cache (NFS: actimeo=1), or a rank restarts from an older checkpoint"
        return [warning(SHARED, measured, cure, visible_s=latest)]
    return [ok(SHARED, measured, visible_s=latest, kind=name)]


def judge_speed(begun: Answer, speed: Answer, networks: Networks | None, keep: int) -> list[Finding]:
    """Whether ``run.root`` has room for the ``keep`` checkpoints of ``networks`` that stay, and writes them in time."""
    value, place = speed.value, begun.value["place"]
    needed = networks.checkpoint_bytes * (keep + 1) if networks else 0
    free = f"{gigabytes(value['free_bytes'])} free"
    found = []
    if value["free_bytes"] < needed:
        cure = f"make room in {place}, lower gan.keep_checkpoints, or set run.root to another disk"
        measured = f"{free} in {place}, but {keep + 1} checkpoints are {gigabytes(needed)}"
        found.append(bad(SPEED, measured, cure, free_bytes=value["free_bytes"], needed_bytes=needed))
    if value["error"]:
        cure = f"make room in {place} or in your quota, or set run.root to another disk"
        found.append(bad(SPEED, f"{place} cannot be written ({value['error']})", cure))
    if found or value["bytes_per_s"] is None or value["sync_s"] is None:
        return found
    figures = {name: value[name] for name in ("free_bytes", "sync_s", "bytes_per_s")}
    measured = f"{value['bytes_per_s'] / 1e6:.0f} MB/s, small file synced in {milliseconds(value['sync_s'])}, {free}"
    if networks:
        seconds = networks.checkpoint_bytes / value["bytes_per_s"]
        measured += f"; a checkpoint is {gigabytes(networks.checkpoint_bytes)}, {milliseconds(seconds)}"
        if seconds > SLOW_CHECKPOINT_S:
            cure = (
                "set run.root to a faster disk, or let the scheduler's signal come that much earlier "
                "(sbatch --signal=B:USR2@SECONDS)"
            )
            return [warning(SPEED, measured, cure, **figures)]
    if value["sync_s"] > SLOW_SYNC_S:
        cure = "set run.root to a disk that syncs faster; each log of MLflow and each checkpoint waits for it"
        return [warning(SPEED, measured, cure, **figures)]
    return [ok(SPEED, measured, **figures)]


def is_far(begun: Answer) -> bool:
    """Whether the folder lies on a network's file system."""
    return is_network(begun.value["kind"])


def gigabytes(count: float) -> str:
    """Bytes in decimal units."""
    return f"{count / 1e9:.3g} GB" if count >= 1e9 else f"{count / 1e6:.3g} MB"


def _write(path: Path, text: str) -> None:
    with whole_file(path) as file:
        file.write(text.encode())


def _read(path: Path) -> str | None:
    try:
        # Some network file systems look for a new file only when its folder is listed.
        return path.read_text() if path.name in os.listdir(path.parent) else None  # noqa: PTH208
    except OSError:
        return None


def _wait_for(paths: Sequence[Path], token: str, seconds: float) -> float | None:
    began = time.perf_counter()
    while not all(_read(path) == token for path in paths):
        if time.perf_counter() - began > seconds:
            return None
        time.sleep(LOOK_S)
    return time.perf_counter() - began


def _timed(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _s(ranks: Sequence[Rank]) -> str:
    return "s" * (len(ranks) == 1)
