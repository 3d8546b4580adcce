"""The picture of a map: what it says must be true, so the bar and the arrow are measured in the picture itself."""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image
from rasterio import Affine
from small_maps import AT_UTM, CLASSES, PALETTE, UTM, save_map, speckled

from drdg.maps import preview
from drdg.maps.looks import length_text, round_length
from drdg.maps.measures import north, pixel_m
from drdg.maps.preview import write_preview


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """What a preview says, by the calls that draw it: bar (metres, inches), arrow, legend, texts; and the picture."""

    def draw(ids, **place):
        said = {"texts": []}
        bar, arrow, legend = preview._scale_bar, preview._arrow, preview._legend

        def keep_bar(figure, left, bottom, inches_per_m, unit):
            said["bar"] = (inches_per_m, unit)
            bar(figure, left, bottom, inches_per_m, unit)
            said["texts"] += [text.get_text() for axes in figure.axes for text in axes.texts]

        monkeypatch.setattr(preview, "_scale_bar", keep_bar)

        def keep_arrow(*given):
            said["arrow"] = given[-2:]
            arrow(*given)

        def keep_legend(*given):
            said["legend"] = given[-1]
            legend(*given)

        monkeypatch.setattr(preview, "_arrow", keep_arrow)
        monkeypatch.setattr(preview, "_legend", keep_legend)
        path = save_map(tmp_path / "map.tif", ids, **place)
        out = write_preview(path, tmp_path / "map.png", CLASSES, PALETTE, title="A town & its <map>")
        monkeypatch.undo()
        return said, np.asarray(Image.open(out).convert("RGB"))

    return draw


def test_the_map_is_in_it_in_its_colours_and_shape(drawn):
    ids = np.zeros((400, 600), dtype=np.uint8)
    ids[:, 300:] = 3
    said, picture = drawn(ids)
    rows, cols = np.nonzero((picture == PALETTE[3]).all(-1))
    body = cols < picture.shape[1] * 0.62  # not the legend's
    height, width = np.ptp(rows[body]) + 1, np.ptp(cols[body]) + 1
    assert height / width == pytest.approx(400 / 300, rel=0.02)
    assert [name for name, _ in said["legend"]] == list(CLASSES)
    # 600 pixels of half a metre are as wide as both halves.
    inches_per_m, unit = said["bar"]
    assert unit == "m"
    assert inches_per_m * 300 * preview.DPI == pytest.approx(2 * width, rel=0.02)
    assert "paved road" in said["texts"]


def test_nodata_has_a_line_of_its_own(drawn):
    ids = speckled(64, 64)
    ids[:20] = 255
    said, picture = drawn(ids)
    assert said["legend"][-1] == (preview.NO_DATA, preview.VOID_COLOUR)
    assert (picture == preview.VOID_COLOUR).all(-1).any()


@pytest.mark.parametrize(
    ("crs", "transform", "width_m"),
    [
        (UTM, AT_UTM, 0.5),
        ("EPSG:3089", Affine(2, 0, 5.2e6, 0, -2, 3.9e6), 0.6096012),  # Kentucky, in US feet
        ("EPSG:4326", Affine(1e-5, 0, 8.0, 0, -1e-5, 60.0), 0.55800),  # cos(60) of a degree's 111 km
        ("EPSG:3857", Affine(1, 0, 1e6, 0, -1, 8399737.89), 0.5013),
        (None, AT_UTM, 0.5),
    ],
)
def test_the_bar_is_in_metres_whatever_the_map_counts_in(drawn, crs, transform, width_m):
    ids = speckled(200, 200)
    assert pixel_m(None if crs is None else _crs(crs), transform, 200, 200)[0] == pytest.approx(width_m, rel=1e-3)
    said, _ = drawn(ids, crs=crs, transform=transform)
    inches_per_m, unit = said["bar"]
    frame = 800 / preview.DPI  # inches of the longer side; degrees at 60 north are half as wide as high
    high = pixel_m(None if crs is None else _crs(crs), transform, 200, 200)[1] / width_m
    assert (inches_per_m * width_m * 200, unit) == (pytest.approx(frame / max(1, high), rel=2e-3), "m")


def _crs(name):
    from rasterio.crs import CRS

    return CRS.from_user_input(name)


def test_a_map_without_a_place_has_a_bar_of_pixels_and_no_arrow(drawn):
    said, _ = drawn(speckled(100, 400), crs=None, transform=Affine.identity())
    assert said["bar"][1] == "px"
    assert "arrow" not in said


def test_north_is_up_where_it_is_and_not_where_the_map_is_turned():
    up = north(_crs(UTM), AT_UTM, 100, 100)
    assert up == (pytest.approx(0, abs=0.03), pytest.approx(-1, abs=1e-3))
    # Turned by 90 degrees: rows go east, columns north, so north is to the right.
    turned = Affine(0, 0.5, 5e5, 0.5, 0, 5e6)
    assert north(_crs(UTM), turned, 100, 100) == (pytest.approx(1, abs=1e-3), pytest.approx(0, abs=0.03))
    # Kentucky's system has its middle at 85.75 west; at 89 west its grid is turned by 3.25 * sin(36.34) = 2 degrees.
    right, down = north(_crs("EPSG:3089"), Affine(2, 0, 3.98e6, 0, -2, 3.7e6), 100, 100)
    assert math.degrees(math.atan2(right, -down)) == pytest.approx(2.0, abs=0.3)
    assert north(None, AT_UTM, 10, 10) == (pytest.approx(0), pytest.approx(-1))


def test_round_lengths():
    assert [round_length(value) for value in (1, 1.99, 2, 4.99, 5, 9.9, 10, 0.37, 730)] == [
        *(1, 1, 2, 2, 5, 5, 10, 0.2, 500)
    ]
    assert [length_text(value) for value in (0.05, 2, 500, 2000)] == ["5 cm", "2 m", "500 m", "2 km"]


def test_a_large_map_is_read_by_its_overviews(tmp_path, monkeypatch):
    import rasterio

    path = save_map(tmp_path / "map.tif", np.zeros((4000, 3000), dtype=np.uint8))
    with rasterio.open(path, "r+") as file:
        file.build_overviews([2, 4])
        file.write(np.full((4000, 3000), 1, dtype=np.uint8), 1)  # the overviews still say 0
    picture = np.asarray(
        Image.open(write_preview(path, tmp_path / "map.png", CLASSES, PALETTE, title="")).convert("RGB")
    )
    shown = picture[: picture.shape[0] * 3 // 4, : picture.shape[1] // 2]
    assert (shown == PALETTE[0]).all(-1).any()
    assert not (shown == PALETTE[1]).all(-1).any()


def test_what_is_no_map_is_refused(tmp_path):
    path = save_map(tmp_path / "image.tif", np.zeros((3, 8, 8), dtype=np.uint8))
    with pytest.raises(ValueError, match="has 3 bands of uint8, but a class map"):
        write_preview(path, tmp_path / "map.png", CLASSES, PALETTE, title="")
    assert not (tmp_path / "map.png").exists()
