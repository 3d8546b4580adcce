"""Archives: label colours and values become class ids, and files that are no labels are refused."""

import io
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from drdg.datasets import PALETTE, VOID
from drdg.datasets.labels import CubeCorners, ExactColours, ExactValues

FILE = Path("folder/label.tif")
ISPRS = CubeCorners(PALETTE)
IDS = hnp.arrays(
    np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.sampled_from([*range(6), 255])
)


def draw(ids: np.ndarray, palette=PALETTE, void=(0, 0, 0)) -> np.ndarray:
    """The label raster of ``ids``: uint8 (3, H, W)."""
    colours = np.full((256, 3), void, dtype=np.uint8)
    colours[: len(palette)] = palette
    return colours[ids].transpose(2, 0, 1)


def blocks(side: int = 256, cell: int = 16) -> np.ndarray:
    """A map of small cells of all six classes."""
    return (
        np.random.default_rng(1)
        .integers(0, 6, (side // cell, side // cell), dtype=np.uint8)
        .repeat(cell, 0)
        .repeat(cell, 1)
    )


@given(IDS)
def test_both_colour_codes_undo_drawing(ids):
    assert np.array_equal(ISPRS.decode(draw(ids), FILE), ids)
    assert np.array_equal(ExactColours(PALETTE).decode(draw(ids), FILE), ids)


@given(IDS.filter(lambda ids: (ids != VOID).any()), st.integers(0, 63), st.integers(0, 2**32 - 1))
def test_cube_corners_bear_noise_of_63(ids, noise, seed):
    shift = np.random.default_rng(seed).integers(0, noise + 1, (3, *ids.shape))
    clean = draw(ids).astype(int)
    raw = np.where(clean == 255, clean - shift, clean + shift).astype(np.uint8)
    assert np.array_equal(ISPRS.decode(raw, FILE), ids)


def test_threshold_lies_between_127_and_128():
    raw = draw(np.full((4, 4), 2, dtype=np.uint8))  # cars: red and green
    raw[:, 0, 0] = (128, 127, 127)
    raw[:, 0, 1] = (128, 128, 127)
    assert ISPRS.decode(raw, FILE)[0, :2].tolist() == [0, 2]


def test_potsdam_6_7_has_cars_off_the_palette():
    raw = draw(np.array([[2, 5], [3, 4]], dtype=np.uint8))
    raw[:, 0, 0] = (252, 255, 0)
    assert ISPRS.decode(raw, FILE).tolist() == [[2, 5], [3, 4]]


def test_black_and_magenta_are_void():
    raw = draw(np.array([[2, 5, 1]], dtype=np.uint8))
    raw[:, 0, 0], raw[:, 0, 1] = (0, 0, 0), (255, 0, 255)
    assert ISPRS.decode(raw, FILE).tolist() == [[VOID, VOID, 1]]


@pytest.mark.parametrize("quality", [90, 50, 10])
def test_potsdam_4_12_lossy_compression_is_mended(quality):
    ids = blocks(252, 21)  # not in step with the 8 and 16 px blocks of JPEG
    stored = io.BytesIO()
    Image.fromarray(draw(ids).transpose(1, 2, 0)).save(stored, "JPEG", quality=quality, subsampling=2)
    raw = np.asarray(Image.open(stored)).transpose(2, 0, 1)
    assert len(np.unique(raw.reshape(3, -1), axis=1).T) > 500
    # What is lost are pixels on the borders between classes.
    assert (ISPRS.decode(raw, FILE) == ids).mean() > 0.9
    with pytest.raises(ValueError, match="unknown colour"):
        ExactColours(PALETTE).decode(raw, FILE)


def test_an_orthophoto_is_no_label(tmp_path):
    path = tmp_path / "top_potsdam_2_10_label.tif"
    photo = np.random.default_rng(0).normal(110, 45, (3, 64, 64)).clip(0, 255).astype(np.uint8)
    with rasterio.open(path, "w", driver="GTiff", width=64, height=64, count=3, dtype="uint8") as file:
        file.write(photo)
    with rasterio.open(path) as file:
        raw = file.read()
    with pytest.raises(
        ValueError, match=r"2_10_label.tif: is no ISPRS label, \d+ of 4096 pixels .*e\.g\. \(\d+, .*; put"
    ):
        ISPRS.decode(raw, path)


def test_class_ids_in_three_bands_are_no_isprs_label():
    raw = np.broadcast_to(blocks(64), (3, 64, 64))
    with pytest.raises(
        ValueError, match=r"label.tif: is no ISPRS label, all 4096 pixels are dark .*archive.kind=described"
    ):
        ISPRS.decode(raw, FILE)


def test_a_wholly_eroded_window_is_void():
    assert (ISPRS.decode(np.zeros((3, 8, 8), dtype=np.uint8), FILE) == VOID).all()


@pytest.mark.parametrize("code", [ISPRS, ExactColours(PALETTE)])
def test_colours_need_three_bands_and_ignore_alpha(code):
    ids = blocks(32, 4)
    with_alpha = np.concatenate([draw(ids), np.full((1, 32, 32), 255, np.uint8)])
    assert np.array_equal(code.decode(with_alpha, FILE), ids)
    with pytest.raises(ValueError, match=r"label.tif: label has 1 band\(s\) where three"):
        code.decode(ids[None], FILE)


@given(st.sets(st.tuples(*[st.integers(0, 255)] * 3), min_size=3, max_size=12), st.integers(0, 2**32 - 1))
def test_any_palette_is_decoded_exactly(colours, seed):
    *palette, void = colours
    ids = np.random.default_rng(seed).integers(0, len(palette) + 1, (5, 7)).astype(np.uint8)
    ids[ids == len(palette)] = VOID
    code = ExactColours(tuple(palette), (void,))
    assert np.array_equal(code.decode(draw(ids, palette, void), FILE), ids)


def test_unknown_colour_is_refused_with_its_count():
    raw = draw(blocks(32, 4))
    raw[:, 3, :5] = np.array([[12], [200], [3]])
    raw[:, 4, 4] = 9
    with pytest.raises(ValueError) as error:
        ExactColours(PALETTE).decode(raw, FILE)
    assert str(error.value) == (
        "folder/label.tif: label has the unknown colour (12, 200, 3) in 5 of 1024 pixels and 1 more unknown ones; "
        "add it to archive.classes or archive.void, or correct the file"
    )


def test_values_are_decoded_exactly():
    code = ExactValues((2, 5, 7), (0,))
    assert code.decode(np.array([[[7, 2], [0, 5]]], dtype=np.uint8), FILE).tolist() == [[2, 0], [VOID, 1]]
    with pytest.raises(ValueError, match=r"label.tif: label has the unknown value 3 in 1 of 2 pixels; add it to"):
        code.decode(np.array([[[3, 2]]], dtype=np.uint8), FILE)
    with pytest.raises(ValueError, match=r"label.tif: label has 3 bands but archive.classes gives single values"):
        code.decode(np.zeros((3, 2, 2), dtype=np.uint8), FILE)
