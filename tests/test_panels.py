"""Pictures show what they are given: the palette's colours, unknown heights as unknown, and nothing half-drawn."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from drdg.panels import VOID_COLOUR, TranslatedTile, _running_mean, colour, loss_curves, target_panel, translation_panel

CLASSES = ("road", "roof", "low_vegetation")
PALETTE = ((255, 255, 255), (0, 0, 255), (0, 255, 255))
RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (90, 70, 3), dtype=np.uint8)
LABEL = np.repeat([[0, 1, 2]], 90, axis=0).repeat([24, 23, 23], axis=1).astype(np.uint8)
HEIGHTS = np.linspace(100, 130, 90 * 70, dtype=np.float32).reshape(90, 70)


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB"))


def share(path: Path, shade: tuple[int, int, int]) -> float:
    return float((pixels(path) == shade).all(axis=-1).mean())


def test_ids_become_the_palettes_colours_and_all_others_void() -> None:
    picture = colour(np.array([[0, 1, 2, 3, 255]], dtype=np.uint8), PALETTE)
    assert picture.tolist() == [[*map(list, PALETTE), list(VOID_COLOUR), list(VOID_COLOUR)]]


def test_a_target_panel_shows_every_layer(tmp_path: Path) -> None:
    label = LABEL.copy()
    target_panel(tmp_path / "whole.png", IMAGE, HEIGHTS, label, {"drdg": label}, CLASSES, PALETTE, gsd_m=0.09)
    assert share(tmp_path / "whole.png", PALETTE[1]) > 0.08  # a third of two pictures of four
    assert share(tmp_path / "whole.png", VOID_COLOUR) < 1e-4  # a letter's edge may have any grey
    label[:45] = 255
    target_panel(tmp_path / "void.png", IMAGE, HEIGHTS, label, {"drdg": LABEL}, CLASSES, PALETTE, title="TOP 1")
    assert share(tmp_path / "void.png", VOID_COLOUR) > 0.05


def test_layers_that_are_not_there_get_no_picture_and_many_rows_a_second_line(tmp_path: Path) -> None:
    target_panel(tmp_path / "two.png", IMAGE, None, None, {"drdg": LABEL}, CLASSES, PALETTE)
    target_panel(tmp_path / "eight.png", IMAGE, None, LABEL, dict.fromkeys("abcdef", LABEL), CLASSES, PALETTE)
    target_panel(tmp_path / "seven.png", IMAGE, None, LABEL, dict.fromkeys("abcde", LABEL), CLASSES, PALETTE)
    two, eight, seven = (pixels(tmp_path / f"{name}.png").shape for name in ("two", "eight", "seven"))
    assert eight[1] == 2 * two[1]
    assert eight[0] > 1.8 * two[0]
    assert seven == eight


@pytest.mark.parametrize(
    "heights",
    [
        np.full((90, 70), np.nan, dtype=np.float32),
        np.full((90, 70), 100.0, dtype=np.float32),
        np.where(np.arange(70) < 9, np.nan, HEIGHTS),
    ],
    ids=["unknown", "flat", "partly unknown"],
)
def test_heights_that_are_unknown_or_flat_are_drawn(tmp_path: Path, heights: np.ndarray) -> None:
    target_panel(tmp_path / "panel.png", IMAGE, heights, None, {}, CLASSES, PALETTE)
    is_unknown = bool(np.isnan(heights).any())
    assert (share(tmp_path / "panel.png", VOID_COLOUR) > 0.02) == is_unknown


def test_one_wrong_height_does_not_take_the_whole_scale(tmp_path: Path) -> None:
    target_panel(tmp_path / "right.png", IMAGE, HEIGHTS, None, {}, CLASSES, PALETTE)
    wrong = HEIGHTS.copy()
    wrong[0, 0] = 9999
    target_panel(tmp_path / "wrong.png", IMAGE, wrong, None, {}, CLASSES, PALETTE)
    difference = np.abs(pixels(tmp_path / "right.png").astype(int) - pixels(tmp_path / "wrong.png"))
    assert (difference > 8).mean() < 0.02


def test_a_large_picture_is_drawn_small(tmp_path: Path) -> None:
    image = np.zeros((3000, 1501, 3), dtype=np.uint8)
    label = np.ones((3000, 1501), dtype=np.uint8)
    target_panel(tmp_path / "panel.png", image, None, label, {}, CLASSES, PALETTE)
    assert max(pixels(tmp_path / "panel.png").shape) < 1500
    assert share(tmp_path / "panel.png", PALETTE[1]) > 0.25


def test_a_translation_panel_has_a_line_per_tile_and_a_column_per_layer(tmp_path: Path) -> None:
    whole = TranslatedTile(IMAGE[:70], HEIGHTS[:70], LABEL[:70], IMAGE[:40, :40], HEIGHTS[:40, :40] / 200)
    bare = TranslatedTile(IMAGE[:70], None, None, IMAGE[:40, :40])
    translation_panel(tmp_path / "both.png", [whole, bare], CLASSES, PALETTE, title="to Vaihingen")
    translation_panel(tmp_path / "bare.png", [bare], CLASSES, PALETTE)
    both, alone = pixels(tmp_path / "both.png").shape, pixels(tmp_path / "bare.png").shape
    assert both[1] == pytest.approx(2.5 * alone[1], abs=2)
    assert both[0] > 1.8 * alone[0]


def test_running_mean_looks_back_and_skips_the_unknown() -> None:
    assert _running_mean(np.array([1.0, 3.0, np.nan, 5.0, 7.0]), 2).tolist() == [1.0, 2.0, 3.0, 5.0, 6.0]


def test_curves_of_any_length_are_drawn(tmp_path: Path) -> None:
    history = {
        "critic": [(step, 1 / (1 + step)) for step in range(0, 400, 2)],
        "cycle": [(20, float("nan")), (10, 1.0), (30, float("inf"))],
        "generator": [(1, 2.0)],
        "nothing yet": [],
    }
    loss_curves(tmp_path / "curves" / "loss.png", history, title="seed 0")
    assert share(tmp_path / "curves" / "loss.png", (255, 255, 255)) < 0.99


def test_a_picture_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", broken)
    with pytest.raises(OSError, match="disk full"):
        loss_curves(tmp_path / "loss.png", {"a": [(1, 1.0)]})
    assert list(tmp_path.iterdir()) == []


def test_no_display_is_asked_for(tmp_path: Path) -> None:
    loss_curves(tmp_path / "loss.png", {"a": [(1, 1.0)]})
    assert "matplotlib.pyplot" not in sys.modules or sys.modules["matplotlib.pyplot"].get_fignums() == []
