"""Station 6, tracking: numbers that wait for each other until a batch of them is written, here or by a thread."""

from __future__ import annotations

import threading
import time
import warnings
from abc import abstractmethod
from collections.abc import Mapping
from types import TracebackType

from drdg.tracking.base import Handle, NullHandle, Row
from drdg.tracking.names import clean_name, shorten

__all__ = ["BATCH", "Buffered", "Handle", "NullHandle", "Row"]

# Logging one value costs 23 ms on sqlite, fifty in one call 30 ms (measured), so values wait for each other, but not
# longer than a person who watches the curves likes to.
FLUSH_VALUES = 500
FLUSH_SECONDS = 15.0
# A store that is away costs seconds at each try.
LONGEST_PAUSE_S = 600.0
# What MLflow takes in one call.
BATCH = 1000


class Buffered(Handle):
    """A handle that writes numbers in batches; as a context manager it ends the run with the status its block deserves.

    An exception makes the run FAILED, Ctrl-C KILLED. Values that could not be written stay in the buffer and are tried
    again, with a warning, so that a store that is away for a while does not end a training of days.

    ``in_background``: a thread writes, and who logs waits for nothing but ``flush`` and ``close``.
    """

    def __init__(self, *, in_background: bool = False) -> None:
        self._in_background = in_background
        self._waiting: list[Row] = []
        self._guard = threading.Lock()  # of the list
        self._turn = threading.RLock()  # of who writes
        self._wake = threading.Event()
        self._writer: threading.Thread | None = None
        self._is_ending = False
        self._last_flush = time.monotonic()
        self._pause_s = FLUSH_SECONDS

    @abstractmethod
    def _write(self, rows: list[Row]) -> None:
        """Write at most ``BATCH`` values, each once. ``ValueError`` on failure."""

    @abstractmethod
    def _end(self, status: str) -> None:
        """End the run, if it is this handle's to end."""

    @abstractmethod
    def _is_to_end(self) -> bool:
        """Whether the run is this handle's to end, and to blame an error for."""

    def log(self, values: Mapping[str, float], step: int = 0) -> None:
        """Keep numbers by name at a step; written in batches, with the time of this call."""
        now = int(time.time() * 1000)
        rows = [(clean_name(name), float(value), now, step) for name, value in values.items()]
        with self._guard:
            self._waiting += rows
            count = len(self._waiting)
        is_away = self._pause_s > FLUSH_SECONDS
        if self._is_rested() or (count >= FLUSH_VALUES and not is_away):
            self._flush_soon()

    def flush(self) -> None:
        """Write the waiting values, those apart that an earlier attempt wrote already. ``ValueError`` on failure."""
        self._flush_all()

    def _flush_all(self) -> None:
        with self._turn:
            self._last_flush = time.monotonic()
            while batch := self._rows(BATCH):
                self._write(batch)
                with self._guard:
                    del self._waiting[: len(batch)]

    def try_to_flush(self) -> list[Row]:
        """Write what waits, or have the thread write it, and return what is not written yet."""
        if self._pause_s == FLUSH_SECONDS or self._is_rested():
            self._flush_soon()
        return self._rows()

    def relog(self, rows: list[Row]) -> None:
        """Keep what an earlier attempt's ``try_to_flush`` returned, unless it was written after all."""
        with self._guard:
            self._waiting += [(name, value, when, step) for name, value, when, step in rows]

    def close(self, status: str = "FINISHED") -> None:
        """Write what waits and, if this handle began the run, end it: FINISHED, FAILED or KILLED."""
        self._stop_writer()
        self.flush()
        self._end(status)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None or (isinstance(error, SystemExit) and not error.code):
            self.close()
            return
        try:
            if self._is_to_end():
                self.tags({"drdg.error": shorten(f"{type(error).__name__}: {error}", 500)})
            self.close("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        except ValueError as second:  # the first error is the one to see
            warnings.warn(str(second), stacklevel=2)

    def _rows(self, most: int | None = None) -> list[Row]:
        with self._guard:
            return self._waiting[:most]

    def _is_rested(self) -> bool:
        return time.monotonic() - self._last_flush >= self._pause_s

    def _flush_soon(self) -> None:
        if not self._in_background:
            self._flush_or_warn()
            return
        if self._writer is None:
            self._is_ending = False
            # A daemon: a process that ends without closing the run is not held up by a store that is away.
            self._writer = threading.Thread(target=self._keep_writing, name="tracking", daemon=True)
            self._writer.start()
        self._wake.set()

    def _keep_writing(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            if self._is_ending:
                return
            if self._pause_s == FLUSH_SECONDS or self._is_rested():
                self._flush_or_warn()

    def _stop_writer(self) -> None:
        if self._writer is not None:
            self._is_ending = True
            self._wake.set()
            self._writer.join()
            self._writer = None

    def _flush_or_warn(self) -> None:
        try:
            self._flush_all()
            self._pause_s = FLUSH_SECONDS
        except ValueError as error:
            self._last_flush = time.monotonic()
            self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
            warnings.warn(f"{error} ({len(self._rows())} values wait and are tried again)", stacklevel=3)
