"""Station 5, maps: how one raster is cut: pieces that are written, and windows that the network sees.

Pieces lie on the raster's own grid, windows on the working grid, which has the GSD that the network knows and covers
the same ground. Columns are cut into strips so wide that what is held of one fits into memory; a strip into bands,
from top to bottom. Which windows go through the network together is a matter of the strip alone, not of who computes
which band: a sum in a network may depend on its company in the last bit, and maps are the same bytes on any number of
ranks.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from drdg.inference.sliding import border_weight, weight_total
from drdg.maps.resample import Axis
from drdg.tiles.windows import Window, starts

BAND_ROWS = 256
"""Rows of a piece: half the side of a COG's inner tiles."""
COLUMNS = 512
"""What a strip's columns are a multiple of, the side of a COG's inner tiles, so that none of those is made of two."""
STRIP_COLS = 8192
"""Most columns of a strip, on its own grid and on the working grid."""


@dataclass(frozen=True, order=True)
class Piece:
    """A rectangle of the raster's own grid that is finished at once: band number ``band`` of strip ``strip``."""

    strip: int
    band: int
    window: Window


@dataclass(frozen=True)
class Strip:
    """A range of columns: ``cols`` on the raster's own grid, ``work`` the columns of the working grid that they are
    made of, ``starts`` where the windows begin that touch those.
    """

    number: int
    cols: tuple[int, int]
    work: tuple[int, int]
    starts: tuple[int, ...]
    side: int

    @property
    def left(self) -> int:
        """First column that a window covers."""
        return self.starts[0]

    @property
    def right(self) -> int:
        """Column after the last that a window covers."""
        return self.starts[-1] + self.side


@dataclass(frozen=True)
class Layout:
    """The cut of a raster of ``height`` x ``width`` pixels.

    ``work_height``, ``work_width``: the working grid. ``side``, ``stride``: of windows, which stand as in
    :func:`drdg.inference.sliding.window_grid`; where the grid is smaller than one, it reaches over the edge.
    ``batch``: most windows that go through the network together.
    """

    height: int
    width: int
    work_height: int
    work_width: int
    side: int
    stride: int
    batch: int
    band_rows: int = BAND_ROWS
    strip_cols: int = STRIP_COLS
    columns: int = COLUMNS

    @cached_property
    def to_work(self) -> tuple[Axis, Axis]:
        """Rows and columns of the working grid from those of the raster's own."""
        return Axis(self.height, self.work_height), Axis(self.width, self.work_width)

    @cached_property
    def from_work(self) -> tuple[Axis, Axis]:
        """And back."""
        return Axis(self.work_height, self.height), Axis(self.work_width, self.width)

    @cached_property
    def row_starts(self) -> tuple[int, ...]:
        """Where rows of windows begin, on the working grid."""
        return tuple(starts(max(self.work_height, self.side), self.side, self.stride, "shift"))

    @cached_property
    def col_starts(self) -> tuple[int, ...]:
        """Where columns of windows begin."""
        return tuple(starts(max(self.work_width, self.side), self.side, self.stride, "shift"))

    @cached_property
    def weight(self) -> Tensor:
        """Weights along a window's side, float64."""
        return border_weight(self.side)

    @cached_property
    def totals(self) -> tuple[Tensor, Tensor]:
        """Sums of the weights of all windows along rows and columns of the working grid, float64."""
        return weight_total(self.weight, self.row_starts), weight_total(self.weight, self.col_starts)

    @cached_property
    def strips(self) -> tuple[Strip, ...]:
        """All strips, from left to right."""
        # Where the working grid is the finer one, it is its columns that have to fit.
        fitting = int(self.strip_cols * min(1.0, self.width / self.work_width))
        wide = max(fitting // self.columns, 1) * self.columns
        axis = self.from_work[1]
        strips: list[Strip] = []
        for first in range(0, self.width, wide):
            cols = first, min(first + wide, self.width)
            work = axis.support(*cols)
            touching = tuple(start for start in self.col_starts if start < work[1] and start + self.side > work[0])
            strips.append(Strip(len(strips), cols, work, touching, self.side))
        return tuple(strips)

    @cached_property
    def pieces(self) -> tuple[Piece, ...]:
        """All pieces, down one strip after the other."""
        return tuple(
            Piece(strip.number, band, Window(row, strip.cols[0], min(self.band_rows, self.height - row), _len(strip)))
            for strip in self.strips
            for band, row in enumerate(range(0, self.height, self.band_rows))
        )

    def packs(self, strip: Strip, first: int, stop: int) -> list[range]:
        """Rows of windows, by number, that go through the network together, of those that touch the rows from ``first``
        to ``stop`` of the working grid.

        One row where it fills a batch, else as many as fit into one. The first pack may begin above.
        """
        touching = [i for i, start in enumerate(self.row_starts) if start < stop and start + self.side > first]
        rows = max(1, self.batch // len(strip.starts))
        numbers = range(touching[0] // rows, touching[-1] // rows + 1)
        return [range(number * rows, min((number + 1) * rows, len(self.row_starts))) for number in numbers]


def _len(strip: Strip) -> int:
    return strip.cols[1] - strip.cols[0]
