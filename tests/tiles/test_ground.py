from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drdg.tiles import ground
from drdg.tiles.windows import Window


def test_houses_are_cut_off_and_hills_stay() -> None:
    rows, cols = np.mgrid[:300, :300].astype(np.float32)
    terrain = 50 + 0.05 * cols + 10 * np.exp(-((rows - 150) ** 2 + (cols - 150) ** 2) / (2 * 80.0**2))
    surface = terrain.copy()
    for row, col in [(40, 40), (140, 150), (200, 90), (250, 250)]:
        surface[row : row + 20, col : col + 30] += 12
    found = ground.open_ground(surface, 1.0)
    assert found.dtype == np.float32
    assert np.all(found <= surface)
    inside = (slice(40, 260), slice(40, 260))
    assert np.abs(found - terrain)[inside].max() < 2.5
    assert np.abs(found - terrain)[inside].mean() < 0.7


@given(st.integers(1, 7), st.data())
def test_a_crop_interpolates_as_the_whole(cell: int, data: st.DataObject) -> None:
    height, width = data.draw(st.integers(4, 60)), data.draw(st.integers(4, 60))
    row, col = data.draw(st.integers(0, height - 2)), data.draw(st.integers(0, width - 2))
    window = Window(row, col, data.draw(st.integers(1, height - row)), data.draw(st.integers(1, width - col)))
    cells = np.random.default_rng(0).normal(100, 9, (-(-height // cell), -(-width // cell))).astype(np.float32)
    whole = ground.upsample(ground.crop(cells, cell, Window(0, 0, height, width)), height, width)
    patch = ground.crop(cells, cell, window)
    part = ground.upsample(patch, window.height, window.width)
    assert part.dtype == np.float32
    assert patch.ground_m.shape[0] <= window.height // cell + 3
    assert np.allclose(part, whole[window.rows, window.cols], atol=1e-4)


def test_interpolation_is_exact_on_a_plane() -> None:
    """Between the first and the last cell's centre; beyond them it is constant."""
    cell, count = 4, 6
    centres = (np.arange(count) + 0.5) * cell
    cells = 2 * centres[:, None] + 3 * centres[None]
    pixels = np.arange(cell * count) + 0.5
    clipped = np.clip(pixels, centres[0], centres[-1])
    found = ground.upsample(ground.GroundPatch(cells, (cell / 2, cell / 2), cell), cell * count, cell * count)
    assert np.allclose(found, 2 * clipped[:, None] + 3 * clipped[None], atol=1e-4)


def survey(heights: np.ndarray, gsd: float, rows: int) -> ground.Surface:
    seen = ground.Survey(gsd)
    rows = max(1, rows // seen.cell_px) * seen.cell_px
    for start in range(0, len(heights), rows):
        seen.see(heights[start : start + rows])
    return seen.surface()


@pytest.mark.parametrize(("gsd", "cell"), [(0.05, 20), (0.3048, 3), (0.6096, 2), (2.0, 1)])
def test_a_survey_in_bands_is_that_of_the_whole(gsd: float, cell: int) -> None:
    heights = np.random.default_rng(0).uniform(80, 120, (131, 77)).astype(np.float32)
    whole, banded = survey(heights, gsd, 1000), survey(heights, gsd, 25)
    assert whole.cell_px == banded.cell_px == cell
    assert (whole.low_m, whole.high_m) == (heights.min(), heights.max()) == (banded.low_m, banded.high_m)
    assert whole.ground_m is not None
    assert whole.ground_m.shape == (-(-131 // cell), -(-77 // cell))
    assert np.array_equal(whole.ground_m, banded.ground_m)
    for row, col in [(0, 0), (1, 2), (whole.ground_m.shape[0] - 1, whole.ground_m.shape[1] - 1)]:
        block = heights[row * cell : (row + 1) * cell, col * cell : (col + 1) * cell]
        assert whole.ground_m[row, col] <= block.min()


@given(st.integers(1, 9), st.integers(1, 40), st.integers(1, 40))
def test_cells_hold_their_lowest_height(cell: int, height: int, width: int) -> None:
    heights = np.random.default_rng(0).normal(size=(height, width))
    found = ground._block_minima(heights, cell)
    assert found.tolist() == [
        [heights[row : row + cell, col : col + cell].min() for col in range(0, width, cell)]
        for row in range(0, height, cell)
    ]


def test_without_a_gsd_there_is_no_ground() -> None:
    seen = ground.Survey(None)
    seen.see(np.array([[1.0, 3.0]], np.float32))
    assert seen.surface() == ground.Surface(1.0, 3.0, None, 1)
