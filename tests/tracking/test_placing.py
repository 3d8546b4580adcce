"""Runs that a command makes before any job, and ends when all are done."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from stores import all_runs, client, history

from drdg.tracking import Tracking

SWEEP = {"drdg.digest": "s", "drdg.kind": "sweep"}


def test_a_run_is_placed_once_and_never_set_going_again(tracking: Tracking) -> None:
    first = tracking.place("sweep", None, SWEEP, {"a": {"b": 1}})
    assert client(tracking).get_run(first).info.status == "RUNNING"
    tracking.settle(first, "FINISHED")
    again = tracking.place("sweep", None, SWEEP | {"drdg.git_commit": "new"}, {"a": {"b": 1}, "c": 2})
    assert again == first
    (run,) = all_runs(tracking)
    assert run.info.status == "FINISHED"
    assert run.data.tags["drdg.git_commit"] == "new"
    assert run.data.params == {"a.b": "1", "c": "2"}
    assert "drdg.restarts" not in run.data.tags


def test_cells_lie_under_their_sweep(tracking: Tracking) -> None:
    sweep = tracking.place("sweep", None, SWEEP, {})
    cells = [tracking.place("cell", sweep, {"drdg.digest": key}, {}) for key in ("one", "two", "one")]
    assert cells[0] == cells[2] != cells[1]
    assert {client(tracking).get_run(cell).data.tags["mlflow.parentRunId"] for cell in cells} == {sweep}


def test_a_settled_run_says_what_is_so_now(tracking: Tracking, tmp_path: Path) -> None:
    cell = tracking.place("cell", None, {"drdg.digest": "c"}, {})
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "index.html").write_text("<p>")
    (tmp_path / "metrics.json").write_text("{}")
    tracking.settle(cell, "FAILED", tags={"drdg.state": "failed", "drdg.error": "x" * 9000})
    assert client(tracking).get_run(cell).info.status == "FAILED"
    for _ in range(2):
        tracking.settle(
            cell,
            "FINISHED",
            tags={"drdg.state": "done"},
            metrics={"target/miou_percent": 40.0},
            artifacts={tmp_path / "metrics.json": None, tmp_path / "report": "report"},
            remove_tags=("drdg.error", "drdg.never"),
        )
    run = client(tracking).get_run(cell)
    assert run.info.status == "FINISHED"
    assert run.data.tags["drdg.state"] == "done"
    assert "drdg.error" not in run.data.tags
    assert history(tracking, cell, "target/miou_percent") == [(0, 40.0)]
    tops = [file.path for file in client(tracking).list_artifacts(cell)]
    assert tops == ["metrics.json", "report"]
    tracking.settle(cell, "FINISHED", metrics={"target/miou_percent": 41.0})
    assert client(tracking).get_run(cell).data.metrics == {"target/miou_percent": 41.0}


def test_a_stage_is_found_by_its_digest(tracking: Tracking) -> None:
    tags = {"drdg.digest": "d", "drdg.stage": "gan"}
    with tracking.stage("drdg/gan", "cell", tags, {}) as stage:
        pass
    assert tracking.find_stage("cell", "gan", "d") == stage.run_id
    assert tracking.find_stage("cell", "segment", "d") is None
    assert tracking.find_stage("other", "gan", "d") is None
    assert tracking.find_stage("cell", "gan", "e") is None


def test_nothing_is_placed_in_a_store_that_is_away(away: Tracking) -> None:
    with pytest.raises(ValueError, match="no MLflow server answers"):
        away.place("sweep", None, SWEEP, {})
    with pytest.raises(ValueError, match="no MLflow server answers"):
        away.settle("x", "FINISHED")


def test_a_run_that_is_not_there_cannot_be_settled(tracking: Tracking) -> None:
    with pytest.raises(ValueError, match="cannot find run ffff"):
        tracking.settle("f" * 32, "FINISHED")


def test_settings_that_were_changed_and_taken_back_are_as_they_are(tracking: Tracking) -> None:
    for rate in (1, 2, 1):
        cell = tracking.place("cell", None, {"drdg.digest": "c"}, {"gan": {"lr": rate}})
        tags = client(tracking).get_run(cell).data.tags
        assert tags.get("drdg.changed.gan.lr") == ("2" if rate == 2 else None)


def test_numbers_that_are_so_no_more_are_none(tracking: Tracking) -> None:
    cell = tracking.place("cell", None, {"drdg.digest": "c"}, {})
    tracking.settle(cell, "FINISHED", metrics={"target/miou_percent": 50.0, "tiles": 3.0})
    tracking.settle(cell, "FAILED", void="target/")
    found = client(tracking).get_run(cell).data.metrics
    assert math.isnan(found["target/miou_percent"])
    assert found["tiles"] == 3.0
    tracking.settle(cell, "FINISHED", metrics={"target/miou_percent": 50.0}, void="target/")
    assert client(tracking).get_run(cell).data.metrics["target/miou_percent"] == 50.0
