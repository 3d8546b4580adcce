"""Jobs of a sweep, run one after the other: what they leave on disk and in MLflow, and that none is done twice."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import mlflow
import numpy as np
import pytest
from one_cell import STAGES, Sweep

from drdg.config import Config
from drdg.stages import cell, cell_stage
from drdg.tracking import Tracking, sync


@pytest.fixture
def sweep(small: Callable[..., Config], tmp_path: Path) -> Sweep:
    return Sweep(small('target.archive.splits={val: ["1"], test: ["0"]}', "evaluation.split=test"), tmp_path / "sweep")


def test_the_jobs_of_a_cell_leave_its_scores_and_its_runs(sweep: Sweep) -> None:
    outcomes = sweep.do_all()
    metrics = json.loads((Path(outcomes["evaluate"].result) / "metrics.json").read_text())
    assert metrics["tops"] == ["0"]
    for stage in STAGES:
        (run,) = sweep.runs(stage)
        tags = run.data.tags
        assert run.info.status == "FINISHED"
        assert tags["mlflow.parentRunId"] == sweep.cell_id
        assert tags["drdg.digest"] == outcomes[stage].stage_digest
        assert (tags["drdg.kind"], tags["drdg.row"], tags["drdg.seed"]) == ("stage", "drdg", "0")
        assert "drdg.git_commit" in tags
        known = {given.tags[0].value: given.dataset for given in run.inputs.dataset_inputs}
        assert set(known) == {"gan": {"source", "target"}, "evaluate": {"target"}}.get(stage, {"source"})
        assert all(len(data.digest) == 16 for data in known.values())
        assert Path(outcomes[stage].result).name == f"{stage}-{outcomes[stage].stage_digest[:8]}"
    (evaluated,) = sweep.runs("evaluate")
    assert evaluated.data.metrics["target/miou_percent"] == pytest.approx(metrics["miou"])
    kept = Path(mlflow.artifacts.download_artifacts(run_id=evaluated.info.run_id, tracking_uri=sweep.uri))
    with np.load(kept / "exhibits/target_0.npz") as shown:
        assert shown["image"].shape == (192, 192, 3)
        assert shown["label"].shape == shown["prediction"].shape == shown["dsm"].shape == (192, 192)
        assert list(shown["classes"]) == metrics["classes"]
    (translated,) = sweep.runs("translate")
    kept = Path(mlflow.artifacts.download_artifacts(run_id=translated.info.run_id, tracking_uri=sweep.uri))
    with np.load(kept / "exhibits/translation.npz") as shown:
        assert shown["image"].shape[1:] == (256, 256, 3)
        assert shown["predicted_dsm"].shape[1:] == (256, 256)  # what the generator sees in the source's tile
        assert shown["translated"].shape[1:] == (128, 128, 3)
        assert shown["label"].dtype == np.uint8


def test_a_stage_that_was_cut_off_before_mlflow_had_it_is_kept_and_not_repeated(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep.do("shards")
    with monkeypatch.context() as patch:
        patch.setattr(cell_stage, "keep", lambda *_: (_ for _ in ()).throw(OSError("the node is gone")))
        with pytest.raises(OSError, match="the node is gone"):
            sweep.do("gan", job_id="7")
    with monkeypatch.context() as patch:
        patch.setitem(cell_stage.STEPS, "gan", lambda *_: pytest.fail("trained twice"))
        folder = Path(sweep.do("gan", job_id="8").result)
        assert (folder / cell_stage.KEPT).is_file()
        (run,) = sweep.runs("gan")
        assert run.data.tags["drdg.job_ids"] == "7, 8"
        assert run.info.status == "FINISHED"
        sweep.do("gan", job_id="9")
    (run,) = sweep.runs("gan")
    assert run.data.tags["drdg.job_ids"] == "7, 8"  # there was nothing to do


def test_a_changed_stage_stands_beside_the_earlier_one_and_is_found_again(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sweep.do_all()
    after = sweep.do_all(segmentation={"lr": 1e-3})
    assert after["gan"] == before["gan"]
    assert after["translate"] == before["translate"]
    assert after["segment"] != before["segment"]
    assert after["evaluate"] != before["evaluate"]
    assert len(sweep.runs("gan")) == 1
    assert len(sweep.runs("segment")) == 2
    for stage in STAGES:
        monkeypatch.setitem(cell_stage.STEPS, stage, lambda *_: pytest.fail("done twice"))
    assert sweep.do_all() == before


def test_a_stage_before_its_time_is_refused(sweep: Sweep) -> None:
    sweep.do("shards")
    with pytest.raises(ValueError, match="run the stage gan of row drdg first"):
        sweep.do("translate")


def test_what_a_store_that_is_away_should_get_is_spooled(sweep: Sweep) -> None:
    sweep.do("shards")
    away = {"uri": "http://127.0.0.1:9", "experiment": "drdg"}
    outcome = sweep.do("gan", tracking=away)
    assert Path(outcome.result).is_dir()
    assert sweep.runs("gan") == []
    tracking = Tracking(sweep.uri, "drdg", sweep.folder)
    assert sync(sweep.folder / cell.SPOOL, tracking) == 1
    assert sync(sweep.folder / cell.SPOOL, tracking) == 0
    (run,) = sweep.runs("gan")
    assert run.data.tags["mlflow.parentRunId"] == sweep.cell_id
    assert run.info.status == "FINISHED"
    assert [value for name, value in run.data.metrics.items() if name.startswith("gan/")]
