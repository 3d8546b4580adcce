"""Station 4, training: how long updates take, and which share of it they wait for data."""

from __future__ import annotations

import time
from collections.abc import Iterable

from torch import Tensor


class Clock:
    """How long iterations take, and which share of it they wait for data."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Start measuring anew."""
        self.began = time.monotonic()
        self.waited = 0.0
        self.count = 0

    def watch(self, batches: Iterable[dict[str, Tensor]]) -> Iterable[dict[str, Tensor]]:
        """Yield ``batches`` and measure the time that getting each one takes."""
        iterator = iter(batches)
        while True:
            asked = time.monotonic()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            self.waited += time.monotonic() - asked
            self.count += 1
            yield batch

    def read(self, per_batch: int, what: str) -> dict[str, float]:
        """Rates since the last reading: of ``what``, ``per_batch`` to a batch, and the share of waiting."""
        elapsed = max(time.monotonic() - self.began, 1e-9)
        rates = {
            f"{what}_per_s": self.count * per_batch / elapsed,
            "data_wait_percent": 100 * self.waited / elapsed,
        }
        self.restart()
        return rates
