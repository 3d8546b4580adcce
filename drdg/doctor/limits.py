"""Station 6, doctor: the memory, shared memory and limits that each rank was started with."""

from __future__ import annotations

import resource
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from drdg.doctor.answers import Answer, named
from drdg.doctor.context import Context
from drdg.doctor.files import gigabytes
from drdg.doctor.finding import Finding, bad, ok, warning
from drdg.doctor.networks import Networks
from drdg.shards.store import OPEN_SHARDS

CHECK = "memory, limits"
SHM = Path("/dev/shm")
INFINIBAND = Path("/sys/class/infiniband")
# cgroup v2, v1: the limit that a scheduler or a container has set for this process's group, where it is mounted so.
GROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
# Two domains of open shards, and as many again for libraries, sockets and the database.
OPEN_FILES = 4 * OPEN_SHARDS
# Docker's default of 64 MiB is what NCCL's buffers between the GPUs of a node do not fit into (NCCL's user guide,
# "Troubleshooting", shared memory).
SHM_BYTES = 256 << 20
# InfiniBand pins its buffers.
LOCKED_BYTES = 64 << 20
# Activations and batches need at least as much as weights, gradients and optimizers.
HEADROOM = 2


def probe(context: Context) -> dict[str, Any]:
    """Bytes and counts; None where there is no limit, or what is limited is not there."""
    import psutil

    memory = psutil.virtual_memory()
    whole, free = memory.total, memory.available
    if (limit := _group_limit()) is not None and limit < whole:
        whole, free = limit, min(free, limit)
    ranks = context.topology.local_world_size
    shm = shutil.disk_usage(SHM) if SHM.is_dir() else None
    return {
        "memory_bytes": whole // ranks,
        "free_bytes": free // ranks,
        "open_files": _soft(resource.RLIMIT_NOFILE),
        "locked_bytes": _soft(resource.RLIMIT_MEMLOCK),
        "shm_bytes": shm and shm.total,
        "shm_free_bytes": shm and shm.free,
        "infiniband": INFINIBAND.is_dir() and any(INFINIBAND.iterdir()),
        "ranks": ranks,
    }


def judge(answers: Sequence[Answer], networks: Networks | None, on_gpus: bool) -> list[Finding]:
    """Whether there is enough of each."""
    found = []
    least = {name: _least(answers, name) for name in ("free_bytes", "open_files", "locked_bytes", "shm_free_bytes")}

    def where(name: str) -> str:
        return named(answer.who for answer in answers if answer.value[name] == least[name])

    free = least["free_bytes"] or 0
    if networks is not None and not on_gpus:
        needed = networks.memory_bytes
        if free < needed * HEADROOM:
            judgement = bad if free < needed else warning
            cure = "ask for more memory (sbatch --mem-per-cpu), start fewer ranks on a node, or set gan.micro_batch"
            measured = (
                f"{gigabytes(free)} free for {where('free_bytes')}; weights, gradients and optimizers take "
                f"{gigabytes(needed)}, activations come on top"
            )
            found.append(judgement(CHECK, measured, cure, free_bytes=free, needed_bytes=needed))
    files = least["open_files"]
    if files is not None and files < OPEN_FILES:
        cure = f"raise it before the job starts: ulimit -n {OPEN_FILES}, or ask the site to"
        found.append(warning(CHECK, f"{files} open files allowed for {where('open_files')}", cure, open_files=files))
    shm = least["shm_free_bytes"]
    several = any(answer.value["ranks"] > 1 for answer in answers)
    if on_gpus and several and shm is not None and shm < SHM_BYTES:
        cure = "give the container more (docker run --shm-size=1g), or remove what lies in /dev/shm"
        measured = f"{gigabytes(shm)} of /dev/shm free for {where('shm_free_bytes')}"
        found.append(bad(CHECK, measured, cure, shm_free_bytes=shm))
    locked = least["locked_bytes"]
    on_fabric = on_gpus and any(answer.value["infiniband"] for answer in answers)
    if on_fabric and locked is not None and locked < LOCKED_BYTES:
        cure = "let the site set memlock to unlimited for jobs (limits.conf, Slurm's PropagateResourceLimitsExcept)"
        measured = f"{gigabytes(locked)} may be locked for {where('locked_bytes')}, and there is InfiniBand"
        found.append(warning(CHECK, measured, cure, locked_bytes=locked))
    if found:
        return found
    measured = (
        f"{gigabytes(free)} memory free for each rank, {gigabytes(shm) if shm is not None else 'no'} /dev/shm, "
        f"{'unlimited' if files is None else files} open files, "
        f"{'unlimited' if locked is None else gigabytes(locked)} locked memory"
    )
    return [ok(CHECK, measured, **least)]


def _least(answers: Sequence[Answer], name: str) -> int | None:
    values = [answer.value[name] for answer in answers if answer.value[name] is not None]
    return min(values) if values else None


def _soft(limit: int) -> int | None:
    soft = resource.getrlimit(limit)[0]
    return None if soft == resource.RLIM_INFINITY else soft


def _group_limit() -> int | None:
    for path in GROUP_LIMITS:
        try:
            text = path.read_text().strip()
        except OSError:
            continue
        return int(text) if text.isdigit() else None
    return None
