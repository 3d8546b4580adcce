"""What can be read is read, and what cannot is refused in one sentence that names the file and the cure."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest
import rasterio.shutil
from mosaic_scenes import random_image, write_scene
from rasterio.enums import ColorInterp
from rasterio.transform import Affine, from_origin

from drdg.maps.inputs import Reading, Scene, find_inputs, height_range
from drdg.maps.ours import sources_of
from drdg.maps.request import Request
from drdg.tiles.windows import Window

IMAGE = random_image(60, 80, bands=4)
PLAIN = Reading()


def read_whole(path: Path, reading: Reading = PLAIN) -> tuple[np.ndarray, np.ndarray | None]:
    with Scene(path, reading) as scene:
        return scene.read(Window(0, 0, scene.height, scene.width))


def test_files_folders_and_patterns_give_each_raster_once(tmp_path: Path) -> None:
    for name in ("b.tif", "a.TIFF", "[c].vrt", "notes.txt", ".hidden.tif"):
        (tmp_path / name).write_text("x")
    names = [str(tmp_path / "b.tif"), str(tmp_path), str(tmp_path / "[[]c*"), str(tmp_path / "*.tif")]
    assert [path.name for path in find_inputs(names)] == ["b.tif", "[c].vrt", "a.TIFF"]
    assert find_inputs([str(tmp_path / "[c].vrt")]) == [tmp_path / "[c].vrt"]
    with pytest.raises(ValueError, match=r"nothing\.tif: no such file, and no file matches it; correct --input"):
        find_inputs([str(tmp_path / "nothing.tif")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty: no raster \(.*\) is in this folder; name the files"):
        find_inputs([str(tmp_path / "empty")])


def test_bands_come_in_the_order_that_is_asked_for(tmp_path: Path) -> None:
    path = write_scene(tmp_path / "a.tif", IMAGE)
    image, valid = read_whole(path, Reading((4, 1, 2)))
    assert valid is None
    np.testing.assert_array_equal(image, IMAGE[[3, 0, 1]].transpose(1, 2, 0))
    with Scene(path, Reading()) as scene:
        part, _ = scene.read(Window(5, 7, 20, 30))
        assert scene.gsd_m == pytest.approx((0.1, 0.1))
    np.testing.assert_array_equal(part, IMAGE[:3, 5:25, 7:37].transpose(1, 2, 0))


@pytest.mark.parametrize("kind", ["uint16", "int16", "float32"])
def test_more_than_eight_bits_are_scaled_as_is_said(tmp_path: Path, kind: str) -> None:
    values = np.array([[[-50, 0, 100, 3000, 6100, 20000]]] * 3).clip(0 if kind == "uint16" else -50).astype(kind)
    image, _ = read_whole(write_scene(tmp_path / "a.tif", values), Reading(low_high=(100, 6100)))
    assert image[0, :, 0].tolist() == [0, 0, 0, 123, 255, 255]  # 2900 / 6000 of 255 is 123.25


@pytest.mark.parametrize("driver", ["VRT", "COG"])
def test_other_drivers_give_the_same_pixels(tmp_path: Path, driver: str) -> None:
    path = write_scene(tmp_path / "a.tif", IMAGE)
    other = tmp_path / f"other.{'vrt' if driver == 'VRT' else 'tif'}"
    rasterio.shutil.copy(path, other, driver=driver)
    np.testing.assert_array_equal(read_whole(other)[0], read_whole(path)[0])
    with Scene(other, Reading()) as scene:
        content = scene.content()
    assert len(content) == 1 + (driver == "VRT")
    other.with_name(f"{other.name}.aux.xml").write_text("<PAMDataset/>")  # as a GIS leaves it that shows the raster
    with Scene(other, PLAIN) as scene:
        assert scene.content() == content


def test_pixels_without_a_value_are_known_and_black(tmp_path: Path) -> None:
    holed = IMAGE[:3].copy()
    holed[:, :10] = 7
    image, valid = read_whole(write_scene(tmp_path / "nodata.tif", holed, nodata=7))
    assert valid is not None
    np.testing.assert_array_equal(valid, ~(holed == 7).all(0))
    assert not image[:10].any()
    alpha = np.concatenate((IMAGE[:3], np.full((1, 60, 80), 255, np.uint8)))
    alpha[3, :, 40:] = 0
    _, valid = read_whole(write_scene(tmp_path / "alpha.tif", alpha, photometric="RGB", ALPHA="YES"))
    assert valid is not None
    assert valid[:, :40].all()
    assert not valid[:, 40:].any()
    floats = IMAGE[:3].astype(np.float32)
    floats[1, 3, 4] = np.nan
    image, valid = read_whole(write_scene(tmp_path / "nan.tif", floats), Reading(low_high=(0, 255)))
    assert valid is not None
    assert np.argwhere(~valid).tolist() == [[3, 4]]
    np.testing.assert_array_equal(image[valid], IMAGE[:3].transpose(1, 2, 0)[valid])


@pytest.mark.parametrize(
    ("crs", "transform", "expected"),
    [
        ("EPSG:2914", from_origin(0, 0, 2, 3), (3 * 0.3048, 2 * 0.3048)),  # international feet
        ("EPSG:4326", from_origin(9, 60.0003, 1e-5, 1e-5), (1.1141, 0.5580)),  # a degree at 60 north: 111.41, 55.80 km
        (None, from_origin(0, 0, 2, 2), (2, 2)),
        (
            "EPSG:3857",
            from_origin(1e6, 8399737.9, 0.1, 0.1),
            (0.05004, 0.05013),
        ),  # Mercator doubles lengths at 60 north
    ],
)
def test_the_gsd_is_in_metres_whatever_the_crs(
    tmp_path: Path, crs: str | None, transform: Affine, expected: tuple[float, float]
) -> None:
    path = write_scene(tmp_path / "a.tif", IMAGE, crs=crs, transform=transform)
    with Scene(path, Reading(need_crs=crs is not None)) as scene:
        assert scene.gsd_m == pytest.approx(expected, rel=1e-3)


def test_what_cannot_be_mapped_is_refused_in_one_sentence(tmp_path: Path) -> None:
    def refused(path: Path, words: str, reading: Reading = PLAIN) -> None:
        with pytest.raises(ValueError, match=words) as caught, Scene(path, reading) as scene:
            scene.read(Window(0, 0, scene.height, scene.width))
        assert path.name in str(caught.value)
        assert "\n" not in str(caught.value)

    refused(write_scene(tmp_path / "no_crs.tif", IMAGE, crs=None), r"has no CRS.*--no-crs")
    turned = Affine(0.1, 0.01, 5e5, 0.01, -0.1, 5e6)
    refused(write_scene(tmp_path / "turned.tif", IMAGE, transform=turned), r"rotated or flipped; warp it north up")
    upside = Affine(0.1, 0, 5e5, 0, 0.1, 5e6)
    refused(write_scene(tmp_path / "upside.tif", IMAGE, transform=upside), r"rotated or flipped")
    refused(write_scene(tmp_path / "two.tif", IMAGE[:2]), r"has 2 bands, but band 3 is wanted; name three .* --bands")
    refused(write_scene(tmp_path / "one.tif", IMAGE[:1]), r"has 1 band, but")
    refused(write_scene(tmp_path / "deep.tif", IMAGE.astype(np.uint16)), r"are uint16, not uint8; say by --scale LOW")
    refused(write_scene(tmp_path / "complex.tif", IMAGE.astype(np.complex64)), r"complex numbers")
    (tmp_path / "empty.tif").touch()
    refused(tmp_path / "empty.tif", r"is empty, a file of 0 bytes")
    (tmp_path / "text.tif").write_text("no raster at all")
    refused(tmp_path / "text.tif", r"cannot be read .* is damaged, cut short or no raster")
    refused(tmp_path / "nowhere.tif", r"no such file")
    whole = write_scene(tmp_path / "whole.tif", random_image(400, 400), compress="deflate").read_bytes()
    (tmp_path / "cut.tif").write_bytes(whole[: len(whole) // 2])
    refused(tmp_path / "cut.tif", r"cannot be read .* is damaged")
    vrt = tmp_path / "lost.vrt"
    rasterio.shutil.copy(write_scene(tmp_path / "source.tif", IMAGE), vrt, driver="VRT")
    (tmp_path / "source.tif").unlink()
    refused(vrt, r"cannot be read")


def test_without_a_crs_it_is_taken_when_that_is_said(tmp_path: Path) -> None:
    path = write_scene(tmp_path / "a.tif", IMAGE, crs=None, transform=None)
    with Scene(path, Reading(need_crs=False)) as scene:
        assert scene.crs is None
        assert scene.gsd_m is None


@pytest.mark.parametrize(("bands", "low_high"), [((1, 2), None), ((0, 1, 2), None), ((1, 2, 3), (5.0, 5.0))])
def test_bands_and_scalings_that_mean_nothing_are_refused(bands: tuple[int, ...], low_high: object) -> None:
    with pytest.raises(ValueError, match=r"^--(bands 1,2|bands 0,1,2|scale 5 5): "):
        Reading(bands, low_high)  # type: ignore[arg-type]


def test_a_dsm_must_cover_its_image(tmp_path: Path) -> None:
    heights = np.linspace(100, 130, 60 * 80, dtype=np.float32).reshape(1, 60, 80)
    heights[0, 0, 0] = -9999
    image = write_scene(tmp_path / "a.tif", IMAGE)
    good = write_scene(tmp_path / "dsm.tif", heights, nodata=-9999)
    coarse = write_scene(
        tmp_path / "coarse.tif", heights[:, ::2, ::2], transform=from_origin(5e5, 5e6, 0.2, 0.2), nodata=-9999
    )
    short = write_scene(tmp_path / "short.tif", heights[:, :-5])
    empty = write_scene(tmp_path / "none.tif", np.full((1, 60, 80), np.nan, np.float32))
    with Scene(image, Reading()) as scene:
        assert height_range(good, scene) == pytest.approx((100, 130), abs=0.01)
        assert height_range(coarse, scene)[1] == pytest.approx(130, abs=1)
        with pytest.raises(ValueError, match=r"short\.tif: this DSM does not cover its image .*a\.tif; give one that"):
            height_range(short, scene)
        with pytest.raises(ValueError, match=r"none\.tif: this DSM has no height at all"):
            height_range(empty, scene)
        gaps = write_scene(tmp_path / "gaps.tif", heights)  # the same, but nobody says that -9999 is no height
        with pytest.raises(ValueError, match=r"gaps\.tif: this DSM has heights from -9999 to 130 m, .*; declare what"):
            height_range(gaps, scene)
        with pytest.raises(ValueError, match=r"nocrs\.tif: one of this DSM and its image .* has no CRS"):
            height_range(write_scene(tmp_path / "nocrs.tif", heights, crs=None), scene)


def test_requests_that_contradict_themselves_are_refused(tmp_path: Path) -> None:
    a = write_scene(tmp_path / "one/a.tif", IMAGE)
    b = write_scene(tmp_path / "two/a.tif", IMAGE)

    def request(*inputs: Path, **changes: object) -> Request:
        return Request("m", tuple(map(str, inputs)), **{"output": tmp_path / "maps", **changes})  # type: ignore[arg-type]

    assert request(a).files() == [a]
    for wrong, words in (
        (request(a, b), r"two.a\.tif: has the same name as .*one.a\.tif"),
        (request(a, output=tmp_path / "one"), r"a\.tif: its map would replace an input; take another folder"),
        (request(a, output=b), r"--output .*a\.tif: is a file; name a folder"),
        (request(a, mosaic=tmp_path / "x.jpg"), r"--mosaic .*x\.jpg: is no name of a mosaic"),
        (request(a, mosaic=tmp_path / "maps/a.tif"), r"--mosaic .*: is an input or the map of one"),
        (request(a, dsm=tmp_path), r"--dsm: .* add --generator"),
    ):
        with pytest.raises(ValueError, match=words):
            wrong.files()
    with pytest.raises(ValueError, match=r"holds no DSM of the name a"):
        request(a, dsm=tmp_path, generator=a).dsm_of(a)
    with pytest.raises(ValueError, match=r"there is no such file or folder"):
        request(a, dsm=tmp_path / "x", generator=a).dsm_of(a)
    assert request(a, dsm=tmp_path / "two", generator=a).dsm_of(a) == b


def write_outer_vrt(outer: Path, inner: Path, source: str) -> None:
    """A VRT of a VRT: GDAL's own copy would name the innermost file at once."""
    named = rf'relativeToVRT="[01]">[^<]*{re.escape(source)}<'
    outer.write_text(re.sub(named, f'relativeToVRT="0">{inner}<', inner.read_text()))


def test_what_decides_the_pixels_decides_the_content(tmp_path: Path) -> None:
    path = write_scene(tmp_path / "deep/a.tif", IMAGE)
    inner, outer = tmp_path / "inner.vrt", tmp_path / "outer.vrt"
    rasterio.shutil.copy(path, inner, driver="VRT")
    write_outer_vrt(outer, inner, path.name)

    def known() -> tuple[object, object]:
        with Scene(outer, PLAIN) as scene:
            return scene.content(), scene.roles()

    before = known()
    assert sources_of(outer) == [outer, inner, path]
    assert len(before[0]) == 3  # type: ignore[arg-type]
    seen = path.stat()
    os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns + 1))
    later = known()
    assert later[0] != before[0]
    assert later[1] == before[1]
    roles = set()
    for changes in ({}, {"nodata": 7}, {"colorinterp": [*[ColorInterp.undefined] * 3, ColorInterp.alpha]}):
        with rasterio.open(path, "r+") as file:
            for name, value in changes.items():
                setattr(file, name, value)
        with Scene(path, PLAIN) as scene:
            roles.add(tuple(scene.roles()))
    assert len(roles) == 3


def asked(*inputs: Path, **changes: object) -> Request:
    return Request("m", tuple(map(str, inputs)), **changes)  # type: ignore[arg-type]


def test_nothing_that_is_not_ours_is_replaced(tmp_path: Path) -> None:
    """A city's folder as --output: what its rasters are made of lies there, and what people keep beside them."""
    source = write_scene(tmp_path / "city/ortho.tif", IMAGE[:3])
    vrt = tmp_path / "city/ortho.vrt"
    rasterio.shutil.copy(source, vrt, driver="VRT")
    inner = tmp_path / "maps/inner.vrt"
    inner.parent.mkdir()
    rasterio.shutil.copy(source, inner, driver="VRT")
    (tmp_path / "in").mkdir()
    outer = tmp_path / "in/outer.vrt"
    write_outer_vrt(outer, inner, source.name)
    plain = write_scene(tmp_path / "in/top.tif", IMAGE[:3])
    dsm = write_scene(tmp_path / "maps/top_dsm.tif", IMAGE[:1].astype(np.float32))
    with rasterio.open(dsm, "r+") as file:
        file.update_tags(drdg_plan="0" * 16)  # heights that an earlier run predicted
    foreign = tmp_path / "foreign"
    write_scene(foreign / "top_confidence.tif", IMAGE[:1])
    for name in ("top.gpkg", "top.png", "top.html", "city.vrt", "other.tif.aux.xml", "top_tiles/0.png"):
        (foreign / name).parent.mkdir(exist_ok=True)
        (foreign / name).write_text("somebody's work")
    other = write_scene(tmp_path / "in/other.tif", IMAGE[:3])
    replaced = r"is there already and not of this command's making"
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for wrong, words in (
        (asked(vrt, output=tmp_path / "city"), r"city.ortho\.tif: .*ortho\.vrt is made of it"),
        (asked(outer, output=tmp_path, mosaic=inner), r"inner\.vrt: .*outer\.vrt is made of it"),
        (asked(outer, output=tmp_path / "x", mosaic=source), r"ortho\.tif: .*outer\.vrt is made of it"),
        (asked(plain, output=tmp_path / "maps", dsm=dsm, generator=plain), r"top_dsm\.tif: .* is made of it"),
        (asked(plain, output=foreign, confidence=True), rf"top_confidence\.tif: {replaced}"),
        (asked(plain, output=foreign, polygons=True), rf"top\.gpkg: {replaced}"),
        (asked(plain, output=foreign, preview=True), rf"top\.png: {replaced}"),
        (asked(plain, output=foreign, viewer=True), rf"top\.html: {replaced}"),
        (asked(plain, output=foreign, mosaic=foreign / "city.vrt"), rf"city\.vrt: {replaced}"),
        (asked(other, output=foreign), r"other\.tif\.aux\.xml: is there already without a raster"),
    ):
        with pytest.raises(ValueError, match=words) as caught:
            wrong.files()
        assert "\n" not in str(caught.value)
    (foreign / "top.html").unlink()
    with pytest.raises(ValueError, match=rf"top_tiles: {replaced}"):
        asked(plain, output=foreign, viewer=True).files()
    (foreign / ".other-map-0123456789abcdef.parts").mkdir()  # then it is a killed run's sidecar
    assert asked(other, output=foreign).files() == [other]
    assert asked(plain, output=foreign).files() == [plain]
    assert all(path.read_bytes() == content for path, content in before.items() if path.name != "top.html")


def test_no_two_files_get_one_name(tmp_path: Path) -> None:
    one = write_scene(tmp_path / "in/Top.tif", IMAGE[:3])
    two = write_scene(tmp_path / "in/top_confidence.tif", IMAGE[:3])
    out = tmp_path / "maps"
    assert asked(one, two, output=out).files() == [one, two]
    for wrong, words in (
        (asked(one, two, output=out, confidence=True), r"op_confidence\.tif: would be .*; rename one input"),
        (asked(one, output=tmp_path / "in", confidence=True), r"Top\.tif: its map would replace an input"),
        (asked(one, output=out, mosaic=out / "TOP.tif"), r"--mosaic .*TOP\.tif: is an input or the map of one"),
        (asked(one, output=out, mosaic=tmp_path / "in/top.TIF"), r"--mosaic .*top\.TIF: is an input or the map of"),
        (asked(one, output=out, confidence=True, mosaic=out / "top_Confidence.tif"), r"--mosaic .*: is an input or"),
    ):
        with pytest.raises(ValueError, match=words):
            wrong.files()
