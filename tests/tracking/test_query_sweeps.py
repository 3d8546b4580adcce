"""A sweep is read from its store alone: which one, which cells have scores, and in which words it cannot be."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from drdg.tracking import Tracking
from drdg.tracking.query import SweepRecord, open_sweep

PLAIN = {"direction": "a_to_b", "row": "drdg", "digest": "wanted"}
METRICS = {"miou": 50.0}
# Each cell's tags, and whether its scores are kept: what a sweep may leave, by the seed.
CELLS = [
    ({"drdg.state": "done", "drdg.result": "wanted", "drdg.stage_digest.gan": "g1"}, True),
    ({"drdg.state": "done", "drdg.result": "another"}, True),
    ({"drdg.state": "failed", "drdg.error": "ValueError: the loss is nan."}, False),
    ({"drdg.state": "missing", "drdg.error": "a job that it needs was cancelled"}, False),
    ({}, False),
    ({"drdg.state": "done", "drdg.result": "wanted"}, False),
    ({"drdg.state": "failed"}, True),
]


def add_sweep(tracking: Tracking, name: str, cells: list[dict[str, object]], digest: str = "") -> str:
    run = tracking.parent(name, {"drdg.kind": "sweep", "drdg.digest": name + digest}, {})
    run.text(json.dumps({"name": name, "folder": "/nowhere", "directions": ["a_to_b"], "cells": cells}), "sweep.json")
    run.close()
    return run.run_id


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store of two sweeps, the older of which has every kind of cell."""
    folder = tmp_path_factory.mktemp("store")
    tracking = Tracking(None, "drdg", folder)
    parent = tracking.parent("first", {"drdg.kind": "sweep", "drdg.digest": "first"}, {})
    listed = []
    for seed, (tags, has_metrics) in enumerate(CELLS):
        run = tracking.stage(f"cell{seed}", parent.run_id, {"drdg.kind": "cell", "drdg.digest": str(seed), **tags}, {})
        if has_metrics:
            run.text(json.dumps(METRICS), "metrics.json")
        if seed == 0:
            for digest in ("g0", "g1", "g2"):
                words = {"drdg.digest": digest, "drdg.stage": "gan"}
                stage = tracking.stage("drdg/gan", run.run_id, words, {})
                stage.log({"gan/loss": 2.0, "only": 1.0}, 10)
                stage.log({"gan/loss": 3.0}, 5)
                stage.text(digest, "exhibits/what.txt")
                stage.close()
        run.close()
        listed.append(
            {**PLAIN, "key": f"a_to_b/seed{seed}/drdg", "seed": seed, "run_id": run.run_id, "digest": "wanted"}
        )
    listed.append({**PLAIN, "key": "a_to_b/seed7/drdg", "seed": 7, "run_id": "f" * 32})
    parent.text(json.dumps({"name": "first", "folder": "/nowhere", "cells": listed}), "sweep.json")
    parent.close()
    tracking.parent("no sweep", {"drdg.digest": "x"}, {}).close()
    add_sweep(tracking, "second", [])
    return folder


@pytest.fixture(scope="module")
def record(store: Path) -> SweepRecord:
    return open_sweep(None, "drdg", "first", store)


def test_only_what_the_sweep_wants_has_scores(record: SweepRecord) -> None:
    assert [cell.metrics for cell in record.cells] == [METRICS, *[None] * 7]
    assert [cell.problem is None for cell in record.cells] == [True, *[False] * 7]
    problems = [cell.problem or "" for cell in record.cells]
    assert "it was scored with other settings than the sweep has now" in problems[1]
    assert problems[2] == "ValueError: the loss is nan"
    assert problems[3] == "a job that it needs was cancelled"
    assert "nobody has settled it yet" in problems[4]
    assert "its run has no metrics.json, though it is marked as done" in problems[5]
    assert problems[6] == "it failed, and its run does not say why"
    assert f"its run {'f' * 32} is not in sqlite" in problems[7]
    assert [cell.is_current for cell in record.cells] == [True, *[False] * 4, True, False, False]


def test_a_stage_s_run_is_that_of_the_present_result(record: SweepRecord) -> None:
    run = record.stage_run(record.cells[0], "gan")
    assert run is not None
    assert record.download(run, "exhibits/what.txt") == b"g1"
    assert record.artifacts(run, "exhibits") == ["exhibits/what.txt"]
    assert record.artifacts(run, "nothing") == []
    assert record.download(run, "exhibits/other.txt") is None
    assert record.metric_names(run) == ["gan/loss", "only"]
    assert record.history(run, "gan/loss") == [(5, 3.0), (10, 2.0)]
    assert record.stage_run(record.cells[0], "segment") is None
    assert record.stage_run(record.cells[1], "gan") is None


def test_the_newest_sweep_or_the_one_that_is_named(store: Path, record: SweepRecord) -> None:
    assert open_sweep(None, "drdg", None, store).name == "second"
    assert open_sweep(f"sqlite:///{store / 'mlflow.db'}", "drdg", record.run_id).run_id == record.run_id
    newer = add_sweep(Tracking(None, "drdg", store), "first", [], "again")
    try:
        assert open_sweep(None, "drdg", "first", store).run_id == newer
    finally:
        MlflowClient(tracking_uri=f"sqlite:///{store / 'mlflow.db'}").delete_run(newer)
    assert open_sweep(None, "drdg", "first", store).run_id == record.run_id
    with pytest.raises(ValueError, match=r"holds no sweep third; it holds second, first$"):
        open_sweep(None, "drdg", "third", store)


def test_reading_changes_nothing(store: Path) -> None:
    before = {path: path.read_bytes() for path in store.rglob("*") if path.is_file()}
    open_sweep(None, "drdg", "first", store)
    assert {path: path.read_bytes() for path in store.rglob("*") if path.is_file()} == before
    with pytest.raises(ValueError, match=r"has no experiment other, .*name one of its experiments \(Default, drdg\)"):
        open_sweep(None, "other", None, store)


def test_what_is_no_store_is_refused_and_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(ValueError, match=r"mlflow\.db is not there, so it holds no sweep; run launch/sweep.py first"):
        open_sweep(None, "drdg", None, tmp_path)
    assert list(tmp_path.iterdir()) == []
    sqlite3.connect(tmp_path / "mlflow.db").close()
    with pytest.raises(ValueError, match="holds no sweep, as it is no store of MLflow"):
        open_sweep(None, "drdg", None, tmp_path)
    (tmp_path / "mlflow.db").write_text("no database, but a text that is long enough to be none " * 100)
    with pytest.raises(ValueError, match="cannot be read"):
        open_sweep(None, "drdg", None, tmp_path)
    with pytest.raises(ValueError, match=r"no MLflow server answers at http://127.0.0.1:9"):
        open_sweep("http://127.0.0.1:9", "drdg")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(ValueError, match=r"MLFLOW_TRACKING_URI: no MLflow server answers"):
        open_sweep(None, "drdg", None, tmp_path)


@pytest.fixture
def own(store: Path, tmp_path: Path) -> Path:
    """A copy of the store, to break."""
    shutil.copy(store / "mlflow.db", tmp_path / "mlflow.db")
    return tmp_path


def test_a_store_of_a_newer_schema(own: Path) -> None:
    with sqlite3.connect(own / "mlflow.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
    connection.close()
    with pytest.raises(ValueError, match="its schema is of another MLflow; upgrade MLflow, or the store"):
        open_sweep(None, "drdg", None, own)


def test_a_store_without_sweeps(own: Path) -> None:
    with sqlite3.connect(own / "mlflow.db") as connection:
        connection.execute("DELETE FROM tags WHERE key = 'drdg.kind'")
    connection.close()
    with pytest.raises(ValueError, match=r"mlflow\.db holds no sweep; run launch/sweep.py first"):
        open_sweep(None, "drdg", None, own)


@pytest.mark.parametrize("content", [None, "{", "[]", '{"cells": [{"key": 1}]}', '{"cells": 5}'])
def test_a_sweep_whose_plan_is_lost(store: Path, content: str | None) -> None:
    tracking = Tracking(None, "broken", store)
    run = tracking.parent("lost", {"drdg.kind": "sweep", "drdg.digest": str(content)}, {})
    if content is not None:
        run.text(content, "sweep.json")
    run.close()
    with pytest.raises(ValueError, match=r"^sweep lost \(run .*\) of .* has (no|a damaged) sweep\.json"):
        open_sweep(None, "broken", run.run_id, store)


def test_reading_loads_no_torch() -> None:
    line = "import sys; import drdg.tracking.query, drdg.comparison.store_report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", line], timeout=300).returncode == 0
