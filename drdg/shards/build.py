"""Station 2, build: an archive's tiles into shards, from the plan; a killed build goes on where it was.

First the TOPs are unpacked (``drdg.shards.unpack``), then the shards are written from them; both job by job, each by
whichever process of the crew is free. A shard's bytes depend on the plan alone, so they are the same for any crew.
"""

from __future__ import annotations

import errno
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from drdg.config import DomainConfig, ShardsConfig
from drdg.datasets import open_archive
from drdg.files import clear_abandoned, partials
from drdg.shards.crew import ALONE, Crew
from drdg.shards.plan import Plan, Tile, make_plan
from drdg.shards.tar import EncodedSample, encode
from drdg.shards.threads import in_order
from drdg.shards.unpack import SCRATCH, UnpackedTop, UnpackedTops, height_range_m, unpack_top, unsurveyed
from drdg.shards.writer import (
    MANIFEST,
    discard_changed,
    finish,
    index_path,
    is_whole,
    read_manifest,
    shard_name,
    write_encoded,
)
from drdg.tiles import ground
from drdg.tiles.dsm import STEP_M, to_steps, whole_steps
from drdg.tiles.windows import transform_of

# Threads that cut and compress; one hashes and writes, and what is ahead of it is held in memory.
CUTTERS = 8
# What says that a folder cannot be written. Other errors name their file.
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)


def build_shards(domain: DomainConfig, shards: ShardsConfig, *, need_label: bool, crew: Crew = ALONE) -> Path:
    """Build the shards of ``domain`` under ``shards.root`` and return their folder; nothing is done twice.

    The folder is named by archive, split, tile, stride and the plan's digest, and is finished when it has its
    manifest. Labels are written only when ``need_label``. All processes of the ``crew`` call this together. Raises
    ``ValueError`` with one sentence when the archive or a file of it cannot be used (see
    :func:`drdg.shards.plan.make_plan`) or the folder cannot be written.
    """
    plan = crew.shared(lambda: make_plan(open_archive(domain.archive), domain, shards, need_label=need_label))
    folder = shards.root / plan.name
    try:
        if not crew.shared(lambda: is_finished(folder, plan.digest)):
            _build(plan, folder, crew)
    except OSError as error:
        if error.errno in UNWRITABLE:
            raise _unwritable(folder, error) from error
        raise
    return folder


def find_shards(domain: DomainConfig, shards: ShardsConfig, *, need_label: bool) -> Path:
    """The folder that :func:`build_shards` has built for the same arguments; nothing is written.

    Raises ``ValueError`` when it is not finished.
    """
    plan = make_plan(open_archive(domain.archive), domain, shards, need_label=need_label)
    folder = shards.root / plan.name
    if _manifest_of(folder, plan.digest) is None:
        raise ValueError(f"{folder}: these shards are not built; run shards/build.py with this configuration first")
    return folder


def is_finished(folder: Path, digest: str) -> bool:
    """Whether ``folder`` holds all shards of the plan with this digest; ``ValueError`` if it is another plan's.

    Shards that were damaged since are forgotten, so that building again mends them.
    """
    manifest = _manifest_of(folder, digest)
    if manifest is None:
        return False
    discard_changed(folder)
    return all(is_whole(folder / entry["file"], digest) for entry in manifest["shards"])


def _manifest_of(folder: Path, digest: str) -> dict[str, Any] | None:
    manifest = read_manifest(folder)
    if manifest is not None and manifest["plan"] != digest:
        raise ValueError(f"{folder / MANIFEST}: is the manifest of another plan; remove the folder and build again")
    return manifest


def _unwritable(folder: Path, error: OSError) -> ValueError:
    return ValueError(
        f"{folder}: cannot be written ({error.strerror or error}); make room there or set shards.root elsewhere, "
        "then start again: what is whole is kept"
    )


def _build(plan: Plan, folder: Path, crew: Crew) -> None:
    name = plan.archive.name
    todo = crew.shared(lambda: _begin(plan, folder))
    clear_abandoned(folder)  # by each rank, as only a process's own node knows that it is dead
    tops = crew.shared(lambda: _needed_tops(plan, folder, todo))
    unpacked = UnpackedTops(plan, folder)

    def unpack(number: int) -> None:
        with _unless_finished(plan, folder):
            unpack_top(plan, number, folder, crew)

    def write(number: int) -> None:
        with _unless_finished(plan, folder):
            write_encoded(folder / shard_name(number), _samples(plan, number, unpacked, crew), plan.digest, plan.codec)

    crew.run(tops, unpack, f"{name}: TOPs")
    crew.run(todo, write, f"{name}: shards", done=len(plan.shards) - len(todo))
    finish(
        folder,
        [shard_name(number) for number in range(len(plan.shards))],
        plan.digest,
        _describe(plan, folder, crew),
        crew,
    )
    crew.shared(lambda: _clear_away(folder))


def _clear_away(folder: Path) -> None:
    """Remove what only building needs, and what processes on any node were at when they were killed.

    All is whole now, so nobody needs it any more, not even another build of the folder (see :func:`_unless_finished`);
    but for its manifest, which that writes last.
    """
    shutil.rmtree(folder / SCRATCH, ignore_errors=True)
    for left in partials(folder):
        if not left.name.startswith(f".{MANIFEST}."):
            left.unlink(missing_ok=True)


@contextmanager
def _unless_finished(plan: Plan, folder: Path) -> Iterator[None]:
    """Forgive that scratch has gone if another build of the same folder, which takes it away, has finished all.

    Both write the same bytes, each file whole, so that two at once do no harm: a requeued job beside one that dies.
    """
    try:
        yield
    except FileNotFoundError:
        if not is_finished(folder, plan.digest):
            raise


def _begin(plan: Plan, folder: Path) -> list[int]:
    """Make ready to build; return the numbers of the shards that are missing."""
    folder.mkdir(parents=True, exist_ok=True)
    # Listed rather than asked for one by one: NFS remembers for a while that a name was not there, and would hide the
    # shards that other nodes are about to write.
    there = {path.name for path in folder.iterdir()}
    return [
        number
        for number in range(len(plan.shards))
        if not {shard_name(number), index_path(Path(shard_name(number))).name} <= there
        or not is_whole(folder / shard_name(number), plan.digest)
    ]


def _needed_tops(plan: Plan, folder: Path, shards: list[int]) -> list[int]:
    """The TOPs that the shards are cut from, and those whose heights have not been looked at."""
    needed = {tile.top for number in shards for tile in plan.shards[number]}
    return sorted(needed | unsurveyed(plan, folder))


def _samples(plan: Plan, shard: int, tops: UnpackedTops, crew: Crew) -> Iterator[EncodedSample]:
    """The encoded samples of one shard; a spare core cuts and compresses while this one hashes and writes."""

    def cut(tile: Tile, top: UnpackedTop) -> EncodedSample:
        return encode(_sample(plan, tile, top), plan.codec)

    jobs = (partial(cut, tile, tops[tile.top]) for tile in plan.shards[shard])
    for sample in in_order(jobs, workers=min(crew.cores - 1, CUTTERS)):
        yield sample
        crew.poll()


def _sample(plan: Plan, tile: Tile, top: UnpackedTop) -> dict[str, Any]:
    planned, window = plan.planned[tile.top], tile.window
    here = (window.rows, window.cols)
    meta: dict[str, Any] = {
        "top": planned.id,
        "window": [window.row, window.col, window.height, window.width],
        "crs": planned.crs,
        "transform": transform_of(window, planned.transform),
        "gsd_m": planned.gsd_m,
    }
    sample = {"__key__": tile.key, "json": meta, "image.npy": top.image[here]}
    if top.steps is not None and top.surface is not None:
        where = f"{plan.tops[tile.top].dsm} ({window})"
        sample["dsm.npy"], offset = to_steps(top.steps[here], where)
        meta |= {"dsm_offset_m": offset, "dsm_step_m": STEP_M}
        if top.surface.ground_m is not None:
            patch = ground.crop(top.surface.ground_m, top.surface.cell_px, window)
            sample["ground.npy"], offset = to_steps(whole_steps(patch.ground_m), where)
            meta |= {
                "ground_offset_m": offset,
                "ground_step_m": STEP_M,
                "ground_cell_px": patch.cell_px,
                "ground_origin_px": patch.origin_px,
            }
    if top.label is not None:
        sample["label.npy"] = top.label[here]
    return sample


def _describe(plan: Plan, folder: Path, crew: Crew) -> dict[str, Any]:
    """What the manifest says besides the shards; each rank looks at its share of the TOPs' heights."""
    described: dict[str, Any] = {"domain": plan.describe(), "tops": _describe_tops(plan), "dsm_range_m": None}
    if plan.with_dsm:
        mine = range(crew.rank, len(plan.tops), crew.size)
        ranges = [height_range_m(plan, number, folder) for number in mine]
        for rank, part in enumerate(crew.gather(ranges)):
            for number, range_m in zip(range(rank, len(plan.tops), crew.size), part, strict=True):
                described["tops"][plan.planned[number].id]["dsm_range_m"] = range_m
        low = crew.lowest(np.min([range_m[0] for range_m in ranges], initial=np.inf, keepdims=True))
        high = crew.highest(np.max([range_m[1] for range_m in ranges], initial=-np.inf, keepdims=True))
        described["dsm_range_m"] = [float(low[0]), float(high[0])]
    return described


def _describe_tops(plan: Plan) -> dict[str, Any]:
    tiles = Counter(tile.top for shard in plan.shards for tile in shard)
    return {
        top.id: {
            "height": top.height,
            "width": top.width,
            "gsd_m": top.gsd_m,
            "crs": top.crs,
            "transform": top.transform,
            "tiles": tiles[number],
        }
        for number, top in enumerate(plan.planned)
    }
