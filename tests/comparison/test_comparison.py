"""Runs of several seeds become one table: what is averaged, what is refused, and what is said beside it."""

from __future__ import annotations

import io
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from rich.console import Console

from drdg.comparison.runs import collect
from drdg.comparison.table import LABELS, MEANS, TABLES, compare
from drdg.comparison.write import title_of, write_comparison
from drdg.datasets import CLASSES
from drdg.experiments import ROWS
from drdg.published import f1_from_iou

REPOSITORY = Path(__file__).parents[2]
IRRG = "potsdam_irrg_to_vaihingen"
Run = Callable[..., Path]


def scores(miou: float, seed: int, **other: Any) -> dict[str, Any]:
    """Metrics whose mean IoU is ``miou``, clutter 6 points below and building 6 above it."""
    iou = dict(zip(CLASSES, [miou - 6, miou, miou, miou, miou, miou + 6], strict=True))
    f1 = {name: f1_from_iou(value) for name, value in iou.items()}
    return {
        "seed": seed,
        "direction": IRRG,
        "protocol": "global",
        "split": "test",
        "tops": ["1", "3"],
        "classes": list(CLASSES),
        "iou": iou,
        "f1": f1,
        "miou": miou,
        "mean_f1": statistics.fmean(f1.values()),
        "oa": miou + 20,
        "absent": [],
        "definition": "IoU of one confusion matrix.",
    } | other


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run's folder with the mIoU of each of its rows; None for a row that failed while its GAN was trained."""

    def write(seed: int, rows: Mapping[str, float | None], name: str | None = None, **other: Any) -> Path:
        folder = tmp_path / (name or f"seed{seed}")
        for row, miou in rows.items():
            if miou is None:
                (folder / row / "gan").mkdir(parents=True)
                continue
            place = folder / row / "evaluate"
            place.mkdir(parents=True)
            (place / "metrics.json").write_text(json.dumps(scores(miou, seed, **other)))
        return folder

    return write


def written(folders: list[Path], out: Path, table: str | None = None, width: int = 200) -> tuple[dict[str, Any], str]:
    """The JSON, and what the terminal shows."""
    shown = io.StringIO()
    write_comparison(folders, out, table, Console(file=shown, width=width))
    return json.loads((out / "comparison.json").read_text()), shown.getvalue()


def test_a_row_s_mean_and_sample_deviation_over_its_seeds(run: Run, tmp_path: Path) -> None:
    values = [50.0, 51.0, 55.0]
    folders = [run(seed, {"drdg": value, "baseline": 30.0 + seed}) for seed, value in enumerate(values)]
    report, shown = written(folders, tmp_path / "out")
    drdg = report["rows"]["drdg"]
    assert drdg["seeds"] == [0, 1, 2]
    assert drdg["miou"]["values"] == values
    assert drdg["miou"]["mean"] == pytest.approx(52)
    assert drdg["miou"]["sd"] == pytest.approx(np.std(values, ddof=1))
    assert drdg["oa"]["mean"] == pytest.approx(72)
    assert drdg["iou"]["building"]["mean"] == pytest.approx(58)
    assert drdg["f1"]["building"]["mean"] == pytest.approx(np.mean([f1_from_iou(value + 6) for value in values]))
    assert "52.00 ±2.65" in shown
    assert "Means over seeds (0, 1, 2)" in shown


def test_printed_numbers_stand_beside_ours(run: Run, tmp_path: Path) -> None:
    report, shown = written([run(0, {"drdg": 50.0, "rdg_osa": 51.0, "cyclegan": 40.0})], tmp_path / "out")
    rows = report["rows"]
    assert rows["drdg"]["miou"]["printed"] == {"value": 53.26, "source": "DRDG", "verified": True}
    assert rows["drdg"]["f1"]["building"]["printed"]["value"] == 87.41
    assert rows["drdg"]["oa"]["printed"] is None
    # The mean was read in the abstract; the classes are only cited.
    assert rows["rdg_osa"]["miou"]["printed"]["verified"] is True
    assert rows["rdg_osa"]["iou"]["car"]["printed"] == {"value": 57.01, "source": "RDG, as cited", "verified": False}
    assert rows["cyclegan"]["miou"]["printed"] is None
    assert "53.26" in shown
    assert "57.01?" in shown
    assert "Printed, but not run here: Baseline, Benjdira-style, AdaptSegNet, MUCSS-style, RDG, " in shown
    text = (tmp_path / "out/comparison.md").read_text()
    assert "| DRDG | 1 | 50.00 | 53.26 |" in text
    assert "CCDA_LGFA: ProDA 44.68 / 58.05" in text
    assert "means over batches of tiles" in text


def test_nothing_is_said_of_print_in_a_direction_without(run: Run, tmp_path: Path) -> None:
    folder = run(0, {"drdg": 50.0, "baseline": 30.0}, direction="eugene_to_frankfort")
    report, shown = written([folder], tmp_path / "out")
    assert report["rows"]["drdg"]["miou"]["printed"] is None
    assert "No printed numbers for the direction eugene_to_frankfort." in shown
    assert "Eugene to Frankfort" in shown
    assert "rinted |" not in (tmp_path / "out/comparison.md").read_text()


def test_the_authors_protocol_needs_no_warning(run: Run, tmp_path: Path) -> None:
    report, _ = written([run(0, {"drdg": 50.0}, protocol="authors_batch_mean")], tmp_path / "out")
    assert not any("means over batches" in remark for remark in report["remarks"])


def test_one_seed_has_no_spread_and_is_named(run: Run, tmp_path: Path) -> None:
    report, shown = written([run(0, {"drdg": 50.0, "rdg": 49.0}), run(1, {"rdg": 47.0})], tmp_path / "out")
    assert report["rows"]["drdg"]["miou"]["sd"] is None
    assert report["rows"]["rdg"]["miou"]["sd"] == pytest.approx(2**0.5)
    assert "One seed only, so without a spread: DRDG." in shown


def test_rows_stand_in_the_paper_s_order_the_ceiling_last(run: Run, tmp_path: Path) -> None:
    rows = ["oracle", "my_own", "drdg", "baseline", "mucss", "adaptsegnet", "benjdira", "rdg"]
    report, shown = written([run(0, dict.fromkeys(rows, 40.0) | {"oracle": 70.0})], tmp_path / "out")
    order = ["baseline", "benjdira", "adaptsegnet", "mucss", "rdg", "drdg", "my_own", "oracle"]
    assert list(report["rows"]) == order
    assert report["rows"]["mucss"]["label"] == "MUCSS-style"
    assert "Oracle (learns from target labels) is a ceiling" in shown
    text = (tmp_path / "out/comparison.md").read_text()
    assert "| **40.00** |" in text
    assert "**70.00**" not in text


def test_every_row_of_the_suite_has_a_name_for_readers() -> None:
    assert set(ROWS) <= set(LABELS)
    assert all(row in ROWS for rows in TABLES.values() for row in rows)


@pytest.mark.parametrize(("table", "rows"), [("main", ["baseline", "drdg"]), ("ablation", ["drdg_wo_dsl", "drdg"])])
def test_only_one_of_the_paper_s_tables(run: Run, tmp_path: Path, table: str, rows: list[str]) -> None:
    folder = run(0, {"baseline": 30.0, "drdg": 50.0, "drdg_wo_dsl": 49.0, "oracle": 70.0, "cyclegan": 40.0})
    report, _ = written([folder], tmp_path / "out", table)
    assert list(report["rows"]) == rows
    with pytest.raises(ValueError, match="no run has scores of a row of the main table"):
        compare(collect([run(1, {"oracle": 70.0})]), "main")


def test_where_our_order_is_not_the_printed_one(run: Run, tmp_path: Path) -> None:
    ours = {"adaptsegnet": 42.0, "mucss": 45.0, "rdg": 50.0, "drdg": 49.0}
    folders = [run(0, ours), run(1, ours | {"adaptsegnet": 42.5, "mucss": 44.5, "rdg": 52.0, "drdg": 52.0})]
    found = written(folders, tmp_path / "out")[0]["order_differences"]
    assert len(found) == 2
    assert "MUCSS-style is above AdaptSegNet here (44.75 and 42.25 mIoU), below it in print (43.72 and" in found[0]
    assert "RDG is above DRDG here (51.00 and 50.50 mIoU, which is within the spread of the seeds)" in found[1]


def test_an_equal_order_is_said_and_no_order_across_papers_is(run: Run, tmp_path: Path) -> None:
    # RDG with OSA, of another paper, is above DRDG in print.
    report, _ = written([run(0, {"baseline": 30.0, "rdg_osa": 40.0, "drdg": 50.0})], tmp_path / "out")
    assert report["order_differences"] == ["By mIoU our rows are in the printed order."]


def test_failed_rows_are_named_with_what_is_known(run: Run, tmp_path: Path) -> None:
    folder = run(4, {"baseline": 30.0, "drdg": None})
    (folder / "report.json").write_text(json.dumps({"rows": {}, "missing": {"rdg": "its loss was not finite"}}))
    broken = folder / "mucss/evaluate"
    broken.mkdir(parents=True)
    (broken / "metrics.json").write_text("{")
    report, shown = written([folder], tmp_path / "out")
    assert {entry["row"] for entry in report["missing"]} == {"drdg", "rdg", "mucss"}
    assert "No scores for drdg (seed 4): it was not evaluated; the last stage begun is gan." in shown
    assert "No scores for rdg (seed 4): its loss was not finite." in shown
    assert "is not JSON" in shown
    assert report["rows"]["drdg"]["seeds"] == []


def test_a_report_of_before_seeds_were_written_tells_the_seed(run: Run, tmp_path: Path) -> None:
    folder = run(3, {})
    (folder / "drdg/evaluate").mkdir(parents=True)
    old = {key: value for key, value in scores(50.0, 3).items() if key not in ("seed", "direction", "protocol")}
    (folder / "drdg/evaluate/metrics.json").write_text(json.dumps(old))
    (folder / "report.json").write_text(json.dumps({"rows": {"drdg": {"seed": 3}}, "missing": {}}))
    report, shown = written([folder], tmp_path / "out")
    assert report["rows"]["drdg"]["seeds"] == [3]
    assert "Runs compared" in shown


@pytest.mark.parametrize(
    "other",
    [
        {"classes": ["car"]},
        {"split": "val"},
        {"tops": ["1"]},
        {"definition": "Something else."},
        {"direction": "potsdam_rgb_to_vaihingen"},
    ],
)
def test_runs_scored_differently_are_refused(run: Run, tmp_path: Path, other: dict[str, Any]) -> None:
    folders = [run(0, {"drdg": 50.0}), run(1, {"drdg": 50.0}, **other)]
    with pytest.raises(ValueError, match=f"seed0 and row drdg of .*seed1 cannot stand.* another {next(iter(other))};"):
        written(folders, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_seed_is_counted_once(run: Run, tmp_path: Path) -> None:
    folders = [run(0, {"drdg": 50.0}), run(0, {"drdg": 50.0}, name="again")]
    with pytest.raises(ValueError, match="both have row drdg with seed 0; give runs of different seeds"):
        collect(folders)


def test_folders_that_are_no_runs_are_refused(run: Run, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere: is no folder of a run"):
        collect([tmp_path / "nowhere"])
    with pytest.raises(ValueError, match="none of its rows has scores yet"):
        collect([run(0, {"drdg": None})])


def test_an_absent_class_has_no_column(run: Run, tmp_path: Path) -> None:
    folder = run(0, {"drdg": 50.0}, absent=["car"])
    report, shown = written([folder], tmp_path / "out")
    assert list(report["rows"]["drdg"]["iou"]) == [name for name in CLASSES if name != "car"]
    assert "Absent from the labels, so without scores: car." in shown
    assert "Printed means are over six classes" in shown


@pytest.mark.parametrize("width", [60, 80, 200])
def test_no_number_is_cut_off_however_narrow_the_terminal(run: Run, tmp_path: Path, width: int) -> None:
    folders = [run(seed, dict.fromkeys(LABELS, 40.0 + seed)) for seed in (0, 1)]
    _, shown = written(folders, tmp_path / "out", width=width)
    assert "…" not in shown
    assert shown.count("40.50 ±0.71") == len(LABELS) * 5  # mIoU and the four classes with that value
    assert max(map(len, shown.splitlines())) <= width


def test_the_picture_has_a_bar_a_spread_and_a_mark_where_there_is_one(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures: list[Figure] = []
    drawn = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (figures.append(self), drawn(self, *a, **k))[1])
    folders = [run(0, {"baseline": 30.0, "drdg": 50.0, "cyclegan": 4.0, "dualgan": None}), run(1, {"drdg": 54.0})]
    written(folders, tmp_path / "out")
    axes = figures[0].axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["Baseline", "CycleGAN", "DualGAN", "DRDG"]
    assert sorted(patch.get_width() for patch in axes.patches) == pytest.approx([4, 30, 52])
    assert len(axes.containers) - len(axes.patches) == 1, "only DRDG has two seeds"
    marks = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "D"]
    assert marks == pytest.approx([31.90, 53.26])
    said = [text.get_text() for text in axes.texts]
    assert said == ["30.0", "31.9", "4.0", "no scores", "52.0", "53.3"]
    with Image.open(tmp_path / "out/comparison.png") as picture:
        assert np.asarray(picture.convert("RGB")).std() > 20


def test_the_ceiling_is_no_competitor(run: Run) -> None:
    table = compare(collect([run(0, {"drdg": 50.0, "rdg": 49.0, "oracle": 70.0})]))
    assert [line.mean(MEANS[0]) for line in table.lines] == [49.0, 50.0, 70.0]


@pytest.mark.parametrize(
    ("direction", "title"), [(IRRG, "Potsdam IRRG to Vaihingen"), ("eugene_to_frankfort", "Eugene to Frankfort")]
)
def test_a_direction_is_a_heading(direction: str, title: str) -> None:
    assert title_of(direction) == title


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, str(REPOSITORY / "launch/report.py"), *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, timeout=300)


def test_the_command(run: Run, tmp_path: Path) -> None:
    folders = [run(seed, {"drdg": 50.0 + seed}) for seed in (0, 1)]
    assert f"to {tmp_path}" in command(*folders, "--dry-run").stdout
    done = command(*folders, "--table", "ablation")
    assert done.returncode == 0, done.stderr
    assert "50.50 ±0.71" in done.stdout
    names = {"comparison.md", "comparison.json", "comparison.png"}
    assert names == {path.name for path in tmp_path.iterdir() if path.is_file()}
    configuration = tmp_path / "seed0.yaml"
    configuration.write_text(f"run: {{name: seed0, root: {tmp_path}}}\n")
    done = command("--config", configuration, folders[1], "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out/comparison.md").read_text().count("50.50 ±0.71") == 5
    for arguments, said in (([], "name the folders of the runs"), ([tmp_path / "gone"], "is no folder of a run")):
        done = command(*arguments)
        assert done.returncode == 2
        assert said in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
