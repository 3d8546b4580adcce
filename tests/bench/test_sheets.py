"""Sheets: the pixels that were asked for, in files like Potsdam's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from tiny_bench import TINY

from drdg.bench.sheets import Pixels, domain_of, files_of, layer_paths, photographed, write_sheets
from drdg.config import Config
from drdg.datasets import VOID, open_archive
from drdg.tiles.raster import TopReader
from drdg.tiles.windows import Window

WHOLE = Window(0, 0, TINY.side, TINY.side)


def test_sheets_are_an_archive_of_potsdam(sheets: Path) -> None:
    archive = open_archive(domain_of(sheets / "all", TINY.tile, TINY.stride).archive)
    assert [top.id for top in archive.tops] == ["2_10", "2_11", "2_12"]
    for top in archive.split("all", need_label=True):
        with TopReader(archive, top) as reader:
            assert (reader.height, reader.width) == (TINY.side, TINY.side)
            assert reader.has_dsm
            assert reader.gsd_m == pytest.approx(0.05)
    assert len(files_of(archive)) == 9
    assert all(path.is_file() for path in files_of(archive))


def test_the_files_have_the_form_of_the_delivered_ones(sheets: Path) -> None:
    image, dsm, label = layer_paths(sheets / "all", "2_10")
    for path, dtype, bands, compression in (
        (image, "uint8", 3, None),
        (dsm, "float32", 1, None),
        (label, "uint8", 3, "lzw"),
    ):
        with rasterio.open(path) as file:
            assert file.dtypes[0] == dtype
            assert file.count == bands
            assert file.profile.get("compress") == compression
            assert file.profile.get("tiled") is not True
            assert file.block_shapes[0][1] == TINY.side  # strips
            assert bands == 1 or file.profile["interleave"] == "pixel"


def test_a_sheet_is_its_place_mirrored(sheets: Path, place: Pixels) -> None:
    archive = open_archive(domain_of(sheets / "one", TINY.tile, TINY.stride).archive)
    with TopReader(archive, archive.tops[0]) as reader:
        image, dsm, label = reader.read_image(WHOLE), reader.read_dsm(WHOLE), reader.read_label(WHOLE)
    side = len(place.dsm_m)
    assert side == TINY.side // 2
    for sheet, layer in ((image, place.image), (dsm, place.dsm_m), (label, place.label)):
        assert np.array_equal(sheet[:side, :side], layer)
        assert np.array_equal(sheet[side:, :side], layer[::-1])
        assert np.array_equal(sheet[:side, side:], layer[:, ::-1])


def test_no_two_sheets_are_alike(sheets: Path) -> None:
    archive = open_archive(domain_of(sheets / "all", TINY.tile, TINY.stride).archive)
    images = []
    for top in archive.tops:
        with TopReader(archive, top) as reader:
            images.append(reader.read_image(WHOLE).tobytes())
    assert len(set(images)) == TINY.tops


def test_pixels_of_real_tops_are_taken_as_they_are(small: Callable[..., Config], tmp_path: Path) -> None:
    domain = small().source
    places = photographed(domain, 2)
    assert len(places) == 2
    write_sheets(tmp_path, 3, 320, places)
    read = []
    archive = open_archive(domain_of(tmp_path, 128, 128).archive)
    for top in archive.tops:
        with TopReader(archive, top) as reader:
            read.append((reader.read_image(WHOLE), reader.read_dsm(WHOLE), reader.read_label(WHOLE)))
    for place, (image, dsm, label) in zip(places, read, strict=False):
        assert np.array_equal(image, place.image)
        assert np.array_equal(dsm, place.dsm_m)
        assert np.array_equal(label, place.label)
    assert not np.array_equal(read[2][0], read[0][0])  # the first place again, cut elsewhere


def test_void_stays_void(tmp_path: Path) -> None:
    label = np.full((128, 128), VOID, np.uint8)
    label[:64] = 3
    place = Pixels(np.zeros((128, 128, 3), np.uint8), np.zeros((128, 128), np.float32), label)
    write_sheets(tmp_path, 1, 128, [place])
    archive = open_archive(domain_of(tmp_path, 128, 128).archive)
    with TopReader(archive, archive.tops[0]) as reader:
        assert np.array_equal(reader.read_label(Window(0, 0, 128, 128)), label)


def test_an_archive_without_heights_is_named(small: Callable[..., Config]) -> None:
    with pytest.raises(ValueError, match="archive here has no DSM, which the bench reads"):
        photographed(small("source.archive.dsm=null").source, 1)
