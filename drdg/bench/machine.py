"""Station 7, bench: the machine that is measured on: one core of it, what it is, and what a process used of it."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
PROCESSOR = Path("/proc/cpuinfo")
STATUS = Path("/proc/self/status")
THREADS = Path("/proc/self/task")


@contextmanager
def one_core() -> Iterator[None]:
    """All threads of this process on one core, the last it may use, within the block; children inherit it.

    Raises ``ValueError`` where the system cannot do that.
    """
    if not hasattr(os, "sched_setaffinity"):
        raise ValueError("launch/bench.py: this system cannot keep a process on one core; measure on Linux")
    allowed = os.sched_getaffinity(0)
    _put_threads_on({max(allowed)})
    try:
        yield
    finally:
        _put_threads_on(allowed)


def take_core(number: int) -> None:
    """Keep this process to one core of those it may use, the ``number``-th, beginning again after the last."""
    if hasattr(os, "sched_setaffinity"):
        allowed = sorted(os.sched_getaffinity(0))
        _put_threads_on({allowed[number % len(allowed)]})


def _put_threads_on(cores: set[int]) -> None:
    for thread in THREADS.iterdir():
        try:
            os.sched_setaffinity(int(thread.name), cores)
        except ProcessLookupError:  # ended since it was listed
            continue


def peak_memory_mb() -> float:
    """The most memory that this process ever held (VmHWM), in MB; ``ValueError`` where the system does not say."""
    return _memory_mb("VmHWM:")


def resident_memory_mb() -> float:
    """The memory that this process holds (VmRSS), in MB; ``ValueError`` where the system does not say."""
    return _memory_mb("VmRSS:")


def _memory_mb(line_of: str) -> float:
    if STATUS.is_file():
        for line in STATUS.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith(line_of):
                return int(line.split()[1]) * 1024 / 1e6
    raise ValueError("launch/bench.py: this system does not say how much memory a process held; measure on Linux")


def caches() -> dict[str, int]:
    """Bytes of the larger caches that core 0 sees, such as ``{"L2": 2097152, "L3": 110100480}``; may be empty."""
    sizes = {}
    for index in sorted(CACHES.glob("index*")):
        level, kind, size = ((index / name).read_text(encoding="ascii").strip() for name in ("level", "type", "size"))
        if int(level) > 1 and kind != "Instruction" and size[:-1].isdigit():
            sizes[f"L{level}"] = int(size[:-1]) * {"K": 2**10, "M": 2**20}[size[-1]]
    return sizes


def describe() -> str:
    """Processor, cores that may be used, caches, and how busy the machine is, in one line."""
    names = [line.partition(":")[2].strip() for line in _lines(PROCESSOR) if line.startswith("model name")]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    sizes = ", ".join(f"{level} {size / 2**20:.3g} MiB" for level, size in caches().items())
    return (
        f"{names[0] if names else platform.processor() or platform.machine()}, {cores} cores ({sizes}), "
        f"load {os.getloadavg()[0]:.2f}, Python {platform.python_version()}"
    )


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
