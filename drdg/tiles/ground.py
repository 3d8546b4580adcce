"""Station 2, ground: a coarse ground surface under one TOP's DSM, for the DSM rule ``height_above_ground``.

The ground is the grey-scale morphological opening of the lowest heights in cells of about 1 m: what is narrower than
the opening's window and stands above its surroundings (houses, trees, cars) is cut off at its foot. It is kept
at the cells' resolution with each sample and interpolated when read.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from drdg.tiles.windows import Window

CELL_M = 1.0
# Wider than town houses (10-30 m) and most halls; hills are wider still and stay.
OPENING_M = 60.0
# Takes the steps out of the opening without carrying ground under a wall's far side.
SMOOTHING_M = 5.0


@dataclass(frozen=True)
class Surface:
    """What one pass over a TOP's DSM finds: range in metres, and the ground, float32 (rows, cols) of cells, or None
    where the GSD is unknown.
    """

    low_m: float
    high_m: float
    ground_m: np.ndarray | None
    cell_px: int


@dataclass(frozen=True)
class GroundPatch:
    """The cells around one window. ``origin_px``: place of the first cell's centre in the window's pixels."""

    ground_m: np.ndarray
    origin_px: tuple[float, float]
    cell_px: int


class Survey:
    """What is found of a TOP's heights while they pass by, a band of rows after the other.

    Bands but the last have a multiple of ``cell_px`` rows. ``gsd_m``: metres per pixel, None when unknown.
    """

    def __init__(self, gsd_m: float | None) -> None:
        self.gsd_m = gsd_m
        self.cell_px = max(1, round(CELL_M / gsd_m)) if gsd_m else 1
        self._low, self._high = np.inf, -np.inf
        self._minima: list[np.ndarray] = []

    def see(self, heights: np.ndarray) -> None:
        """Take note of the next band, float32 (rows, width) metres."""
        self._low, self._high = min(self._low, float(heights.min())), max(self._high, float(heights.max()))
        if self.gsd_m:
            self._minima.append(_block_minima(heights, self.cell_px))

    def surface(self) -> Surface:
        """What the bands seen amount to."""
        ground = open_ground(np.concatenate(self._minima), self.cell_px * self.gsd_m) if self.gsd_m else None
        return Surface(self._low, self._high, ground, self.cell_px)


def _block_minima(heights: np.ndarray, cell: int) -> np.ndarray:
    whole = heights.shape[0] // cell * cell
    # Many times as fast as reduceat along the rows, which is left with what the last cells have.
    rows = heights[:whole].reshape(-1, cell, heights.shape[1]).min(axis=1)
    if whole < heights.shape[0]:
        rows = np.concatenate([rows, heights[whole:].min(axis=0)[None]])
    return np.minimum.reduceat(rows, np.arange(0, heights.shape[1], cell), axis=1)


def open_ground(minima: np.ndarray, cell_m: float) -> np.ndarray:
    """Ground under cells of ``cell_m`` metres: float32 (rows, cols) of lowest heights to the same of ground heights."""
    from scipy import ndimage  # a quarter of a second that --help and --dry-run need not wait for

    size = tuple(min(2 * round(OPENING_M / cell_m / 2) + 1, length) for length in minima.shape)
    opened = ndimage.grey_opening(minima.astype(np.float32), size=size, mode="nearest")
    smooth = ndimage.gaussian_filter(opened, SMOOTHING_M / cell_m, mode="nearest")
    return np.minimum(smooth, minima)


def crop(ground_m: np.ndarray, cell_px: int, window: Window) -> GroundPatch:
    """The cells that the interpolation inside ``window`` needs."""
    rows = _cells(window.row, window.height, cell_px, ground_m.shape[0])
    cols = _cells(window.col, window.width, cell_px, ground_m.shape[1])
    origin = ((rows.start + 0.5) * cell_px - window.row, (cols.start + 0.5) * cell_px - window.col)
    return GroundPatch(ground_m[rows, cols], origin, cell_px)


def _cells(start: int, length: int, cell: int, count: int) -> slice:
    first = int(np.floor((start + 0.5) / cell - 0.5))
    last = int(np.floor((start + length - 0.5) / cell - 0.5)) + 1
    return slice(max(0, first), min(count - 1, last) + 1)


def upsample(patch: GroundPatch, height: int, width: int) -> np.ndarray:
    """Ground under each pixel, float32 (height, width): bilinear between cell centres, constant beyond them."""
    row, row_share = _weights(height, patch.origin_px[0], patch.cell_px, patch.ground_m.shape[0])
    col, col_share = _weights(width, patch.origin_px[1], patch.cell_px, patch.ground_m.shape[1])
    cells = patch.ground_m.astype(np.float32, copy=False)
    after_row = np.minimum(row + 1, cells.shape[0] - 1)
    after_col = np.minimum(col + 1, cells.shape[1] - 1)
    # Columns first: that is few rows of cells, and what remains is a mix of whole rows.
    wide = cells[:, col] + (cells[:, after_col] - cells[:, col]) * col_share
    pixels = (wide[after_row] - wide[row]) * row_share[:, None]
    pixels += wide[row]
    return pixels


def _weights(length: int, origin: float, cell: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """For each pixel centre the cell before it and the share of the cell after it."""
    place = np.clip((np.arange(length) + 0.5 - origin) / cell, 0, count - 1)
    before = np.floor(place).astype(np.intp)
    return before, (place - before).astype(np.float32)
