"""Station 4, training: signals that ask a training to stop, which it does between two iterations, having saved.

A scheduler sends them before it takes the nodes away, a person with Ctrl-C or ``kill``. The handlers only remember: in
the middle of an iteration there is nothing whole to save.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

TRY_AGAIN = 75
"""The exit status of a training that was asked to stop and has saved: EX_TEMPFAIL of ``sysexits.h``."""
INTERRUPTED = 130  # after Ctrl-C, as shells have it
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
# Those that a scheduler sends, which may come before the first iteration.
SCHEDULERS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
# A launcher may pass on the Ctrl-C that its terminal has sent already.
PATIENCE_S = 1.0


class Stopped(KeyboardInterrupt):
    """A training has ended because it was asked to; ``status`` is what its process ends with.

    Of several ranks the first alone says so and has the status. The others end as if all was done: at the first process
    that ends badly many a launcher kills the rest, among them the rank that is still writing to MLflow.
    """

    def __init__(self, number: int, saved: str, is_first: bool = True):
        name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
        super().__init__(f"stopped by {name} after {saved}, which is saved; the same command continues where it was")
        self.status = 0 if not is_first else INTERRUPTED if number == signal.SIGINT else TRY_AGAIN
        self.said_elsewhere = not is_first


class StopRequest:
    """What this process was asked while it listened."""

    def __init__(self) -> None:
        self.number = 0
        """The last of ``SIGNALS`` that came, or 0."""
        self._first_came = 0.0

    def remember(self, number: int, frame: FrameType | None = None) -> None:
        """Handle a signal. A second Ctrl-C is from somebody who does not want to wait for the iteration's end."""
        now = time.monotonic()
        if number == self.number == signal.SIGINT and now - self._first_came > PATIENCE_S:
            raise KeyboardInterrupt
        if not self.number:
            self._first_came = now
        self.number = number


@contextmanager
def listening(signals: tuple[signal.Signals, ...] = SIGNALS) -> Iterator[StopRequest]:
    """Remember ``signals`` within the block instead of ending because of them. Within another such block it is that
    one's request which remembers.
    """
    outer = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    request = outer if isinstance(outer, StopRequest) else StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request  # which no signal reaches
        return
    before = {number: signal.signal(number, request.remember) for number in signals}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
