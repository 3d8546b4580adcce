"""Station 7, bench: what is measured, and how much of it. Imports nothing that takes long."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

PARTS = ("stream", "build", "ranks", "memory")
"""Parts of the subject ``data``, in the order in which they are measured."""


@dataclass(frozen=True)
class Sizes:
    """Pixels and counts of one bench."""

    side: int = 6000
    """Side of a TOP in pixels; Potsdam's."""
    tile: int = 896
    """Side of a tile in pixels (paper, section III-A: source). The stream's tiles do not overlap."""
    stride: int = 512
    """Step between tiles of the build: 121 of them on a TOP."""
    tops: int = 4
    """TOPs of the archive that several ranks build, and that memory must not grow with."""
    batch: int = 4
    """Pairs in a batch of the stream."""
    passes: int = 16
    """Passes over its tiles in one run of the stream, so that a run takes about a second; slower peers make fewer."""


FULL = Sizes()
# To see that everything works: caches hold it all and starting up weighs more than the work.
QUICK = Sizes(side=1024, tile=256, stride=128, passes=4)


def num_sheets(sizes: Sizes, parts: Sequence[str]) -> int:
    """How many TOPs the ``parts`` need: two domains of one for the stream, all for ranks and memory."""
    return sizes.tops if {"ranks", "memory"} & {*parts} else 2


def describe(sizes: Sizes, repeats: int, parts: Sequence[str], where: str) -> str:
    """What would be measured, in words."""
    return (
        f"data: {', '.join(part for part in PARTS if part in parts)}; {repeats} interleaved runs of each side; "
        f"{num_sheets(sizes, parts)} TOPs of {sizes.side} x {sizes.side} pixels, tiles of {sizes.tile}; "
        f"about {_most_bytes(sizes, parts) / 1e9:.1f} GB in {where}"
    )


def _most_bytes(sizes: Sizes, parts: Sequence[str]) -> float:
    """The most that lies in the working folder at once."""
    pixels = sizes.side**2
    tiles = pixels * (sizes.tile / sizes.stride) ** 2
    sheets = num_sheets(sizes, parts)
    # Image, heights and some label; then either the stream's tiles raw, zstd and PNG, or a build with its scratch.
    return 7.5 * pixels * sheets + max(2 * 11 * pixels, (6 * tiles + 8 * pixels) * (sheets if sheets > 2 else 1))
