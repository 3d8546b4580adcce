"""Station 4, training: ends a rank that hangs, and writes down where it hung.

A rank that waits for ever, for a disk, a GPU or another rank, holds its nodes until the time limit, and nobody sees
why. Here each rank ends itself after a while without an iteration, whatever it waits for.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self

FAILED = 1
TICKS = 20  # how often it looks, within the limit
LONGEST_TICK_S = 1.0
PATIENCE_S = 10.0
STANDARD_ERROR = 2  # the process's own, whatever Python's is redirected to


class Watchdog:
    """Ends the process with status 1 when ``seconds`` pass within the block without a :meth:`step`.

    Before that it writes the stacks of all threads to ``stacks`` and one sentence, which ends in ``cure()``, to
    standard error.
    """

    def __init__(self, seconds: float, who: str, stacks: Path, cure: Callable[[], str]):
        self.seconds, self.who, self.stacks, self.cure = seconds, who, stacks, cure
        self._tick_s = min(LONGEST_TICK_S, seconds / TICKS)
        self._ended = threading.Event()
        self._is_aside = False
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def step(self) -> None:
        """Say that something was done."""
        self._last = time.monotonic()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Do not mind how long the block takes; what hangs in it ends by the timeout of a collective, or not at all."""
        self._is_aside = True
        try:
            yield
        finally:
            self.step()
            self._is_aside = False

    def __enter__(self) -> Self:
        self.step()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        faulthandler.cancel_dump_traceback_later()

    def _watch(self) -> None:
        while not self._ended.wait(self._tick_s):
            # Where the thread that hangs keeps the interpreter's lock, this one cannot look: then the interpreter
            # itself ends the process, with the stacks on standard error.
            faulthandler.dump_traceback_later(self.seconds + 5 * self._tick_s, exit=True, file=STANDARD_ERROR)
            if not self._is_aside and time.monotonic() - self._last > self.seconds:
                self._give_up()

    def _give_up(self) -> None:
        # The disk to write to may be what hangs.
        faulthandler.dump_traceback_later(PATIENCE_S, exit=True, file=STANDARD_ERROR)
        hangs = f"{self.who} has not ended an iteration for {self.seconds:.0f} s"
        try:
            self.stacks.parent.mkdir(parents=True, exist_ok=True)
            with self.stacks.open("w") as file:
                print(f"{hangs}; its threads, each with the innermost call first:\n", file=file, flush=True)
                faulthandler.dump_traceback(file, all_threads=True)
            where = f"where it hangs is in {self.stacks}"
        except OSError as error:
            where = f"where it hangs cannot be written to {self.stacks} ({error.strerror})"
        print(f"error: {hangs} and ends; {where}; {self.cure()}\n", end="", file=sys.stderr, flush=True)
        os._exit(FAILED)
