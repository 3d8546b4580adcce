"""Memory stays under the stated bound for a raster of 30 000 columns, and does not grow with its height."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from mosaic_scenes import PLACE, random_image
from rasterio.transform import from_origin
from rasterio.windows import Window

from drdg.bench.machine import STATUS
from drdg.config import EvaluationConfig
from drdg.maps import blend
from drdg.maps.blend import read_resampled
from drdg.maps.inputs import Reading, Scene
from drdg.maps.mosaic import MOST_BYTES, Task, bound_bytes, layout_of
from drdg.maps.resample import Axis
from drdg.maps.windows import BAND_ROWS, COLUMNS, STRIP_COLS, Layout
from drdg.tiles.windows import Window as Crop

ROOT = Path(__file__).parents[2]
WIDTH = 30_000


def peak_and_bound(root: Path, height: int, width: int) -> tuple[float, float]:
    """Of a raster without values but for a square here and there."""
    path = root / f"{height}.tif"
    profile = {"driver": "GTiff", "count": 3, "dtype": "uint8", "nodata": 0, "SPARSE_OK": True, "tiled": True}
    with rasterio.open(path, "w", height=height, width=width, crs="EPSG:32632", transform=PLACE, **profile) as file:
        square = np.random.default_rng(0).integers(1, 255, (3, 64, 64), dtype=np.uint8)
        for row in range(0, height - 64, 300):
            for col in range(0, width - 64, 5900):
                file.write(square, window=Window(col, row, 64, 64))
    child = Path(__file__).with_name("mosaic_memory.py")
    command = [sys.executable, str(child), str(path), str(root / f"maps{height}")]
    # Of what is freed, glibc keeps more or less as it pleases; told so, it gives large blocks back at once.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(1 << 20)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout)
    return found["peak_mb"], found["bound_mb"]


@pytest.mark.skipif(not STATUS.is_file(), reason="this system does not say how much memory a process held")
def test_it_is_bounded_and_does_not_grow_with_height(tmp_path: Path) -> None:
    low, bound = peak_and_bound(tmp_path, 520, WIDTH)
    high, same = peak_and_bound(tmp_path, 1700, WIDTH)
    assert same == pytest.approx(bound, rel=0.02)
    # All sums of the raster at once would be 187 and 612 MB, and the image half as much again.
    assert low < bound
    assert high < bound
    assert high < 1.1 * low


class Wide:
    """As much of a network as a layout needs to know."""

    channels, device = 6, torch.device("cpu")

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        raise AssertionError("nothing is computed")


@pytest.mark.parametrize(("own_m", "seen_m"), [(0.01, 0.5), (0.5, 0.01), (0.05, 0.09), (0.1, None), (0.1, 0.1)])
def test_pieces_shrink_until_any_two_gsds_fit(tmp_path: Path, own_m: float, seen_m: float | None) -> None:
    path = tmp_path / "scene.tif"
    place = from_origin(5e5, 5e6, own_m, own_m)
    profile = {"driver": "GTiff", "count": 3, "dtype": "uint8", "SPARSE_OK": True, "crs": "EPSG:32632"}
    side = 60_000 if own_m < 0.5 else 3000
    with rasterio.open(path, "w", height=side, width=side, transform=place, **profile):
        pass
    with Scene(path, Reading()) as scene:
        layout = layout_of(scene, Task("map", Wide(), (), EvaluationConfig(), seen_m, {}))
    assert bound_bytes(layout, Wide.channels) <= MOST_BYTES
    ordinary = own_m == 0.05 or seen_m in (None, 0.1)
    assert ((layout.band_rows, layout.strip_cols, layout.columns) == (BAND_ROWS, STRIP_COLS, COLUMNS)) or not ordinary
    assert layout.work_width == (side if seen_m in (None, own_m) else round(side * own_m / seen_m))


def test_what_cannot_fit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "scene.tif"
    profile = {"driver": "GTiff", "count": 3, "dtype": "uint8", "SPARSE_OK": True, "crs": "EPSG:32632"}
    with rasterio.open(path, "w", height=60_000, width=60_000, transform=from_origin(5e5, 5e6, 0.01, 0.01), **profile):
        pass
    with (
        Scene(path, Reading()) as scene,
        pytest.raises(ValueError, match=r"scene\.tif: its GSD is 0\.01 m and the network's 50 m, .* GiB; give a --gsd"),
    ):
        layout_of(scene, Task("map", Wide(), (), EvaluationConfig(), 50, {}))


def test_much_is_read_in_parts_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    image = random_image(400, 300).transpose(1, 2, 0)
    valid = np.ones((400, 300), bool)
    valid[50:200, 30:200] = False

    class Raster:
        most = 0

        def __init__(self, mask: np.ndarray | None):
            self.mask = mask

        def read(self, window: Crop) -> tuple[np.ndarray, np.ndarray | None]:
            self.most = max(self.most, window.height * window.width)
            place = window.rows, window.cols
            return image[place], None if self.mask is None else self.mask[place]

    axes = Axis(400, 40), Axis(300, 30)
    for mask in (None, valid):
        whole, parts = Raster(mask), Raster(mask)
        expected = read_resampled(whole, axes, (3, 40), (2, 30))
        with monkeypatch.context() as patch:
            patch.setattr(blend, "OWN_PIXELS", 20_000)
            found = read_resampled(parts, axes, (3, 40), (2, 30))
        assert whole.most > 100_000
        assert parts.most < 30_000
        # But for the last bit of a share of pixels with values, by which a value may be rounded to its neighbour.
        np.testing.assert_allclose(found[0].astype(int), expected[0].astype(int), atol=int(mask is not None))
        np.testing.assert_array_equal(found[1] is None, expected[1] is None)
        if expected[1] is not None:
            np.testing.assert_array_equal(found[1], expected[1])


def test_the_bound_knows_neither_height_nor_width() -> None:
    def megabytes(height: int, width: int, work: float = 1.0) -> float:
        layout = Layout(height, width, round(height * work), round(width * work), 512, 256, 8)
        return bound_bytes(layout, 6) / 1e6

    small, large = megabytes(30_000, 30_000), megabytes(60_000, 60_000)
    assert large == pytest.approx(small, rel=0.05)
    assert large < 500
    assert megabytes(3000, 60_000, 1.7) < 700
    assert megabytes(3000, 60_000, 0.4) < 700
