"""Archives: small rasters in the ISPRS layouts, oddities included, opened and read as the shard builder reads them."""

from pathlib import Path

import numpy as np
import pytest
import rasterio

from drdg.config import PotsdamArchive, VaihingenArchive
from drdg.datasets import PALETTE, VOID, open_archive
from drdg.tiles.raster import TopReader
from drdg.tiles.windows import Window

SIDE = 32
WHOLE = Window(0, 0, SIDE, SIDE)


def write(path: Path, bands: np.ndarray, gsd_m: float | None = None) -> Path:
    """A GeoTIFF without georeference, and a world file beside it where ``gsd_m`` is given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = bands.shape
    with rasterio.open(
        path, "w", driver="GTiff", width=width, height=height, count=count, dtype=bands.dtype.name
    ) as file:
        file.write(bands)
    if gsd_m is not None:
        lines = (gsd_m, 0, 0, -gsd_m, 366976.525, 5809761.0)  # of Potsdam's first tile: pixel centre
        path.with_suffix(".tfw").write_text("\n".join(map(str, lines)))
    return path


def draw(ids: np.ndarray) -> np.ndarray:
    return np.array(PALETTE, dtype=np.uint8)[ids].transpose(2, 0, 1)


@pytest.fixture
def town() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 256, (4, SIDE, SIDE), dtype=np.uint8),
        "dsm": rng.uniform(30, 60, (1, SIDE, SIDE)).astype(np.float32),
        "ids": rng.integers(0, 6, (SIDE, SIDE), dtype=np.uint8),
    }


def potsdam(root: Path, town: dict[str, np.ndarray], tile: str, padded: str, narrower: int = 0) -> TopReader:
    write(root / f"3_Ortho_IRRG/top_potsdam_{tile}_IRRG.tif", town["image"][:3], 0.05)
    write(root / f"1_DSM/dsm_potsdam_{padded}.tif", town["dsm"][:, :, : SIDE - narrower], 0.05)
    archive = open_archive(PotsdamArchive(root=root))
    return TopReader(archive, archive.split("all")[0])


def test_world_file_gives_the_pixel_size_without_a_crs(tmp_path, town):
    with potsdam(tmp_path, town, "2_10", "02_10") as reader:
        assert reader.crs is None
        assert reader.gsd_m == pytest.approx(0.05)
        assert reader.transform == pytest.approx((0.05, 0, 366976.5, 0, -0.05, 5809761.025))
        assert np.array_equal(reader.read_image(WHOLE), town["image"][:3].transpose(1, 2, 0))


def test_3_13_gets_its_last_column_repeated(tmp_path, town):
    with potsdam(tmp_path, town, "3_13", "03_13", narrower=1) as reader:
        heights = reader.read_dsm(WHOLE)
    assert np.array_equal(heights[:, :-1], town["dsm"][0, :, :-1])
    assert np.array_equal(heights[:, -1], town["dsm"][0, :, -2])


def test_3_13_whole_is_read_as_it_is(tmp_path, town):
    with potsdam(tmp_path, town, "3_13", "03_13") as reader:
        assert np.array_equal(reader.read_dsm(WHOLE), town["dsm"][0])


@pytest.mark.parametrize(("tile", "padded", "narrower"), [("3_14", "03_14", 1), ("3_13", "03_13", 2)])
def test_any_other_size_is_refused(tmp_path, town, tile, padded, narrower):
    with pytest.raises(ValueError, match=rf"dsm_potsdam_{padded}.tif: this DSM is 32 x {SIDE - narrower} pixels"):
        potsdam(tmp_path, town, tile, padded, narrower)


def test_vaihingens_dsm_a_pixel_off_is_refused(tmp_path, town):
    write(tmp_path / "top/top_mosaic_09cm_area1.tif", town["image"][:3], 0.09)
    write(tmp_path / "dsm/dsm_09cm_matching_area1.tif", town["dsm"][:, :, :-1], 0.09)
    archive = open_archive(VaihingenArchive(root=tmp_path))
    with pytest.raises(ValueError, match=r"dsm_09cm_matching_area1.tif: this DSM is 32 x 31 pixels"):
        TopReader(archive, archive.tops[0])


def test_6_7_with_its_own_yellow(tmp_path, town):
    raw = draw(town["ids"])
    raw[0][town["ids"] == 2] = 252
    write(tmp_path / "5_Labels_all/top_potsdam_6_7_label.tif", raw)
    with potsdam(tmp_path, town, "6_7", "06_07") as reader:
        assert np.array_equal(reader.read_label(WHOLE), town["ids"])


def test_4_12_with_thousands_of_colours(tmp_path, town):
    clean = draw(town["ids"]).astype(int)
    noise = np.random.default_rng(1).integers(0, 40, clean.shape)
    write(tmp_path / "5_Labels_all/top_potsdam_4_12_label.tif", np.abs(clean - noise).astype(np.uint8))
    with potsdam(tmp_path, town, "4_12", "04_12") as reader:
        assert np.array_equal(reader.read_label(WHOLE), town["ids"])


def test_eroded_borders_are_void(tmp_path, town):
    raw = draw(town["ids"])
    raw[:, ::4] = 0
    write(tmp_path / "5_Labels_all_noBoundary/top_potsdam_2_10_label_noBoundary.tif", raw)
    potsdam(tmp_path, town, "2_10", "02_10").close()
    archive = open_archive(PotsdamArchive(root=tmp_path, labels="no_boundary"))
    with TopReader(archive, archive.split("train", need_label=True)[0]) as reader:
        ids = reader.read_label(WHOLE)
    assert (ids[::4] == VOID).all()
    assert np.array_equal(ids[1::4], town["ids"][1::4])


def test_an_orthophoto_in_the_labels_place_is_refused(tmp_path, town):
    write(tmp_path / "5_Labels_all/top_potsdam_2_10_label.tif", town["image"][:3])
    with (
        potsdam(tmp_path, town, "2_10", "02_10") as reader,
        pytest.raises(ValueError, match=r"top_potsdam_2_10_label.tif: is no ISPRS label"),
    ):
        reader.read_label(WHOLE)


def test_infrared_red_green_from_the_four_band_file(tmp_path, town):
    potsdam(tmp_path, town, "2_10", "02_10").close()
    (tmp_path / "3_Ortho_IRRG/top_potsdam_2_10_IRRG.tif").unlink()
    write(tmp_path / "4_Ortho_RGBIR/top_potsdam_2_10_RGBIR.tif", town["image"], 0.05)
    archive = open_archive(PotsdamArchive(root=tmp_path))
    with TopReader(archive, archive.tops[0]) as reader:
        red, green, _, infrared = town["image"]
        assert np.array_equal(reader.read_image(WHOLE), np.stack([infrared, red, green], axis=-1))
