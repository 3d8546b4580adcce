"""Polygons of a map: a coverage without gaps or overlaps, wherever tiles end, in the map's place."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st
from rasterio import Affine
from scipy import ndimage
from small_maps import CLASSES, save_map, speckled

from drdg.maps import vectors
from drdg.maps.vectors import LAYER, regions, write_polygons

pyogrio = pytest.importorskip("pyogrio.raw", reason="pip install 'drdg[maps]'")
shapely = pytest.importorskip("shapely", minversion="2.1", reason="pip install 'drdg[maps]'")


def read(path):
    meta, _, geometry, (ids, names, areas) = pyogrio.read(path, layer=LAYER)
    return meta, shapely.from_wkb(geometry), ids, names, areas


def all_of(ids, tolerance=0.0, tile=2048, nodata=255):
    parts = list(regions(ids, nodata, tolerance, tile))
    return np.concatenate([polygons for polygons, _ in parts]), np.concatenate([numbers for _, numbers in parts])


def components(ids):
    return sum(ndimage.label(ids == number)[1] for number in np.unique(ids))


@pytest.mark.parametrize("tile", [2048, 64, 37])
@pytest.mark.parametrize("tolerance", [0.0, 1.5])
def test_polygons_are_a_coverage_of_the_whole_map_wherever_tiles_end(tile, tolerance):
    ids = speckled(150, 201)
    polygons, numbers = all_of(ids, tolerance, tile)
    assert len(polygons) == components(ids)
    assert shapely.is_valid(polygons).all()
    assert shapely.coverage_is_valid(polygons)
    assert shapely.area(polygons).sum() == ids.size
    whole = shapely.coverage_union_all(polygons)
    assert whole.equals(shapely.box(0, 0, 201, 150)), "a gap"
    if not tolerance:
        areas = np.bincount(numbers, weights=shapely.area(polygons))
        np.testing.assert_array_equal(areas, np.bincount(ids.ravel()))


@effort(max_examples=30)
@given(
    st.integers(1, 9).flatmap(
        lambda rows: st.lists(st.lists(st.integers(0, 2), min_size=7, max_size=7), min_size=rows, max_size=rows)
    ),
    st.integers(1, 4),
)
def test_any_pixels_are_given_back_exactly(rows, tile):
    ids = np.array(rows, dtype=np.uint8)
    polygons, numbers = all_of(ids, tile=tile, nodata=2)
    assert shapely.is_valid(polygons).all()
    assert shapely.coverage_is_valid(polygons)
    burnt = np.full(ids.shape, 2, dtype=np.uint8)
    for polygon, number in zip(polygons, numbers, strict=True):
        burnt[rasterio.features.rasterize([polygon], ids.shape).astype(bool)] = number
    np.testing.assert_array_equal(burnt, ids)


def test_simplified_edges_have_fewer_corners_and_stay_where_they_are():
    rows, cols = np.mgrid[:200, :200]
    ids = (rows + 0.37 * cols > 140).astype(np.uint8)
    exact, _ = all_of(ids)
    smooth, numbers = all_of(ids, 1.5, 64)
    assert shapely.get_num_coordinates(smooth).sum() < shapely.get_num_coordinates(exact).sum() / 2.5
    assert abs(smooth[numbers == 1][0].area - exact[-1].area) < 200
    assert shapely.hausdorff_distance(smooth[numbers == 1][0], exact[-1]) < 3


def test_a_geopackage_has_the_place_names_and_areas(tmp_path, monkeypatch):
    monkeypatch.setattr(vectors, "TILE", 64)
    ids = speckled(90, 120)
    path = save_map(tmp_path / "map.tif", ids)
    out = write_polygons(path, tmp_path / "out" / "map.gpkg", CLASSES, minimum_m2=0, simplify_m=0)
    meta, polygons, numbers, names, areas = read(out)
    assert meta["crs"] == "EPSG:32632"
    assert meta["geometry_type"] == "Polygon"
    assert list(names) == [CLASSES[number] for number in numbers]
    np.testing.assert_allclose(areas, shapely.area(polygons))
    assert areas.sum() == pytest.approx(90 * 120 / 4)
    assert tuple(shapely.total_bounds(polygons)) == (5e5, 5e6 - 45, 5e5 + 60, 5e6)
    inside = shapely.get_coordinates(shapely.point_on_surface(polygons))
    cols, rows = _pixels(inside)
    np.testing.assert_array_equal(ids[rows, cols], numbers)
    assert sorted(path.name for path in out.parent.iterdir()) == ["map.gpkg"], "nothing but the file is left"


def _pixels(places):
    x, y = places.T
    return np.floor((x - 5e5) / 0.5).astype(int), np.floor((5e6 - y) / 0.5).astype(int)


def test_small_patches_go_to_their_largest_neighbour_and_leave_no_gap(tmp_path, monkeypatch):
    monkeypatch.setattr(vectors, "TILE", 32)
    ids = np.zeros((60, 60), dtype=np.uint8)
    ids[:, 30:] = 1
    ids[10:12, 10:12] = 2  # 1 m2
    ids[40:44, 28:32] = 3  # 4 m2, on the edge between 0 and 1
    ids[20:30, 40:50] = 3  # 25 m2
    path = save_map(tmp_path / "map.tif", ids)
    _, polygons, numbers, _, areas = read(
        write_polygons(path, tmp_path / "map.gpkg", CLASSES, minimum_m2=5, simplify_m=0)
    )
    assert sorted(numbers) == [0, 1, 3]
    assert areas[numbers == 3] == 25
    assert areas.sum() == 900
    assert shapely.coverage_is_valid(polygons)


def test_nodata_is_in_no_polygon_and_takes_no_patch(tmp_path, monkeypatch):
    ids = speckled(96, 96, seed=4)
    ids[20:60, 30:80] = 255
    ids[40, 50] = 1  # too small, and with nothing to go to
    path = save_map(tmp_path / "map.tif", ids)
    monkeypatch.setattr(vectors, "TILE", 40)
    given = {"minimum_m2": 2.0}
    exact = read(write_polygons(path, tmp_path / "exact.gpkg", CLASSES, simplify_m=0, **given))
    assert exact[4].sum() == pytest.approx((ids != 255).sum() / 4)
    smooth = read(write_polygons(path, tmp_path / "smooth.gpkg", CLASSES, simplify_m=0.75, **given))
    assert shapely.coverage_is_valid(smooth[1])
    assert len(smooth[1]) == len(exact[1])
    assert abs(smooth[4].sum() - exact[4].sum()) < 0.02 * exact[4].sum()
    hole = shapely.coverage_union_all(smooth[1])
    assert len(hole.geoms if hasattr(hole, "geoms") else [hole]) == 2, "all around the nodata, and the pixel in it"


@pytest.mark.parametrize(
    ("crs", "transform", "metres"),
    [
        ("EPSG:2992", Affine(1, 0, 600000, 0, -1, 800000), 0.3048**2),  # Oregon, in feet
        ("EPSG:4326", Affine(1e-5, 0, 8.0, 0, -1e-5, 60.0), 1e-10 * 111412.24 * 55799.98),  # a degree at 60 north
        ("EPSG:3857", Affine(1, 0, 1e6, 0, -1, 8399737.89), 0.25 * 1.00252 * 1.00083),  # at 60 north, on the ellipsoid
        (None, Affine.identity(), 1.0),
    ],
)
def test_areas_are_square_metres_of_the_ground(tmp_path, crs, transform, metres):
    ids = np.zeros((40, 40), dtype=np.uint8)
    ids[:, 20:] = 1
    path = save_map(tmp_path / "map.tif", ids, crs=crs, transform=transform)
    out = write_polygons(path, tmp_path / "map.gpkg", CLASSES, minimum_m2=0, simplify_m=0)
    meta, _, _, _, areas = read(out)
    assert meta["crs"] == crs
    np.testing.assert_allclose(areas, 800 * metres, rtol=2e-3)


def test_a_map_of_nothing_is_an_empty_layer(tmp_path):
    path = save_map(tmp_path / "map.tif", np.full((30, 30), 255, dtype=np.uint8))
    out = write_polygons(path, tmp_path / "map.gpkg", CLASSES, minimum_m2=3, simplify_m=1)
    meta, polygons, *_ = read(out)
    assert len(polygons) == 0
    assert list(meta["fields"]) == ["class_id", "class_name", "area_m2"]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: path.write_bytes(b"no raster"), "map.tif: cannot be read as a raster"),
        (lambda path: save_map(path, np.zeros((3, 8, 8), dtype=np.uint8)), "has 3 bands of uint8, but a class map"),
        (lambda path: save_map(path, np.zeros((8, 8), dtype=np.float32)), "has 1 bands of float32"),
        (lambda path: save_map(path, np.full((8, 8), 9, dtype=np.uint8)), "has the id 9, which is none of the 4"),
    ],
)
def test_what_is_no_map_is_refused_and_leaves_nothing(tmp_path, make, said):
    make(tmp_path / "map.tif")
    with pytest.raises(ValueError, match=said):
        write_polygons(tmp_path / "map.tif", tmp_path / "map.gpkg", CLASSES, minimum_m2=0, simplify_m=0)
    assert [path.name for path in tmp_path.iterdir()] == ["map.tif"]
