"""A sweep of one cell, DRDG with seed 0, whose jobs are run by hand."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run

from drdg.config import Config
from drdg.stages.cell import Outcome, run_job
from drdg.sweep.notes import Note, write_note
from drdg.sweep.spec import JobSpec
from drdg.tracking import Tracking

STAGES = ("gan", "translate", "segment", "evaluate")


class Sweep:
    """The jobs of one cell, DRDG with seed 0, over the small archives."""

    def __init__(self, config: Config, folder: Path):
        self.folder, self.uri = folder, f"sqlite:///{folder / 'mlflow.db'}"
        tracking = Tracking(self.uri, "drdg", folder)
        self.run_id = tracking.place("sweep", None, {"drdg.digest": "1", "drdg.kind": "sweep"}, {})
        self.cell_id = tracking.place("cell", self.run_id, {"drdg.digest": "2", "drdg.kind": "cell"}, {})
        run = {"root": folder / "runs", "name": "d_seed0", "keep_changed": True, "rows": ["drdg"]}
        self.config = config.model_copy(
            update={
                "run": config.run.model_copy(update=run),
                "tracking": config.tracking.model_copy(update={"uri": self.uri}),
            }
        )
        self.client = MlflowClient(self.uri)

    def spec(self, stage: str, **knobs: Any) -> JobSpec:
        config = self.config.model_dump(mode="json")
        for section, changes in knobs.items():
            config[section] |= changes
        key = "d/shards" if stage == "shards" else f"d/seed0/drdg/{stage}"
        parent = self.run_id if stage == "shards" else self.cell_id
        return JobSpec(key, stage, "digest", str(self.folder), config=config, rows=("drdg",), parent_run_id=parent)

    def do(self, stage: str, job_id: str = "", **knobs: Any) -> Outcome:
        spec = self.spec(stage, **knobs)
        now = time.time()
        write_note(spec.place, Note("running", spec.digest, began=now, at=now, job_id=job_id))
        outcome = run_job(spec)
        done = Note("done", spec.digest, now, time.time(), stage_digest=outcome.stage_digest, result=outcome.result)
        write_note(spec.place, done)
        return outcome

    def do_all(self, **knobs: Any) -> dict[str, Outcome]:
        return {stage: self.do(stage, **knobs) for stage in ("shards", *STAGES)}

    def runs(self, stage: str) -> list[Run]:
        experiments = [found.experiment_id for found in self.client.search_experiments()]
        return list(self.client.search_runs(experiments, f"tags.`drdg.stage` = '{stage}'"))
