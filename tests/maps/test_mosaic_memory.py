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
from mosaic_scenes import PLACE
from rasterio.windows import Window

from drdg.bench.machine import STATUS
from drdg.maps.mosaic import bound_bytes
from drdg.maps.windows import Layout

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


def test_the_bound_knows_neither_height_nor_width() -> None:
    def megabytes(height: int, width: int, work: float = 1.0) -> float:
        layout = Layout(height, width, round(height * work), round(width * work), 512, 256, 8)
        return bound_bytes(layout, 6) / 1e6

    small, large = megabytes(30_000, 30_000), megabytes(60_000, 60_000)
    assert large == pytest.approx(small, rel=0.05)
    assert large < 500
    assert megabytes(3000, 60_000, 1.7) < 700
    assert megabytes(3000, 60_000, 0.4) < 700
