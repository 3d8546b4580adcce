"""The table says what was measured, compares with its first row, and never hides a row that has no scores."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from drdg.report import RowResult, markdown, write_report

CLASSES = ["clutter", "car", "low_vegetation"]


def scores(car: float, grass: float, **other: Any) -> dict[str, Any]:
    iou = {"car": car, "low_vegetation": grass}
    f1 = {name: 200 * value / (100 + value) for name, value in iou.items()}
    return {
        "split": "test",
        "tops": ["1", "3"],
        "classes": CLASSES,
        "confusion": [[0, 0, 0]] * 3,
        "iou": iou,
        "f1": f1,
        "miou": (car + grass) / 2,
        "mean_f1": sum(f1.values()) / 2,
        "oa": 80.0,
        "absent": ["clutter"],
        "definition": "IoU of one confusion matrix.",
    } | other


def three_rows() -> list[RowResult]:
    return [
        RowResult("baseline", 0, scores(10.0, 60.0)),
        RowResult("rdg", 0, None, "runs/rdg/metrics.json: No such file or directory"),
        RowResult("drdg", 0, scores(30.0625, 55.0)),
    ]


def printed(rows: list[RowResult], folder: Path, width: int = 200, **keywords: Any) -> str:
    out = io.StringIO()
    write_report(rows, folder, 12.34, console=Console(file=out, width=width), **keywords)
    return out.getvalue()


def test_the_json_holds_every_number_in_percent(tmp_path: Path) -> None:
    returned = write_report(three_rows(), tmp_path, 12.34, notes=["A note."], console=Console(file=io.StringIO()))
    report = json.loads((tmp_path / "report.json").read_text())
    assert report == returned
    assert report["seconds"] == 12.3
    assert report["definition"] == "IoU of one confusion matrix."
    assert report["notes"] == ["A note."]
    row = report["rows"]["drdg"]
    assert (row["miou"], row["oa"], row["seed"], row["split"]) == (42.53125, 80.0, 0, "test")
    assert row["iou"] == {"car": 30.0625, "low_vegetation": 55.0}
    assert row["f1"]["low_vegetation"] == pytest.approx(11000 / 155)
    assert row["absent"] == ["clutter"]
    assert list(report["rows"]) == ["baseline", "drdg"]
    assert report["missing"] == {"rdg": "runs/rdg/metrics.json: No such file or directory"}


def test_markdown_compares_with_the_first_row_and_marks_the_best() -> None:
    text = markdown(three_rows(), "Towns", 12.34, ["Target labels were read."])
    assert "| IoU, percent | clutter | car | low vegetation | mean | overall accuracy |" in text
    assert "| baseline | – | 10.0 | **60.0** | 35.0 | **80.0** |" in text
    assert "| rdg | – | – | – | – | – |" in text
    assert "| drdg | – | **30.1 +20.1** | 55.0 -5.0 | **42.5 +7.5** | **80.0 +0.0** |" in text
    assert "- No scores for rdg (seed 0): runs/rdg/metrics.json: No such file or directory." in text
    assert "Absent from the labels, so without scores: clutter." in text
    assert "Target labels were read." in text
    assert "Split test, TOPs 1, 3; seed 0." in text


def test_the_table_on_the_terminal_has_all_rows_and_names_the_missing_one(tmp_path: Path) -> None:
    text = printed(three_rows(), tmp_path, title="Towns")
    assert text.count("Towns") == 1
    (car,) = [line for line in text.splitlines() if "car" in line]
    assert "30.1 +20.1" in car
    assert "46.2 +28.0" in car
    assert "No scores for rdg (seed 0)" in text
    assert "IoU of one confusion matrix." in text


def test_a_narrow_terminal_gets_one_table_per_row_and_loses_no_number(tmp_path: Path) -> None:
    rows = [RowResult(f"a_row_with_quite_a_long_name_{i}", 0, scores(10.0 + i, 60.0)) for i in range(4)]
    text = printed(rows, tmp_path, width=80)
    assert text.count("overall accuracy") == 4
    assert "…" not in text
    assert all(f"{10 + i}.0" in text for i in range(4))


def test_without_a_first_row_nothing_is_compared(tmp_path: Path) -> None:
    rows = [RowResult("baseline", 0, None, "it failed"), RowResult("drdg", 1, scores(30.0, 55.0))]
    text = printed(rows, tmp_path)
    assert "+" not in text
    assert "difference" not in text
    assert "No scores for baseline (seed 0): it failed." in text
    assert "**" not in (tmp_path / "report.md").read_text()  # one row alone is not the best of anything


def test_no_scores_at_all_is_said(tmp_path: Path) -> None:
    text = printed([RowResult("drdg", 0, None, "it failed")], tmp_path)
    assert "No scores for drdg" in text
    assert json.loads((tmp_path / "report.json").read_text())["rows"] == {}


@pytest.mark.parametrize(
    "other", [{"classes": ["car"]}, {"split": "val"}, {"tops": ["1"]}, {"definition": "Something else."}]
)
def test_rows_that_cannot_be_compared_are_refused(tmp_path: Path, other: dict[str, Any]) -> None:
    rows = [RowResult("baseline", 0, scores(10.0, 60.0)), RowResult("drdg", 0, scores(30.0, 55.0, **other))]
    with pytest.raises(
        ValueError, match=f"rows baseline and drdg cannot stand in one table.*another {next(iter(other))}"
    ):
        printed(rows, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_row_is_read_from_what_evaluation_wrote(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    path.write_text(json.dumps(scores(30.0, 55.0)))
    row = RowResult.read("drdg", 2, path)
    assert row.seed == 2
    assert row.score("iou", "car") == 30.0
    assert row.score("iou", "clutter") is None
    assert row.score("f1", "overall accuracy") is None


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file"),
        ("{", "is not JSON"),
        ("[]", "has no split"),
        ('{"split": "test"}', "has no tops, classes"),
    ],
)
def test_a_file_that_cannot_be_used_is_the_rows_problem(tmp_path: Path, content: str | None, said: str) -> None:
    path = tmp_path / "metrics.json"
    if content is not None:
        path.write_text(content)
    row = RowResult.read("drdg", 0, path)
    assert row.metrics is None
    assert row.problem is not None
    assert str(path) in row.problem
    assert said in row.problem


def test_an_earlier_report_survives_a_failed_write(tmp_path: Path) -> None:
    printed(three_rows(), tmp_path)
    before = {path.name: path.read_text() for path in tmp_path.iterdir()}
    rows = [RowResult("baseline", 0, scores(float("nan"), 60.0))]
    with pytest.raises(ValueError, match="JSON"):
        printed(rows, tmp_path)
    assert (tmp_path / "report.json").read_text() == before["report.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(before)
