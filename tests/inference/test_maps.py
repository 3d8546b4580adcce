"""Class maps as another program reads them."""

from __future__ import annotations

import os

import numpy as np
import pytest
import rasterio
from rasterio.enums import ColorInterp

from drdg.datasets import VOID
from drdg.inference.maps import write_map

CLASSES = ("clutter", "road", "tree")
PALETTE = ((255, 0, 0), (255, 255, 255), (0, 255, 0))
PLACE = (0.09, 0.0, 497000.0, 0.0, -0.09, 5420000.0)


@pytest.mark.parametrize("shape", [(3, 5), (300, 517)])
def test_everything_written_is_read_back(tmp_path, shape):
    ids = np.random.default_rng(0).choice(np.array([0, 1, 2, VOID], np.uint8), shape)
    path = tmp_path / "maps" / "area1.tif"
    write_map(path, ids, CLASSES, PALETTE, crs="EPSG:32632", transform=PLACE)
    with rasterio.open(path) as file:
        np.testing.assert_array_equal(file.read(1), ids)
        assert file.crs.to_epsg() == 32632
        assert tuple(file.transform)[:6] == pytest.approx(PLACE)
        assert file.nodata == VOID
        assert file.dtypes == ("uint8",)
        assert file.colorinterp == (ColorInterp.palette,)
        colours = file.colormap(1)
        assert [colours[i][:3] for i in range(3)] == list(PALETTE)
        assert {file.tags()[f"class_{i}"] for i in range(3)} == set(CLASSES)
        assert file.profile["tiled"]
        assert file.compression.name == "deflate"
    assert [entry.name for entry in path.parent.iterdir()] == ["area1.tif"]


def test_a_top_without_place_gives_a_map_without_place(tmp_path):
    path = tmp_path / "map.tif"
    write_map(path, np.zeros((4, 4), np.uint8), CLASSES, PALETTE, crs=None, transform=(1, 0, 0, 0, 1, 0))
    with rasterio.open(path) as file:
        assert file.crs is None
        assert file.transform.is_identity


def test_a_writing_that_breaks_off_leaves_the_earlier_map_and_no_rest(tmp_path, monkeypatch):
    path = tmp_path / "map.tif"
    ids = np.ones((4, 4), np.uint8)
    write_map(path, ids, CLASSES, PALETTE, crs=None, transform=PLACE)

    def full_disk(_descriptor):
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_map(path, 0 * ids, CLASSES, PALETTE, crs=None, transform=PLACE)
    assert [entry.name for entry in tmp_path.iterdir()] == ["map.tif"]
    with rasterio.open(path) as file:
        np.testing.assert_array_equal(file.read(1), ids)
