"""Station 1, archives: what of a generated town's ground is taken, and draws that spread evenly."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from drdg.datasets.town import MARGIN_M, Box

# Side of a cell of the occupancy grid: a third of the narrowest thing that must not overlap another (a footpath).
CELL_M = 0.25
# What a cell of the occupancy grid holds.
LAWN, STREET, PAVED, HEDGE, HOUSE, OBSTACLE = range(6)


class Draws:
    """Numbers in [0, 1) that cover it evenly from the first few on: an additive sequence from a random start.

    A small orthophoto shows eight roofs. Drawn independently, one domain would by chance get all the red ones, and
    matching distributions would no longer match classes.
    """

    def __init__(self, step: float, rng: np.random.Generator) -> None:
        self.at, self.step = rng.random(), step

    def next(self) -> float:
        """The next number."""
        self.at = (self.at + self.step) % 1.0
        return self.at


class Occupancy:
    """What is where already, on cells of ``CELL_M``, so that objects neither overlap nor exceed their share."""

    def __init__(self, side_m: float) -> None:
        self.cells = int(np.ceil((side_m + 2 * MARGIN_M) / CELL_M))
        self.margin = round(MARGIN_M / CELL_M)
        self.what: NDArray[np.uint8] = np.zeros((self.cells, self.cells), dtype=np.uint8)
        self.crown: NDArray[np.bool_] = np.zeros((self.cells, self.cells), dtype=bool)
        axis = (np.arange(self.cells, dtype=np.float32) + 0.5) * CELL_M - MARGIN_M
        self.x, self.y = axis[None, :], axis[:, None]
        self.seen = slice(self.margin, self.cells - self.margin)

    def window(self, x: float, y: float, reach: float) -> tuple[slice, slice]:
        """Rows and columns of the cells within ``reach`` metres of a point."""

        def span(at: float) -> slice:
            first = int((at - reach + MARGIN_M) / CELL_M)
            last = int((at + reach + MARGIN_M) / CELL_M) + 1
            return slice(max(first, 0), max(min(last, self.cells), 0))

        return span(y), span(x)

    def box(self, box: Box, grow: float = 0.0) -> tuple[tuple[slice, slice], NDArray]:
        """Window and mask of a rectangle, grown by ``grow`` metres on each side."""
        window = self.window(box.x, box.y, box.reach + 1.5 * grow)
        dx, dy = self.x[:, window[1]] - box.x, self.y[window[0]] - box.y
        cosine, sine = np.cos(box.angle), np.sin(box.angle)
        along = np.abs(dx * cosine + dy * sine) <= box.length / 2 + grow
        return window, along & (np.abs(dy * cosine - dx * sine) <= box.width / 2 + grow)

    def fill(self, box: Box, what: int) -> None:
        """Write a rectangle down."""
        window, mask = self.box(box)
        self.what[window][mask] = what

    def free(self, box: Box, on: tuple[int, ...], grow: float = 0.0) -> bool:
        """Whether a rectangle lies inside the plan and on nothing but ``on``."""
        if not self.holds(box.x, box.y):
            return False
        window, mask = self.box(box, grow)
        allowed = np.zeros(OBSTACLE + 1, dtype=bool)
        allowed[list(on)] = True
        return bool(mask.any() and allowed[self.what[window][mask]].all())

    def holds(self, x: float, y: float, reach: float = 0.0) -> bool:
        """Whether a circle of ``reach`` metres touches the plan."""
        low, high = -MARGIN_M - reach, float(self.x[0, -1]) + reach
        return low < x < high and low < y < high

    def share(self, what: tuple[int, ...]) -> float:
        """Share of the orthophoto that ``what`` covers, trees left out."""
        return float((np.isin(self.what, what) & ~self.crown)[self.seen, self.seen].mean())

    def visible(self, window: tuple[slice, slice], mask: NDArray) -> float:
        """Share of the orthophoto that a mask in a window covers."""
        rows = np.arange(self.cells)[window[0]][:, None]
        columns = np.arange(self.cells)[window[1]][None, :]
        end = self.cells - self.margin
        inside = (rows >= self.margin) & (rows < end) & (columns >= self.margin) & (columns < end)
        return float((mask & inside).sum()) / (end - self.margin) ** 2

    def some_lawn(self, rng: np.random.Generator) -> Iterator[tuple[float, float]]:
        """Random points on what was lawn at the first call, more than can be used."""
        rows, columns = np.nonzero(self.what == LAWN)
        for i in rng.integers(0, len(rows), size=2000 + len(rows) // 4 if len(rows) else 0):
            yield float(self.x[0, columns[i]]), float(self.y[rows[i], 0])
