"""Station 7, bench: what ``tracking`` measures, and how much of it. Imports nothing that takes long."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

PARTS = ("step",)
"""Parts of the subject ``tracking``."""


@dataclass(frozen=True)
class TrackingSizes:
    """The demo's networks and tiles: the smallest that anybody trains, on which a fixed cost weighs most."""

    width: int = 8
    """Channels of the generators' and the critics' first level."""
    source_tile: int = 256
    """Side of a source tile in pixels."""
    target_tile: int = 128
    """Side of a target tile in pixels."""
    pairs: int = 2
    """Pairs in a batch."""
    iterations: int = 30
    """Of one run of one side; in the runs with tracking all of them are logged."""


FULL = TrackingSizes()
# To see that everything works.
QUICK = TrackingSizes(width=2, iterations=6)


def describe(sizes: TrackingSizes, repeats: int, parts: Sequence[str], where: str) -> str:
    """What would be measured, in words."""
    return (
        f"tracking: {', '.join(part for part in PARTS if part in parts)}; {repeats} interleaved runs of each side, of "
        f"{sizes.iterations} iterations; networks of width {sizes.width}, {sizes.pairs} pairs of tiles of "
        f"{sizes.source_tile} and {sizes.target_tile}; in {where}"
    )
