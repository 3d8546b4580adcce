"""Station 6, cluster: what this machine has for jobs, and what of its environment they must not see."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from drdg.distributed.topology import DEEPSPEED_ONLY, HYDRA_ONLY, LOCAL_RANKS, MPIEXEC, TORCHRUN

SCHEDULERS = ("SLURM", "SUBMITIT", "PMI", "OMPI", "MV2", "TORCHELASTIC")
LAUNCHERS = {*TORCHRUN, DEEPSPEED_ONLY, HYDRA_ONLY, *LOCAL_RANKS, *(name for names in MPIEXEC for name in names)}
CONFIGURATION = "_CONF"  # where a cluster's settings are, which is no job's
GPUS = "CUDA_VISIBLE_DEVICES"
PATIENCE_S = 20.0
ALL_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def own(environment: Mapping[str, str]) -> dict[str, str]:
    """``environment`` without what a scheduler or a launcher has told this process of its own place.

    Its jobs would take it for theirs: each would believe that it is one rank of the job that the sweep was started in.
    """
    return {
        name: value
        for name, value in environment.items()
        if name.endswith(CONFIGURATION) or not (name in LAUNCHERS or name.startswith(SCHEDULERS))
    }


@contextmanager
def changed_environment(wanted: Mapping[str, str]) -> Iterator[None]:
    """Within the block this process, and those that it starts, have the variables of ``wanted`` and no others."""
    before = dict(os.environ)
    try:
        _set(wanted)
        yield
    finally:
        _set(before)


def _set(wanted: Mapping[str, str]) -> None:
    for name in set(os.environ) - set(wanted):
        del os.environ[name]
    os.environ.update(wanted)


def cores() -> list[int]:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


@contextmanager
def pinned(numbers: Sequence[int]) -> Iterator[None]:
    """Processes that are started in the block use these cores alone, and as many threads.

    They inherit it, so that it holds before any library has counted the cores.
    """
    threads = {name: str(len(numbers)) for name in ALL_THREADS}
    before = cores()
    with changed_environment({**os.environ, **threads}):
        _use(numbers)
        try:
            yield
        finally:
            _use(before)


def _use(numbers: Sequence[int]) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, numbers)


def gpus() -> list[int]:
    """Numbers of the GPUs that this process may use, without loading torch, which takes GPU memory and seconds.

    Raises ``ValueError`` where CUDA_VISIBLE_DEVICES names one that is not there.
    """
    visible = os.environ.get(GPUS)
    if visible is not None and not visible.strip():
        return []
    numbers = _listed()
    if visible is None:
        return sorted(set(numbers.values()))
    try:
        return [numbers[name.strip()] for name in visible.split(",")]
    except KeyError as error:
        raise ValueError(
            f"{GPUS}={visible} names {error.args[0]}, which nvidia-smi -L does not list; correct or unset it"
        ) from None


def _listed() -> dict[str, int]:
    """The number of each GPU by all its names."""
    if shutil.which("nvidia-smi") is None:
        return {}
    try:
        shown = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, text=True, timeout=PATIENCE_S, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    names: dict[str, int] = {}
    for number, unique in re.findall(r"^GPU (\d+): .*\(UUID: ([^)]+)\)", shown, re.MULTILINE):
        names |= {number: int(number), unique: int(number)}
    return names
