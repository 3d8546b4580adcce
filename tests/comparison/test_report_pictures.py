"""What the report's pictures are drawn from: bands of seeds, shares of the truth, crops of one place."""

from __future__ import annotations

import io
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from sweep_stores import IRRG, Reported, town

from drdg.comparison.chapters import Chapter, chapters
from drdg.comparison.colours import OKABE_ITO, looks
from drdg.comparison.confusion import draw_matrices, in_percent, read_matrices
from drdg.comparison.curves import band, draw_curves, read_curves
from drdg.comparison.exhibits import IN_TARGET, draw_target, load, read_targets, shown_cells
from drdg.comparison.table import LABELS
from drdg.datasets import CLASSES, PALETTE
from drdg.tracking.query import SweepRecord, open_sweep


@pytest.fixture(scope="module")
def record(reported: Reported) -> SweepRecord:
    return open_sweep(reported.uri, "drdg", reported.run_id)


@pytest.fixture(scope="module")
def chapter(record: SweepRecord) -> Chapter:
    return next(found for found in chapters(record) if found.direction == IRRG)


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Every figure that is saved."""
    found: list[Figure] = []
    drawn = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (found.append(self), drawn(self, *a, **k))[1])
    return found


def test_curves_are_the_losses_of_the_shown_results(record: SweepRecord, chapter: Chapter) -> None:
    curves = read_curves(record, chapter, "gan")
    assert set(curves) == {"gan/critic/wasserstein", "gan/critic/penalty", "gan/generator/cycle", "gan/generator/dsl"}
    assert set(curves["gan/generator/dsl"]) == {"drdg"}
    assert {row: len(seeds) for row, seeds in curves["gan/critic/penalty"].items()} == {
        "baseline": 2,
        "rdg": 2,
        "drdg": 2,
    }
    assert set(read_curves(record, chapter, "segment")) == {"segment/cross_entropy"}


def test_a_band_is_the_mean_the_least_and_the_greatest_of_its_seeds() -> None:
    found = band([[(0, 1.0), (10, 2.0), (20, 6.0)], [(20, 2.0), (0, 3.0), (10, 8.0)]])
    assert found.steps.tolist() == [0, 10, 20]
    assert found.mean.tolist() == [2, 5, 4]
    assert found.low.tolist() == [1, 2, 2]
    assert found.high.tolist() == [3, 8, 6]
    assert found.seeds == 2


def test_a_seed_that_ended_early_counts_as_far_as_it_came() -> None:
    found = band([[(0, 1.0), (10, 3.0)], [(0, 3.0), (10, 5.0), (20, 7.0)]])
    assert found.mean.tolist() == [2, 4, 7]
    assert found.high.tolist() == [3, 5, 7]


def test_what_is_not_finite_leaves_a_gap() -> None:
    for value in (math.nan, math.inf, -math.inf, sys.float_info.max):
        found = band([[(0, 1.0), (10, value), (20, 3.0)]])
        assert math.isnan(found.mean[1])
        assert math.isnan(found.low[1])
        assert (found.mean[0], found.mean[2]) == (1, 3)


def test_long_series_are_smoothed() -> None:
    noise = np.random.default_rng(0).normal(size=2000)
    found = band([[(step, float(value)) for step, value in enumerate(noise)]])
    assert np.std(found.mean[200:]) < 0.2


def test_each_row_has_a_line_and_a_look_of_its_own(tmp_path: Path, figures: list[Figure]) -> None:
    series = [[(0, 1.0), (10, 2.0)], [(0, 2.0), (10, 3.0)]]
    curves = {"gan/a": dict.fromkeys(LABELS, series), "gan/b": {"drdg": series[:1]}}
    draw_curves(curves, tmp_path / "curves.png", "Title")
    lines = figures[0].axes[0].lines
    assert len({(line.get_color(), str(line._dash_pattern)) for line in lines}) == len(LABELS)
    assert {line.get_color() for line in lines} == set(OKABE_ITO)
    assert len(figures[0].axes[0].collections) == len(LABELS)
    assert len(figures[0].axes[1].collections) == 0, "one seed has no band"
    assert [text.get_text() for text in figures[0].legends[0].get_texts()] == list(LABELS.values())
    inside(figures[0])


def inside(figure: Figure) -> None:
    """No text of a figure reaches beyond its edge, and no two headings overlap."""
    figure.canvas.draw()
    width, height = figure.canvas.get_width_height()
    texts = [text for axes in figure.axes for text in (axes.title, axes.xaxis.label, *axes.texts)]
    texts += [text for legend in figure.legends for text in legend.get_texts()]
    boxes = [text.get_window_extent() for text in texts if text.get_text() and text.get_visible()]
    for box in boxes:
        assert box.x0 > -1
        assert box.y0 > -1
        assert box.x1 < width + 1
        assert box.y1 < height + 1


def test_looks_do_not_depend_on_the_order() -> None:
    assert looks(["drdg", "rdg"]) == looks(["rdg", "drdg"])


def test_a_row_looks_alike_in_all_pictures_of_a_sweep(tmp_path: Path, figures: list[Figure]) -> None:
    series = [[(0, 1.0), (10, 2.0)]]
    rows = ["baseline", "cyclegan", "rdg", "drdg"]
    for name, drawn in (("gan", rows[2:]), ("segment", rows)):
        draw_curves({f"{name}/loss": dict.fromkeys(drawn, series)}, tmp_path / f"{name}.png", "Title", rows)
    first, second = ({line.get_color() for line in figure.axes[0].lines[-2:]} for figure in figures)
    assert first == second == {looks(rows)["rdg"].colour, looks(rows)["drdg"].colour}


def test_confusion_is_in_percent_of_the_truth_over_all_seeds(chapter: Chapter) -> None:
    matrices = read_matrices(chapter.outcomes)
    assert list(matrices) == ["baseline", "mucss", "rdg", "drdg", "oracle"]
    own = [out.result.scores["confusion"] for out in chapter.outcomes if out.result.name == "rdg"]
    assert (matrices["rdg"] == np.array(own[0]) + np.array(own[1])).all()
    assert in_percent(matrices["rdg"]).sum(axis=1) == pytest.approx(np.full(6, 100))
    shares = in_percent(np.array([[3, 1], [0, 0]]))
    assert shares[0].tolist() == [75, 25]
    assert np.isnan(shares[1]).all()


@pytest.mark.parametrize("rows", [1, 5, 15])
def test_matrices_have_their_numbers(tmp_path: Path, figures: list[Figure], rows: int) -> None:
    matrix = np.diag([5, 3, 2, 0, 1, 1])
    draw_matrices(dict.fromkeys(list(LABELS)[:rows], matrix), CLASSES, tmp_path / "all.png", "Confusion")
    drawn = [axes for axes in figures[0].axes if axes.texts]
    assert len(drawn) == rows
    assert [text.get_text() for text in drawn[0].texts].count("100") == 5
    assert len(drawn[0].texts) == 30, "the class without truth has none"
    inside(figures[0])


def test_panels_have_each_row_s_map_of_the_lowest_seed(
    record: SweepRecord, chapter: Chapter, reported: Reported
) -> None:
    cells = shown_cells(chapter)
    assert [(cell.row, cell.seed) for cell in cells] == [
        (row, 0) for row in ("baseline", "mucss", "rdg", "drdg", "oracle")
    ]
    targets = read_targets(record, cells)
    assert list(targets) == ["1", "3", "5"]
    assert list(targets["1"]) == ["baseline", "rdg", "drdg", "oracle"], "nothing was kept of mucss"
    with Image.open(reported.out / IRRG / "panel_1.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    for colour in PALETTE:
        assert (pixels == colour).all(axis=1).mean() > 0.005
    assert "No class map of this crop: MUCSS-style." in reported.text("index.html")


def test_a_crop_of_another_place_is_left_out(tmp_path: Path) -> None:
    def crop(seed: int) -> dict[str, object]:
        image, label, _ = town(seed, 48)
        known = {"classes": np.array(CLASSES), "palette": np.array(PALETTE, dtype=np.uint8)}
        return {"image": image, "label": label, "prediction": label, **known}

    rows = {"rdg": crop(0), "drdg": crop(0), "oracle": crop(1)}
    assert draw_target("1", rows, tmp_path / "panel.png", "TOP 1") == ["rdg", "drdg"]


def test_exhibits_that_are_damaged_or_lack_something_are_none() -> None:
    whole = io.BytesIO()
    np.savez(whole, image=np.zeros(3))
    assert load(None, IN_TARGET) is None
    assert load(b"no zip", IN_TARGET) is None
    assert load(whole.getvalue(), IN_TARGET) is None
    assert load(whole.getvalue()[:-30], {"image"}) is None
    assert load(whole.getvalue(), {"image"}) is not None
