"""Station 2, windows: the grid of tiles over one TOP (paper, section III-A: clipped to 896 and 512 pixels)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, order=True)
class Window:
    """A rectangle of pixels: its upper left corner and its size."""

    row: int
    col: int
    height: int
    width: int

    @property
    def rows(self) -> slice:
        """The rows it covers, as a slice."""
        return slice(self.row, self.row + self.height)

    @property
    def cols(self) -> slice:
        """The columns it covers, as a slice."""
        return slice(self.col, self.col + self.width)

    def __str__(self) -> str:
        return f"rows {self.row}-{self.rows.stop - 1}, columns {self.col}-{self.cols.stop - 1}"


def transform_of(window: Window, transform: tuple[float, ...]) -> tuple[float, ...]:
    """The ``transform`` of a window's pixels, from that of the raster it is in.

    A transform is six numbers a, b, c, d, e, f of x = a col + b row + c, y = d col + e row + f.
    """
    a, b, c, d, e, f = transform
    return (a, b, a * window.col + b * window.row + c, d, e, d * window.col + e * window.row + f)


def grid(height: int, width: int, tile: int, stride: int, edge: Literal["drop", "shift"]) -> list[Window]:
    """Square windows of side ``tile`` over ``height`` x ``width`` pixels, row by row; empty when none fits.

    ``edge="drop"`` leaves out the remainder at the right and lower edge, ``"shift"`` adds a last window moved inwards,
    so that every pixel is in a window as long as ``stride <= tile``.
    """
    return [
        Window(row, col, tile, tile)
        for row in starts(height, tile, stride, edge)
        for col in starts(width, tile, stride, edge)
    ]


def starts(length: int, tile: int, stride: int, edge: Literal["drop", "shift"]) -> list[int]:
    """Where the windows of :func:`grid` begin along a side of ``length`` pixels."""
    places = list(range(0, length - tile + 1, stride))
    if edge == "shift" and places and places[-1] + tile < length:
        places.append(length - tile)
    return places
