"""Station 6, doctor: work that may hang, done within a time or left behind."""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")
# What could not be waited for. It goes on in its thread, and must not hold up the process's end.
_left_behind: list[threading.Thread] = []
FAILED = 1
# The interpreter's own last resort, for a thread that hangs and keeps all others from running, comes after ours.
LAST_RESORT_S = 5.0
STANDARD_ERROR = 2


def within(seconds: float, work: Callable[[], T]) -> T:
    """What ``work`` gives or raises; ``TimeoutError`` when it does neither for ``seconds``."""
    outcome: list[Any] = []

    def do() -> None:
        try:
            outcome.append((work(), None))
        except BaseException as error:
            outcome.append((None, error))

    thread = threading.Thread(target=do, name="probe", daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome:
        _left_behind.append(thread)
        raise TimeoutError(f"not done within {seconds:.0f} s")
    value, error = outcome[0]
    if error is not None:
        raise error
    return value


def leave(status: int) -> None:
    """End the process with ``status`` now where something still hangs in it, which would hold up a proper end."""
    if any(thread.is_alive() for thread in _left_behind):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


@contextmanager
def ending_after(seconds: float, last_words: Callable[[], None]) -> Iterator[None]:
    """End the process with status 1, after ``last_words()``, if the block takes longer than ``seconds``."""

    def give_up() -> None:
        try:
            last_words()
            sys.stdout.flush()
        finally:
            os._exit(FAILED)

    timer = threading.Timer(seconds, give_up)
    timer.daemon = True
    timer.start()
    # Loading a library from a file system that is away keeps the interpreter's lock, and then no thread of ours runs.
    faulthandler.dump_traceback_later(seconds + LAST_RESORT_S, exit=True, file=STANDARD_ERROR)
    try:
        yield
    finally:
        timer.cancel()
        faulthandler.cancel_dump_traceback_later()
