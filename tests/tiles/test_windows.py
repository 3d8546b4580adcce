from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drdg.tiles.windows import Window, grid, transform_of

SIDES = st.integers(1, 90)
EDGES = st.sampled_from(["drop", "shift"])


@pytest.mark.parametrize(("tile", "stride", "count"), [(896, 896, 36), (512, 512, 121), (512, 256, 22 * 22)])
def test_a_potsdam_top_gives_the_fields_number_of_tiles(tile: int, stride: int, count: int) -> None:
    assert len(grid(6000, 6000, tile, stride, "drop")) == count


@given(SIDES, SIDES, st.integers(1, 40), st.integers(1, 50), EDGES)
def test_windows_lie_inside_and_are_unique(height: int, width: int, tile: int, stride: int, edge: str) -> None:
    windows = grid(height, width, tile, stride, edge)
    assert len(set(windows)) == len(windows)
    assert windows == sorted(windows)
    assert bool(windows) == (tile <= min(height, width))
    for window in windows:
        assert 0 <= window.row < window.rows.stop <= height
        assert 0 <= window.col < window.cols.stop <= width
        assert (window.height, window.width) == (tile, tile)


@given(st.integers(8, 90), st.integers(8, 90), st.integers(1, 8), st.data())
def test_shift_covers_every_pixel(height: int, width: int, tile: int, data: st.DataObject) -> None:
    stride = data.draw(st.integers(1, tile))
    seen = np.zeros((height, width), bool)
    for window in grid(height, width, tile, stride, "shift"):
        seen[window.rows, window.cols] = True
    assert seen.all()


@given(st.integers(8, 90), st.integers(8, 90), st.integers(1, 8), st.integers(1, 20))
def test_drop_is_shift_without_the_remainder(height: int, width: int, tile: int, stride: int) -> None:
    dropped = set(grid(height, width, tile, stride, "drop"))
    assert dropped == {w for w in grid(height, width, tile, stride, "shift") if not (w.row % stride or w.col % stride)}


def test_a_window_names_its_pixels() -> None:
    assert str(Window(512, 0, 256, 128)) == "rows 512-767, columns 0-127"


def test_a_window_has_its_own_transform() -> None:
    window = Window(10, 20, 5, 5)
    assert transform_of(window, (0.05, 0, 1000, 0, -0.05, 2000)) == pytest.approx((0.05, 0, 1001, 0, -0.05, 1999.5))
    assert transform_of(window, (1, 2, 3, 4, 5, 6)) == (1, 2, 43, 4, 5, 136)
