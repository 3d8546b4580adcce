from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from affine import Affine

from drdg.datasets import VOID, Archive, Top
from drdg.tiles.raster import TopReader
from drdg.tiles.windows import Window

SHAPE = (60, 80)
RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (*SHAPE, 4), dtype=np.uint8)
DSM = RNG.uniform(200, 240, SHAPE).astype(np.float32)
LABEL = RNG.choice(np.array([0, 255], np.uint8), (*SHAPE, 1)).repeat(3, axis=2)
WINDOW = Window(10, 20, 30, 40)
WHOLE = Window(0, 0, *SHAPE)


class Files:
    """One TOP on disk, of which a test changes one thing."""

    def __init__(self, folder: Path, write: Callable[..., None]) -> None:
        self.folder, self.write = folder, write
        self.top = Top("1", folder / "top.tif", folder / "dsm.tif", folder / "label.tif")
        self.archive = Archive("town", (self.top,), (1, 2, 3), ("all",), ((255, 255, 255),))
        self.put("top", IMAGE)
        self.put("dsm", DSM)
        self.put("label", LABEL)

    def put(self, name: str, array: np.ndarray, **options: Any) -> Path:
        self.write(self.folder / f"{name}.tif", array, **options)
        return self.folder / f"{name}.tif"

    def open(self) -> TopReader:
        return TopReader(self.archive, self.top)

    def read_all(self) -> None:
        with self.open() as reader:
            reader.read_image(WHOLE)
            reader.read_dsm(WHOLE)
            reader.read_label(WHOLE)

    def refused(self, *words: str) -> None:
        """Opening and reading everything ends with one sentence that has all ``words``."""
        with pytest.raises(ValueError) as caught:
            self.read_all()
        message = str(caught.value)
        assert "\n" not in message
        for word in words:
            assert word in message, message


@pytest.fixture
def files(tmp_path: Path, write_tiff: Callable[..., None]) -> Files:
    return Files(tmp_path, write_tiff)


def test_windows_are_what_was_written(files: Files) -> None:
    with files.open() as reader:
        assert (reader.height, reader.width, reader.has_dsm, reader.has_label) == (*SHAPE, True, True)
        image, dsm, label = reader.read_image(WINDOW), reader.read_dsm(WINDOW), reader.read_label(WINDOW)
    inside = (WINDOW.rows, WINDOW.cols)
    assert np.array_equal(image, IMAGE[inside][..., :3])
    assert np.array_equal(dsm, DSM[inside])
    assert np.array_equal(label, np.where(LABEL[inside][..., 0] == 255, 0, VOID))
    assert (image.dtype, dsm.dtype, label.dtype) == (np.uint8, np.float32, np.uint8)


def test_bands_come_in_the_archives_order(files: Files) -> None:
    files.archive = replace(files.archive, bands=(4, 1, 2))
    with files.open() as reader:
        assert np.array_equal(reader.read_image(WHOLE), IMAGE[..., [3, 0, 1]])


def test_an_integer_dsm_becomes_metres(files: Files) -> None:
    files.put("dsm", DSM.astype(np.int16))
    with files.open() as reader:
        assert np.array_equal(reader.read_dsm(WHOLE), DSM.astype(np.int16).astype(np.float32))


def test_row_bands_cover_every_row_once(files: Files) -> None:
    with files.open() as reader:
        rows = [row for band in reader.row_bands(17) for row in range(band.rows.start, band.rows.stop)]
    assert rows == list(range(SHAPE[0]))


def test_a_top_may_have_neither_dsm_nor_label(files: Files) -> None:
    files.top = Top("1", files.top.image)
    with files.open() as reader:
        assert (reader.has_dsm, reader.has_label) == (False, False)


def test_a_narrow_dsm_is_repeated_only_where_that_is_known(files: Files) -> None:
    files.put("dsm", DSM[:, :-1])
    files.refused("dsm.tif", "60 x 79", "60 x 80", "gdalwarp")
    files.top = replace(files.top, dsm_repeat_last_column=True)
    with files.open() as reader:
        assert np.array_equal(reader.read_dsm(WHOLE)[:, -2:], DSM[:, [-2, -2]])
        assert np.array_equal(reader.read_dsm(WINDOW), DSM[WINDOW.rows, WINDOW.cols])
        for window in (Window(0, 40, 60, 40), Window(5, 79, 10, 1)):
            assert np.array_equal(
                reader.read_dsm(window), np.pad(DSM[:, :-1], ((0, 0), (0, 1)), "edge")[window.rows, window.cols]
            )
    files.put("dsm", DSM[:, :-2])
    files.refused("dsm.tif", "60 x 78")


# ------------------------------------------------------------------------------------------------------- georeference


def test_the_georeference_is_read(files: Files) -> None:
    files.put("top", IMAGE, crs="EPSG:25832", transform=Affine(0.05, 0, 1000, 0, -0.05, 2000))
    with files.open() as reader:
        assert reader.gsd_m == pytest.approx(0.05)
        assert reader.crs == "EPSG:25832"
        assert reader.transform == (0.05, 0, 1000, 0, -0.05, 2000)


@pytest.mark.parametrize(("crs", "metres"), [("EPSG:2992", 0.3048), ("EPSG:3089", 1200 / 3937), (None, 1.0)])
def test_feet_become_metres(files: Files, crs: str | None, metres: float) -> None:
    files.put("top", IMAGE, crs=crs, transform=Affine(2, 0, 1000, 0, -2, 2000))
    with files.open() as reader:
        assert reader.gsd_m == pytest.approx(2 * metres, rel=1e-9)


def test_a_local_grid_without_unit_is_in_metres(files: Files) -> None:
    files.put("top", IMAGE, crs='LOCAL_CS["site grid"]', transform=Affine(0.1, 0, 0, 0, -0.1, 9))
    with files.open() as reader:
        assert reader.gsd_m == pytest.approx(0.1)


def test_a_world_file_is_read(files: Files, tmp_path: Path) -> None:
    files.put("top", IMAGE, transform=None)
    (tmp_path / "top.tfw").write_text("0.09\n0\n0\n-0.09\n500.045\n899.955\n")
    with files.open() as reader:
        assert reader.gsd_m == pytest.approx(0.09)
        assert reader.transform == pytest.approx((0.09, 0, 500, 0, -0.09, 900))
        assert reader.crs is None


def test_without_georeference_the_gsd_is_unknown(files: Files) -> None:
    files.put("top", IMAGE, transform=None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with files.open() as reader:
            assert (reader.gsd_m, reader.crs) == (None, None)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"transform": Affine.rotation(10) @ Affine(1, 0, 0, 0, -1, 0)}, ["rotated", "gdalwarp"]),
        ({"transform": Affine(1, 0, 0, 0, 1, 5)}, ["flipped", "gdalwarp"]),
        ({"transform": Affine(1, 0, 0, 0, -1.5, 0)}, ["1 x 1.5", "not square", "gdalwarp -tr"]),
        ({"crs": "EPSG:4326"}, ["degrees", "gdalwarp -t_srs"]),
    ],
)
def test_a_georeference_of_no_use_is_refused(files: Files, options: dict[str, Any], words: list[str]) -> None:
    files.put("top", IMAGE, **options)
    files.refused("top.tif", *words)


# --------------------------------------------------------------------------------------------------------- bad files


@pytest.mark.parametrize("name", ["top", "dsm", "label"])
def test_a_missing_file_is_named(files: Files, name: str) -> None:
    (files.folder / f"{name}.tif").unlink()
    files.refused(f"{name}.tif", "no such file")


@pytest.mark.parametrize("name", ["top", "dsm", "label"])
def test_a_file_that_is_no_raster_is_named(files: Files, name: str) -> None:
    (files.folder / f"{name}.tif").write_bytes(b"this is not a TIFF")
    files.refused(f"{name}.tif", "damaged", "download it again")


@pytest.mark.parametrize(
    "options", [{}, {"compress": "deflate"}, {"compress": "lzw", "tiled": True, "blockxsize": 16, "blockysize": 16}]
)
@pytest.mark.parametrize("share", [0.02, 0.5, 0.95])
@pytest.mark.parametrize("name", ["top", "dsm", "label"])
def test_a_file_cut_short_is_named(files: Files, name: str, share: float, options: dict[str, Any]) -> None:
    path = files.put(name, {"top": IMAGE, "dsm": DSM, "label": LABEL}[name], **options)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    files.refused(f"{name}.tif", "cannot be read", "damaged or cut short")


@pytest.mark.parametrize(("name", "array"), [("dsm", DSM[1:]), ("label", LABEL[:, 1:]), ("dsm", np.pad(DSM, 1))])
def test_another_size_than_the_top_is_refused(files: Files, name: str, array: np.ndarray) -> None:
    files.put(name, array)
    files.refused(f"{name}.tif", "top.tif", f"{array.shape[0]} x {array.shape[1]}", "60 x 80", "gdalwarp")


def test_too_few_bands_are_refused(files: Files) -> None:
    files.put("top", IMAGE[..., :2])
    files.refused("top.tif", "has 2 bands but band 3", "'bands'")


@pytest.mark.parametrize(("name", "array"), [("top", IMAGE), ("label", LABEL)])
def test_other_types_than_uint8_are_refused(files: Files, name: str, array: np.ndarray) -> None:
    files.put(name, array.astype(np.uint16))
    files.refused(f"{name}.tif", "uint16", "gdal_translate")


@pytest.mark.parametrize(
    ("gap", "options"),
    [(np.nan, {}), (np.inf, {}), (-9999, {}), (3e38, {}), (210, {"nodata": 210}), (np.nan, {"nodata": np.nan})],
)
def test_gaps_in_a_dsm_are_counted(files: Files, gap: float, options: dict[str, Any]) -> None:
    heights = DSM.copy()
    heights[12, 30:33] = gap
    files.put("dsm", heights, **options)
    files.refused("dsm.tif", "3 pixels", "rows 0-59, columns 0-79", "gdal_fillnodata")
    with files.open() as reader:
        assert reader.read_dsm(Window(20, 20, 20, 20)).shape == (20, 20)


def test_an_unknown_label_colour_is_refused(files: Files) -> None:
    files.put("label", np.full_like(LABEL, 77))
    files.refused("label.tif", "77")
