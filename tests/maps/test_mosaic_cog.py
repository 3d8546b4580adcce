"""Maps as other programs read them: valid COGs with the input's place, a palette, names and overviews."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from mosaic_scenes import CLASSES, PLACE, Blurry, random_image, write_scene
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.transform import from_origin
from rio_cogeo.cogeo import cog_validate

from drdg.config import EvaluationConfig
from drdg.datasets import VOID
from drdg.distributed.group import Group
from drdg.distributed.topology import Topology
from drdg.inference.sliding import predict_top
from drdg.maps.assembly import write_mosaic
from drdg.maps.inputs import Reading
from drdg.maps.mosaic import Task, map_scene
from drdg.maps.networks import Segmentation
from drdg.maps.ours import SIDECAR, is_ours
from drdg.maps.products import class_map, confidence, heights, probabilities, translated

PALETTE = ((255, 0, 0), (255, 255, 255), (0, 255, 0))
ALONE = Group(Topology(), torch.device("cpu"))
WINDOWS = EvaluationConfig(window=128)


def task_of(*, gsd_m: float | None = None, seed: int = 0) -> Task:
    network = Segmentation(Blurry(seed=seed), 3)
    products = (class_map(CLASSES, PALETTE), probabilities(CLASSES), confidence())
    return Task("map", network, products, WINDOWS, gsd_m, {"seed": seed})


@pytest.fixture(scope="module")
def mapped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a scene whose upper left corner has no values, and its products."""
    folder = tmp_path_factory.mktemp("a city")
    image = random_image(1100, 1301)
    image[:, :300, :260] = 0
    write_scene(folder / "scene.tif", image, nodata=0)
    assert map_scene(folder / "scene.tif", Reading(), task_of(), folder / "maps", ALONE, quiet=True)
    return folder


def category_names(path: Path) -> list[str | None]:
    root = ET.parse(path.with_name(path.name + SIDECAR)).getroot()
    return [element.text for element in root.iterfind("PAMRasterBand[@band='1']/CategoryNames/Category")]


def test_a_map_is_a_valid_cog_with_place_palette_names_and_overviews(mapped: Path) -> None:
    path = mapped / "maps/scene.tif"
    assert cog_validate(path, strict=True) == (True, [], [])
    assert category_names(path) == list(CLASSES)
    with rasterio.open(path) as file, rasterio.open(mapped / "scene.tif") as scene:
        assert file.crs == scene.crs
        assert file.transform == scene.transform
        assert file.shape == scene.shape
        assert file.dtypes == ("uint8",)
        assert file.nodata == VOID
        assert file.colorinterp == (ColorInterp.palette,)
        assert [file.colormap(1)[i] for i in range(3)] == [(*colour, 255) for colour in PALETTE]
        assert file.colormap(1)[VOID][3] == 0
        assert file.overviews(1) == [2, 4]
        assert file.compression.name == "deflate"
        assert file.block_shapes == [(512, 512)]
        assert file.tags()["class_1"] == CLASSES[1]
        ids, mask = file.read(1), scene.dataset_mask() != 0
    np.testing.assert_array_equal(ids == VOID, ~mask)
    assert set(np.unique(ids[mask])) == {0, 1, 2}
    assert not mask.all()
    with rasterio.open(path, overview_level=1) as small:  # a pixel of an overview is a class, and no mean of two
        assert set(np.unique(small.read(1))) <= {0, 1, 2, VOID}


def test_the_map_is_that_of_sliding_over_the_whole(mapped: Path) -> None:
    with rasterio.open(mapped / "scene.tif") as file:
        image, mask = file.read().transpose(1, 2, 0), file.dataset_mask() != 0

    class Pixels:
        height, width = image.shape[:2]

        def read_image(self, window):
            return np.where(mask[..., None], image, 0)[window.rows, window.cols]

    expected = predict_top(Blurry(), Pixels(), WINDOWS, quiet=True)
    with rasterio.open(mapped / "maps/scene.tif") as file:
        ids = file.read(1)
    # But for ties, at which float32 may take either.
    assert np.mean(ids[mask] != expected[mask]) < 1e-5


def test_probabilities_and_confidence_go_with_the_map(mapped: Path) -> None:
    for name in ("probabilities", "confidence"):
        assert cog_validate(mapped / f"maps/scene_{name}.tif", strict=True) == (True, [], [])
    with rasterio.open(mapped / "maps/scene_probabilities.tif") as file:
        shares, scales = file.read(), file.scales
        assert file.descriptions == CLASSES
        assert file.nodata == VOID
    with rasterio.open(mapped / "maps/scene.tif") as file:
        ids = file.read(1)
    with rasterio.open(mapped / "maps/scene_confidence.tif") as file:
        sure = file.read(1)
    known = ids != VOID
    assert scales == pytest.approx([1 / 254] * 3)
    assert (shares[:, ~known] == VOID).all()
    np.testing.assert_allclose(shares[:, known].astype(int).sum(0), 254, atol=1.5)
    np.testing.assert_array_equal(sure[known], shares.max(0)[known])
    np.testing.assert_array_equal(np.take_along_axis(shares, ids[None] * known, 0)[0][known], sure[known])


def test_nothing_is_left_but_what_was_asked_for_and_it_is_not_done_again(mapped: Path) -> None:
    names = {path.name for path in (mapped / "maps").iterdir()}
    rasters = {"scene.tif", "scene_probabilities.tif", "scene_confidence.tif"}
    assert names - {f"{name}{SIDECAR}" for name in rasters} == rasters
    before = (mapped / "maps/scene.tif").stat().st_mtime_ns
    assert not map_scene(mapped / "scene.tif", Reading(), task_of(), mapped / "maps", ALONE, quiet=True)
    assert (mapped / "maps/scene.tif").stat().st_mtime_ns == before


def test_another_model_or_input_makes_another_map(tmp_path: Path) -> None:
    path = write_scene(tmp_path / "scene.tif", random_image(140, 150))
    out = tmp_path / "maps"

    def ids() -> np.ndarray:
        with rasterio.open(out / "scene.tif") as file:
            return file.read(1)

    assert map_scene(path, Reading(), task_of(), out, ALONE, quiet=True)
    first = ids()
    assert map_scene(path, Reading(), task_of(seed=1), out, ALONE, quiet=True)
    assert (ids() != first).any()
    assert map_scene(path, Reading((3, 2, 1)), task_of(), out, ALONE, quiet=True)
    write_scene(path, random_image(140, 150, seed=1))
    assert map_scene(path, Reading(), task_of(), out, ALONE, quiet=True)
    assert (ids() != first).any()


@pytest.mark.parametrize(
    ("crs", "transform"),
    [("EPSG:2914", from_origin(4.25e6 / 3, 8.7e5 / 7, 1 / 3, 1 / 3)), ("EPSG:4326", from_origin(9, 51, 1e-6, 2e-6))],
)
def test_place_is_kept_to_the_last_bit_in_any_crs(tmp_path: Path, crs: str, transform: rasterio.Affine) -> None:
    path = write_scene(tmp_path / "scene.tif", random_image(140, 150), crs=crs, transform=transform)
    map_scene(path, Reading(), task_of(gsd_m=0.2), tmp_path / "maps", ALONE, quiet=True)
    with rasterio.open(tmp_path / "maps/scene.tif") as file:
        assert file.crs == CRS.from_user_input(crs)
        assert file.transform == transform
        assert file.shape == (140, 150)


def test_without_a_crs_the_map_has_none(tmp_path: Path) -> None:
    path = write_scene(tmp_path / "scene.tif", random_image(140, 150), crs=None, transform=None)
    reading = Reading(need_crs=False)
    map_scene(path, reading, task_of(), tmp_path / "maps", ALONE, quiet=True)
    with rasterio.open(tmp_path / "maps/scene.tif") as file:
        assert file.crs is None
        assert file.transform.is_identity
    with pytest.raises(ValueError, match=r"nobody knows its GSD.*--gsd 0"):
        map_scene(path, reading, task_of(gsd_m=0.2), tmp_path / "other", ALONE, quiet=True)


def test_a_raster_of_nothing_but_nodata_is_mapped_without_the_network(tmp_path: Path) -> None:
    class Never(Blurry):
        def forward(self, x):
            raise AssertionError("there is nothing to see")

    path = write_scene(tmp_path / "scene.tif", np.zeros((3, 700, 600), np.uint8), nodata=0)
    task = Task("map", Segmentation(Never(), 3), (class_map(CLASSES, PALETTE),), WINDOWS, None, {})
    map_scene(path, Reading(), task, tmp_path / "maps", ALONE, quiet=True)
    with rasterio.open(tmp_path / "maps/scene.tif") as file:
        assert (file.read(1) == VOID).all()
        assert category_names(tmp_path / "maps/scene.tif") == list(CLASSES)


def test_a_damaged_part_is_found_when_it_is_read_and_nothing_is_written(tmp_path: Path) -> None:
    whole = write_scene(tmp_path / "whole.tif", random_image(700, 300), compress="deflate", blockysize=16).read_bytes()
    path = tmp_path / "scene.tif"
    path.write_bytes(whole[: len(whole) * 3 // 4])
    with pytest.raises(ValueError, match=r"scene\.tif: cannot be read .*; it is damaged"):
        map_scene(path, Reading(), task_of(), tmp_path / "maps", ALONE, quiet=True)
    assert not list((tmp_path / "maps").glob("*.tif"))


def test_translated_images_and_heights_have_their_own_nodata() -> None:
    values = torch.tensor([0.0, 128.4, 300.0, 0.5]).view(4, 1, 1).expand(4, 1, 2)
    valid = np.array([[True, False]])
    image = translated()
    assert image.pixels(values, valid).tolist() == [[[1, 0]], [[128, 0]], [[255, 0]]]
    dsm = heights(100, 150, in_metres=True).pixels(values, valid)
    assert dsm.dtype == np.float32
    assert dsm.tolist() == [[[125.0, -9999.0]]]


def test_of_equal_classes_the_first_is_taken() -> None:
    values = torch.tensor([[0.2, 0.5, 0.1], [0.4, 0.5, 0.1], [0.4, 0.0, 0.8]])[:, None]
    assert class_map(CLASSES, PALETTE).pixels(values, None).tolist() == [[[1, 0, 2]]]
    random = torch.randint(0, 4, (3, 50, 60)).float()
    np.testing.assert_array_equal(class_map(CLASSES, PALETTE).pixels(random, None)[0], random.argmax(0))


@pytest.mark.parametrize("suffix", ["vrt", "tif"])
def test_a_mosaic_shows_all_maps_in_their_places(tmp_path: Path, suffix: str) -> None:
    whole = np.arange(300 * 400).reshape(300, 400).astype(np.uint32) * 2654435761 % 3
    whole = whole.astype(np.uint8)
    maps = []
    for row, col in ((0, 0), (0, 200), (100, 100)):
        part = whole[None, row : row + 200, col : col + 200].copy()
        if (row, col) == (100, 100):
            part[:, :50] = VOID  # which lets the maps below shine through
        place = from_origin(PLACE.c + col * PLACE.a, PLACE.f + row * PLACE.e, 0.1, 0.1)
        maps.append(write_scene(tmp_path / f"{row}_{col}.tif", part, transform=place, nodata=VOID))
    made = write_mosaic(tmp_path / f"sub folder/city.{suffix}", maps, class_map(CLASSES, PALETTE))
    with rasterio.open(made) as file:
        ids = file.read(1)
        assert file.transform == PLACE
        assert is_ours(made)
        assert [file.colormap(1)[i][:3] for i in range(3)] == list(PALETTE)
    assert ids.shape == (300, 400)
    np.testing.assert_array_equal(ids[:200], whole[:200])
    np.testing.assert_array_equal(ids[200:, 100:300], whole[200:, 100:300])
    assert (ids[200:, :100] == VOID).all()
    if suffix == "tif":
        assert cog_validate(made, strict=True) == (True, [], [])
        assert category_names(made) == list(CLASSES)
        assert {path.name for path in made.parent.iterdir()} == {"city.tif", f"city.tif{SIDECAR}"}


def test_maps_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    part = np.zeros((1, 10, 10), np.uint8)
    here = write_scene(tmp_path / "here.tif", part)
    for other, words in (
        (write_scene(tmp_path / "crs.tif", part, crs="EPSG:32633"), r"crs\.tif: is in another CRS than .*here\.tif"),
        (
            write_scene(tmp_path / "gsd.tif", part, transform=from_origin(5e5, 5e6, 0.2, 0.2)),
            r"gsd\.tif: has other pix",
        ),
    ):
        with pytest.raises(ValueError, match=words):
            write_mosaic(tmp_path / "city.vrt", [here, other], class_map(CLASSES, PALETTE))
    nowhere = write_scene(tmp_path / "nowhere.tif", part, crs=None, transform=None)
    with pytest.raises(ValueError, match=r"nowhere\.tif: has no place on the ground"):
        write_mosaic(tmp_path / "city.vrt", [nowhere, nowhere], class_map(CLASSES, PALETTE))
