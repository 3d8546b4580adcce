"""Station 7, bench: what ``predict`` measures, and how much of it. Imports nothing that takes long."""

from __future__ import annotations

from dataclasses import dataclass

PARTS = ("map",)
"""Parts of the subject ``predict``."""


@dataclass(frozen=True)
class PredictSizes:
    """One orthophoto and the windows that slide over it."""

    side: int = 3000
    """Side of the orthophoto in pixels."""
    window: int = 512
    """Side of a window in pixels."""
    overlap: float = 0.5
    """Share of a window that its neighbour covers too."""
    batch: int = 1
    """Windows that go through the network together; the peer's go one by one, and so the network takes no more here."""
    classes: int = 6
    """As in the ISPRS data."""


FULL = PredictSizes()
# To see that everything works: the whole orthophoto is no larger than a few windows.
QUICK = PredictSizes(side=600, window=128)


def describe(sizes: PredictSizes, repeats: int, where: str) -> str:
    """What would be measured, in words."""
    return (
        f"predict: {', '.join(PARTS)}; {repeats} interleaved runs of each side; an orthophoto of {sizes.side} x "
        f"{sizes.side} pixels, windows of {sizes.window} that overlap by {sizes.overlap:g}, {sizes.classes} classes; "
        f"in {where}"
    )
