"""Station 2, tally: what is counted while the samples of shards pass by, to be compared with what a folder says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from drdg.tiles.windows import Window


def _no_pixels() -> np.ndarray:
    return np.zeros(256, dtype=np.int64)


@dataclass
class Tally:
    """Of one shard or many: their samples, and what these hold."""

    samples: int = 0
    bytes: int = 0
    label_pixels: np.ndarray = field(default_factory=_no_pixels)
    """Pixels of each label value, int64 (256)."""
    heights_m: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Lowest and highest height seen of each TOP."""
    windows: Counter[tuple[str, Window]] = field(default_factory=Counter)
    """How often each window of each TOP was seen."""
    georeferenced: int = 0
    """Samples whose ground resolution is known."""
    with_crs: int = 0

    def see_heights(self, top: str, low_m: float, high_m: float) -> None:
        """Widen the range of a TOP."""
        low, high = self.heights_m.get(top, (low_m, high_m))
        self.heights_m[top] = (min(low, low_m), max(high, high_m))

    @property
    def range_m(self) -> tuple[float, float] | None:
        """Lowest and highest height of all TOPs, None without heights."""
        if not self.heights_m:
            return None
        return min(low for low, _ in self.heights_m.values()), max(high for _, high in self.heights_m.values())


def total(tallies: Iterable[Tally]) -> Tally:
    """The tally of all of them together."""
    whole = Tally()
    for one in tallies:
        whole.samples += one.samples
        whole.bytes += one.bytes
        whole.label_pixels += one.label_pixels
        whole.windows.update(one.windows)  # += would go through all that was counted before
        whole.georeferenced += one.georeferenced
        whole.with_crs += one.with_crs
        for top, (low, high) in one.heights_m.items():
            whole.see_heights(top, low, high)
    return whole
