"""Station 6, cluster: files that one process at a time holds (``flock``), and which one that is.

The kernel lets go of them with the process, however it ends, so none is ever left behind.
"""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import psutil

POLL_S = 0.2
# When a process began is told from when the machine did, which the clock that is set meanwhile moves.
CLOCKS_APART_S = 3.0


class Held:
    """A file that this process holds, until ``release`` or its end."""

    def __init__(self, file: IO[str]):
        self._file = file

    def release(self) -> None:
        """Let go of it, also for processes that were forked meanwhile."""
        if not self._file.closed:
            fcntl.flock(self._file, fcntl.LOCK_UN)
            self._file.close()


def try_hold(path: Path) -> Held | None:
    """Hold the file, which is made if need be; None where another process does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a+", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    file.truncate(0)
    file.write(f"{socket.gethostname()} {os.getpid()} {_began(os.getpid())}")
    file.flush()
    return Held(file)


def hold(path: Path, waits: Callable[[str], None]) -> Held:
    """Hold the file as soon as no other process does; ``waits(holder)`` is called once if that is not at once."""
    has_said = False
    # Who only looks whether it is held holds it for an instant.
    looks = 2
    while (held := try_hold(path)) is None:
        if looks:
            looks -= 1
        elif not has_said:
            has_said = True
            waits(holder(path))
        time.sleep(POLL_S)
    return held


@contextmanager
def holding(path: Path, waits: Callable[[str], None]) -> Iterator[None]:
    """Hold the file within the block."""
    held = hold(path, waits)
    try:
        yield
    finally:
        held.release()


def is_held(path: Path) -> bool:
    """Whether a process holds the file."""
    try:
        file = path.open("r", encoding="utf-8")
    except FileNotFoundError:
        return False
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def holder(path: Path) -> str:
    """Who holds the file, or did, in words."""
    try:
        host, pid, _ = path.read_text(encoding="utf-8").split()
    except (OSError, ValueError):
        return "another process"
    return f"process {pid} on {host}"


def holder_here(path: Path) -> psutil.Process | None:
    """The process that holds the file, if it is one of this machine and alive."""
    try:
        host, pid, began = path.read_text(encoding="utf-8").split()
        return alive(int(pid), float(began)) if host == socket.gethostname() and is_held(path) else None
    except (OSError, ValueError):
        return None


def alive(pid: int, began: float) -> psutil.Process | None:
    """The process of this number that was started then; None where it has ended."""
    try:
        process = psutil.Process(pid)
        # Numbers come again.
        same = abs(process.create_time() - began) < CLOCKS_APART_S
        return process if same and process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD) else None
    except psutil.NoSuchProcess:
        return None


def _began(pid: int) -> float:
    return float(psutil.Process(pid).create_time())
