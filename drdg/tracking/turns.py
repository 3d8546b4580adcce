"""Station 6, tracking: processes of one machine that write to one sqlite file do so in turn."""

from __future__ import annotations

import fcntl
import os
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# sqlite's own lock is no queue: who finds it taken looks again at intervals, and may be unlucky until MLflow gives up,
# after 20 s. Ours is let go between any two calls.
POLL_S = 0.02
# One that was stopped, not killed, keeps its turn. After so long sqlite's own lock alone keeps order.
PATIENCE_S = 60.0


class Turns:
    """Whose turn it is to write to ``database``; None: always ours. The folder is locked, so nothing is left in it."""

    def __init__(self, database: Path | None) -> None:
        self._folder = None if database is None else database.parent
        self._threads = threading.RLock()
        self._depth = 0

    @contextmanager
    def mine(self) -> Iterator[None]:
        """Wait for this process's turn, which lasts for the block. Blocks may lie within each other."""
        if self._folder is None:
            yield
            return
        with self._threads:
            descriptor = _lock(self._folder) if self._depth == 0 else None
            self._depth += 1
            try:
                yield
            finally:
                self._depth -= 1
                if descriptor is not None:
                    os.close(descriptor)


def _lock(folder: Path) -> int | None:
    """A locked descriptor, or None where that cannot be had: then sqlite's own lock alone keeps order."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return None
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            time.sleep(random.uniform(0.5, 1.5) * POLL_S)
        except OSError:  # a network's file system that locks no folders
            break
    os.close(descriptor)
    return None
