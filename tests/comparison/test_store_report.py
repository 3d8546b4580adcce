"""A sweep's report, from its store alone: every number, in every format, and everything that is missing, by name."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from sweep_stores import FAILED, IRRG, RGB, Cell, Reported, metrics_of, write_sweep

from drdg.comparison.latex import escape
from drdg.comparison.store_report import write_report
from drdg.comparison.table import TABLES
from drdg.published import published_for
from drdg.tracking import Tracking
from drdg.tracking.query import open_sweep

REPOSITORY = Path(__file__).parents[2]
TOPS = ("1", "3", "5")
KINDS = ("md", "tex", "csv")
SCORED = {"baseline": (0, 1), "rdg": (0, 1), "drdg": (0, 1), "oracle": (0, 1), "mucss": (0,)}


@pytest.fixture(scope="module")
def report(reported: Reported) -> dict[str, Any]:
    return dict(json.loads(reported.text("report.json")))


@pytest.fixture(scope="module")
def scores(reported: Reported) -> Mapping[tuple[str, int], Mapping[str, Any]]:
    """What each shown cell was scored with, by row and seed."""
    return {(cell.row, cell.seed): metrics_of(cell, TOPS) for cell in reported.cells if cell.seed in shown_seeds(cell)}


def shown_seeds(cell: Cell) -> tuple[int, ...]:
    return SCORED.get(cell.row, ()) if cell.direction == IRRG else ()


def test_both_of_the_paper_s_tables_are_there_whatever_was_run(report: dict[str, Any]) -> None:
    for direction in (IRRG, RGB):
        assert tuple(report["directions"][direction]["table1"]["rows"]) == TABLES["main"]
        assert tuple(report["directions"][direction]["table2"]["rows"]) == TABLES["ablation"]
    assert list(report["directions"][IRRG]["others"]["rows"]) == ["cyclegan", "oracle"]
    assert report["directions"][IRRG]["table1"]["not_run"] == ["adaptsegnet"]
    assert report["directions"][IRRG]["table2"]["not_run"] == ["drdg_wo_dsl", "drdg_wo_dccl"]


def test_means_are_over_the_seeds_with_scores_and_stand_beside_print(
    report: dict[str, Any], scores: Mapping[tuple[str, int], Mapping[str, Any]]
) -> None:
    table = report["directions"][IRRG]["table1"]["rows"]
    for row in ("baseline", "rdg", "drdg"):
        values = [scores[row, seed]["miou"] for seed in SCORED[row]]
        assert table[row]["seeds"] == list(SCORED[row])
        assert table[row]["miou"]["mean"] == pytest.approx(statistics.fmean(values))
        assert table[row]["miou"]["sd"] == pytest.approx(statistics.stdev(values))
        printed = next(entry.miou for entry in published_for(IRRG) if entry.row == row)
        assert table[row]["miou"]["printed"]["value"] == printed
        assert table[row]["miou"]["difference"] == pytest.approx(statistics.fmean(values) - printed)
    assert table["mucss"]["miou"]["sd"] is None
    assert table["benjdira"]["miou"]["mean"] is None


@pytest.mark.parametrize("name", ["report.md", "index.html", f"{IRRG}/table1.md", f"{IRRG}/table1.tex"])
def test_every_format_has_the_mean_the_spread_each_seed_and_the_printed_number(
    reported: Reported, report: dict[str, Any], scores: Mapping[tuple[str, int], Mapping[str, Any]], name: str
) -> None:
    text = reported.text(name)
    found = report["directions"][IRRG]["table1"]["rows"]["drdg"]["miou"]
    mean, sd = f"{found['mean']:.2f}", f"{found['sd']:.2f}"
    bold = {"md": f"**{mean} ±{sd}**", "html": f"<b>{mean} ±{sd}</b>", "tex": rf"$\mathbf{{{mean} \pm {sd}}}$"}
    assert bold[name.rpartition(".")[2]] in text
    assert "53.26" in text
    assert f"{found['difference']:+.2f}" in text
    for seed in SCORED["drdg"]:
        assert f"{scores['drdg', seed]['miou']:.2f}" in text


def test_no_cell_without_scores_hides(reported: Reported, report: dict[str, Any]) -> None:
    expected = {
        f"{IRRG}/seed1/mucss": FAILED,
        f"{IRRG}/seed0/benjdira": "it was scored with other settings than the sweep has now",
        f"{IRRG}/seed1/benjdira": "nobody has settled it yet",
        f"{IRRG}/seed2/drdg": "it was scored with another split than row baseline of",
        f"{IRRG}/seed0/cyclegan": "its metrics.json has no split, tops, classes",
        f"{RGB}/seed0/drdg": "its GAN was cancelled",
    }
    assert set(report["missing"]) == set(expected)
    page = reported.text("index.html").replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    assert "Missing: 6 of 15 cells" in page
    for key, reason in expected.items():
        assert reason in report["missing"][key]
        assert f"<b>{key}</b>: {reason}" in page
        assert f"**{key}**: {reason}" in reported.text("report.md")
        assert key in reported.shown
    table = {kind: reported.text(f"{IRRG}/table1.{kind}") for kind in KINDS}
    assert f"| MUCSS-style | 1 | missing: {FAILED}" in table["md"]
    assert r"missing: FloatingPointError: 100 \% of gan/critic\_1 \& more is nan; see $<$log$>$" in table["tex"]
    assert "| AdaptSegNet | not run |" in table["md"]
    assert "AdaptSegNet & not run & --" in table["tex"]
    assert "| Benjdira-style | 0 of 2 |" in table["md"]
    assert "| DRDG | 2 of 3 |" in table["md"]


def test_scores_of_other_settings_are_nowhere(reported: Reported) -> None:
    stale = next(cell for cell in reported.cells if cell.row == "benjdira" and cell.seed == 0)
    number = f"{metrics_of(stale, TOPS)['miou']:.2f}"
    for name in ("report.md", "index.html", "report.json", *(f"{IRRG}/table1.{kind}" for kind in KINDS)):
        assert not re.search(rf"(?<![\d.]){re.escape(number)}", reported.text(name).partition("<img")[0]), name
    assert not (reported.out / IRRG / "translation_benjdira.png").exists()


def test_the_spreadsheet_has_a_line_for_each_number(
    reported: Reported, scores: Mapping[tuple[str, int], Mapping[str, Any]]
) -> None:
    lines = list(csv.DictReader(io.StringIO(reported.text(f"{IRRG}/table1.csv"))))
    seeds = [line for line in lines if line["kind"] == "seed"]
    shown = [(row, seed) for row in TABLES["main"] for seed in SCORED.get(row, ())]
    assert len(seeds) == len(shown) * 15  # three means, six classes, two measures
    for line in seeds:
        own = scores[line["row"], int(line["seed"])]
        value = own[line["measure"]][line["class"]] if line["class"] else own[line["measure"]]
        assert float(line["percent"]) == pytest.approx(value)
    mean = next(line for line in lines if (line["row"], line["kind"], line["measure"]) == ("rdg", "mean", "miou"))
    values = [scores["rdg", seed]["miou"] for seed in (0, 1)]
    assert float(mean["percent"]) == pytest.approx(statistics.fmean(values))
    assert float(mean["sd"]) == pytest.approx(statistics.stdev(values))
    assert (mean["seeds"], mean["printed"], mean["printed_source"]) == ("2", "51.75", "DRDG")
    assert float(mean["difference"]) == pytest.approx(statistics.fmean(values) - 51.75)
    problems = {(line["row"], line["seed"]): line["problem"] for line in lines if line["problem"]}
    assert problems["mucss", "1"] == FAILED
    assert problems["adaptsegnet", ""] == "not run"


def test_what_the_numbers_are_stands_beside_them(reported: Reported) -> None:
    for name in ("report.md", "index.html"):
        text = reported.text(name)
        for said in (
            "split test of the target, TOPs 1, 3, 5",
            "means over 6 classes (clutter, impervious surface, car, tree, low vegetation, building)",
            "Void pixels of the labels: they are left out",
            "Protocol global, and which checkpoint was scored: Percent from one confusion matrix",
            "the weights of the last update",
            "± sample standard deviation",
        ):
            assert said in text, (name, said)


def test_differences_between_rows_are_tested(reported: Reported, report: dict[str, Any]) -> None:
    found = {entry["other"]: entry for entry in report["directions"][IRRG]["differences"]}
    assert list(found) == ["baseline", "cyclegan", "benjdira", "mucss", "rdg", "oracle"]
    assert found["baseline"]["seeds"] == [0, 1]
    assert found["baseline"]["low"] > 0
    assert found["baseline"]["p"] == 0.25  # which is all that three TOPs can show
    assert found["mucss"]["seeds"] == [0]
    assert found["benjdira"]["reason"] == "Benjdira-style has no scores"
    for name in ("report.md", "index.html", f"{IRRG}/significance.tex"):
        text = reported.text(name)
        assert "not tested: Benjdira-style has no scores" in text
        assert "not over trainings" in text
        assert f"{found['rdg']['points']:+.2f}" in text
    lines = list(csv.DictReader(io.StringIO(reported.text(f"{IRRG}/significance.csv"))))
    assert float(lines[0]["p"]) == found["baseline"]["p"]


def test_a_direction_without_scores_has_its_tables_and_no_pictures(reported: Reported, report: dict[str, Any]) -> None:
    assert report["directions"][RGB]["table1"]["rows"]["drdg"]["seeds"] == []
    assert "missing: its GAN was cancelled" in reported.text(f"{RGB}/table1.md")
    assert [path.suffix for path in (reported.out / RGB).glob("*.png")] == []
    assert "No pictures, as no cell of this direction has scores." in reported.text("index.html")


def test_the_pictures(reported: Reported) -> None:
    names = {path.name for path in (reported.out / IRRG).glob("*.png")}
    scores = {"scores.png", "classes.png", "confusion.png"}
    panels = {f"panel_{top}.png" for top in TOPS}
    tiles = {"translation_rdg.png", "translation_drdg.png"}
    assert names == scores | panels | tiles | {"curves_gan.png", "curves_segment.png"}


def test_names_that_are_special_to_latex() -> None:
    assert escape("RDG, λ_adv 1 & 50 % ± #") == r"RDG, $\lambda$\_adv 1 \& 50 \% $\pm$ \#"
    assert escape("a\\b{c}~^") == r"a\textbackslash{}b\{c\}\textasciitilde{}\textasciicircum{}"
    assert escape("naïve 漢") == "naïve ?"


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX here")
def test_the_tables_compile(reported: Reported, tmp_path: Path) -> None:
    for path in reported.files:
        if path.suffix == ".tex":
            place = tmp_path / path.relative_to(reported.out)
            place.parent.mkdir(exist_ok=True)
            shutil.copy(path, place)
    line = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "tables.tex"]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=300)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout
    assert (tmp_path / "tables.pdf").stat().st_size > 10_000


@pytest.fixture
def own(tmp_path: Path, reported: Reported) -> Path:
    """A copy of the store, without artifacts, which stay where they are, to add to."""
    shutil.copy(reported.store / "mlflow.db", tmp_path / "mlflow.db")
    return tmp_path


def test_a_second_report_removes_what_it_does_not_make_and_nothing_else(own: Path) -> None:
    tracking = Tracking(f"sqlite:///{own / 'mlflow.db'}", "drdg", own)
    out, quiet = own / "out", Console(file=io.StringIO())
    pair = [Cell("drdg", 0, 0.7, exhibits=True), Cell("rdg", 0, 0.6), Cell("drdg", 0, None, direction=RGB)]
    write_sweep(tracking, pair, name="one")
    write_report(open_sweep(tracking.uri, "drdg", "one"), out, quiet)
    first = json.loads((out / "report.json").read_text())
    (out / IRRG / "mine.png").write_text("mine")
    (own / "beside.txt").write_text("mine")
    assert (out / IRRG / "panel_1.png").exists()
    write_report(open_sweep(tracking.uri, "drdg", "one"), out, quiet)
    assert json.loads((out / "report.json").read_text()) == first
    listed = {**first, "files": [*first["files"], "../beside.txt", str(own / "beside.txt")]}
    (out / "report.json").write_text(json.dumps(listed))
    write_sweep(tracking, [Cell("drdg", 0, 0.7), Cell("rdg", 0, 0.6)], name="two")
    write_report(open_sweep(tracking.uri, "drdg", "two"), out, quiet)
    second = json.loads((out / "report.json").read_text())
    assert second["digest"] != first["digest"]
    there = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert there == {*second["files"], "report.json", f"{IRRG}/mine.png"}
    assert not (out / RGB).exists()
    assert (own / "beside.txt").exists()


def command(*arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, str(REPOSITORY / "launch/report.py"), *map(str, arguments)]
    plain = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    return subprocess.run(line, capture_output=True, text=True, timeout=300, env=plain | variables)


def test_the_command_reads_a_sweep_by_its_store_or_its_folder(own: Path, reported: Reported) -> None:
    tracking = Tracking(f"sqlite:///{own / 'mlflow.db'}", "drdg", own)
    folder = own / "small"
    run_id = write_sweep(
        tracking, [Cell("drdg", 0, 0.7), Cell("rdg", 0, None, state="failed")], name="small", folder=folder
    )
    folder.mkdir()
    plan = {"run_id": run_id, "uri": tracking.uri, "experiment": "drdg"}
    (folder / "sweep.json").write_text(json.dumps(plan))
    done = command("--dry-run", MLFLOW_TRACKING_URI=tracking.uri)
    assert (
        f"would report sweep small (2 cells) of {tracking.uri} and write to {folder}/report-from-store" in done.stdout
    )
    done = command("--store", tracking.uri, "--sweep", "tables", "--dry-run")
    assert "would report sweep tables (15 cells)" in done.stdout, done.stderr
    assert [path.name for path in folder.iterdir()] == ["sweep.json"]
    done = command(folder)
    assert done.returncode == 0, done.stderr
    assert f"{IRRG}/seed0/rdg: it failed" in done.stdout
    assert f"open {folder}/report-from-store/index.html" in done.stdout
    done = command("--sweep", folder, "--out", own / "elsewhere")
    assert done.returncode == 0, done.stderr
    assert (own / "elsewhere/index.html").exists()


def test_the_command_ends_with_one_sentence_where_there_is_no_sweep(own: Path, reported: Reported) -> None:
    Tracking(f"sqlite:///{own / 'mlflow.db'}", "empty", own)
    store = ("--store", f"sqlite:///{own / 'mlflow.db'}")
    for arguments, said in (
        (("--store", f"sqlite:///{own / 'none.db'}"), "is not there, so it holds no sweep; run launch/sweep.py first"),
        ((*store, "--experiment", "empty"), "holds no sweep; run launch/sweep.py first"),
        ((*store, "--sweep", "none"), "holds no sweep none; it holds tables"),
        ((*store, "--table", "main"), "--table is for folders of runs"),
        ((*store, own), "folders of runs are read without --sweep, --store"),
    ):
        done = command(*arguments)
        assert done.returncode == 2, said
        assert said in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
    assert not (own / "none.db").exists()
