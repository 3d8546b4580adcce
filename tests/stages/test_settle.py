"""The last job of a sweep: what became of its cells, in MLflow and in the report, whatever was so before."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from one_cell import STAGES, Sweep

from drdg.config import Config
from drdg.files import write_json
from drdg.stages.cell import run_job
from drdg.stages.settle import settle_and_report
from drdg.sweep.notes import Note, read_note, write_note
from drdg.sweep.spec import JobSpec

CELL = "d/seed0/drdg"


def plan(sweep: Sweep, digest: str = "digest") -> dict[str, Any]:
    """``sweep.json`` of the one cell, as the command writes it, to the file and to MLflow."""
    keys = ["d/shards", *(f"{CELL}/{stage}" for stage in STAGES)]
    jobs = {
        key: {"stage": key.rpartition("/")[2], "digest": "digest", "needs": keys[max(0, i - 1) : i]}
        for i, key in enumerate(keys)
    }
    jobs[f"{CELL}/evaluate"]["digest"] = digest
    cell = {"key": CELL, "direction": "d", "row": "drdg", "seed": 0, "run_id": sweep.cell_id, "digest": digest}
    values = {
        "version": 1,
        "name": "sweep",
        "folder": str(sweep.folder),
        "uri": sweep.uri,
        "experiment": "drdg",
        "run_id": sweep.run_id,
        "preset": "paper",
        "directions": ["d"],
        "rows": ["drdg"],
        "seeds": [0],
        "cells": [{**cell, "evaluate": f"{CELL}/evaluate", "jobs": keys}],
        "jobs": jobs,
    }
    write_json(sweep.folder / "sweep.json", values)
    sweep.client.log_artifact(sweep.run_id, str(sweep.folder / "sweep.json"))
    return values


@pytest.fixture
def sweep(small: Callable[..., Config], tmp_path: Path) -> Sweep:
    return Sweep(small('target.archive.splits={val: ["1"], test: ["0"]}', "evaluation.split=test"), tmp_path / "sweep")


def test_a_finished_cell_is_in_the_report_and_its_segmentor_is_the_best(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes = sweep.do_all()
    spec = JobSpec("report", "report", "r", str(sweep.folder), rows=("drdg",), sweep=plan(sweep))
    page = Path(run_job(spec).result)
    assert "DRDG" in page.read_text()
    metrics = json.loads((Path(outcomes["evaluate"].result) / "metrics.json").read_text())
    run = sweep.client.get_run(sweep.cell_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags["drdg.state"] == "done"
    assert run.data.metrics["target/miou_percent"] == pytest.approx(metrics["miou"])
    assert sweep.client.get_run(sweep.run_id).info.status == "FINISHED"
    assert {file.path for file in sweep.client.list_artifacts(sweep.run_id)} >= {"sweep.json", "report"}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", sweep.uri)  # set_tracking_uri would set it for all tests after this one
    loaded = mlflow.pyfunc.load_model("models:/drdg-d-segmentor@best")
    classes = loaded.predict(np.zeros((2, 96, 160, 3), np.uint8))
    assert (classes.shape, classes.dtype) == ((2, 96, 160), np.uint8)
    # Again, as a second command does: nothing is doubled.
    settle_and_report(spec.sweep)
    assert len(sweep.client.search_model_versions("name='drdg-d-segmentor'")) == 1
    assert len(sweep.client.get_metric_history(sweep.cell_id, "target/miou_percent")) == 1


def test_what_stopped_a_cell_is_said_and_forgotten_when_it_is_mended(sweep: Sweep) -> None:
    for stage in ("shards", "gan", "translate"):
        sweep.do(stage)
    place = sweep.folder / "jobs" / CELL / "segment"
    write_note(place, Note("failed", "digest", 0.0, 0.0, error="segmentation.crop=7 is too small", log="a.log"))
    page = settle_and_report(plan(sweep))
    run = sweep.client.get_run(sweep.cell_id)
    assert run.info.status == "FAILED"
    assert run.data.tags["drdg.state"] == "failed"
    assert run.data.tags["drdg.error"] == "stage segment of row drdg failed: segmentation.crop=7 is too small"
    assert "segmentation.crop=7 is too small" in page.read_text()
    assert sweep.client.get_run(sweep.run_id).info.status == "FAILED"
    sweep.do("segment")
    sweep.do("evaluate")
    page = settle_and_report(plan(sweep))
    run = sweep.client.get_run(sweep.cell_id)
    assert (run.info.status, run.data.tags["drdg.state"]) == ("FINISHED", "done")
    assert "drdg.error" not in run.data.tags
    assert "segmentation.crop=7" not in page.read_text()
    parent = sweep.client.get_run(sweep.run_id)
    assert parent.info.status == "FINISHED"
    assert "drdg.error" not in parent.data.tags


def test_scores_of_other_settings_are_not_shown(sweep: Sweep) -> None:
    sweep.do_all()
    settle_and_report(plan(sweep))
    page = settle_and_report(plan(sweep, digest="of a change"))
    run = sweep.client.get_run(sweep.cell_id)
    assert run.data.tags["drdg.state"] == "missing"
    assert run.data.tags["drdg.result"] == ""
    assert math.isnan(run.data.metrics["target/miou_percent"])  # whoever compares runs sees no number of another one
    text = page.read_text()
    shown = json.loads((sweep.folder / f"runs/d_seed0/drdg/{_folder(sweep)}/metrics.json").read_text())["miou"]
    assert not re.search(rf"\b{shown:.2f}\b", text)
    # Taken back: the same scores, without a stage of it run again, by the segmentor that had made them, though an
    # interrupted start of the other settings has trained its own since.
    place = sweep.folder / "jobs" / CELL / "segment"
    note = read_note(place)
    assert note is not None
    write_note(place, replace(note, digest="of a change", stage_digest="of a change"))
    settle_and_report(plan(sweep))
    run = sweep.client.get_run(sweep.cell_id)
    assert (run.info.status, run.data.tags["drdg.state"]) == ("FINISHED", "done")
    assert run.data.metrics["target/miou_percent"] == pytest.approx(shown, abs=1e-9)
    assert run.data.tags["drdg.stage_digest.segment"] == note.stage_digest
    # Its scores are lost: it is not done, and does not say that it was scored otherwise.
    (sweep.folder / f"runs/d_seed0/drdg/{_folder(sweep)}/metrics.json").unlink()
    settle_and_report(plan(sweep))
    run = sweep.client.get_run(sweep.cell_id)
    assert (run.info.status, run.data.tags["drdg.state"]) == ("FAILED", "missing")
    assert "its scores are gone" in run.data.tags["drdg.error"]
    assert sweep.client.get_run(sweep.run_id).info.status == "FAILED"


def _folder(sweep: Sweep) -> str:
    note = read_note(sweep.folder / "jobs" / CELL / "evaluate")
    assert note is not None
    return Path(replace(note).result).name
