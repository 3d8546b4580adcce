"""Station 6, stages: a stage of a row as a job of a sweep, and what MLflow keeps of it beside its numbers."""

from __future__ import annotations

from pathlib import Path

import drdg
from drdg.config import Config
from drdg.distributed.group import process_group
from drdg.distributed.topology import discover
from drdg.experiments import find_row
from drdg.files import write_json
from drdg.panels import loss_curves
from drdg.stages.cell import KEPT, Outcome, job_ids, tracking_of, under
from drdg.stages.exhibits import target_exhibits, translation_exhibit
from drdg.stages.pipeline import STEPS
from drdg.stages.places import places_of
from drdg.stages.records import begin_stage, inputs_of
from drdg.stages.row import AS_RANK
from drdg.stages.workspace import RowStages, Stage, stages_of
from drdg.sweep.spec import JobSpec
from drdg.tracking import Handle, git_state, log_generator, log_segmentor, watch_system

EXHIBITS = "exhibits"


def run_stage_of_cell(spec: JobSpec) -> Outcome:
    """Run a stage of a row on all ranks that the scheduler started for it, and keep it in MLflow.

    Raises ``ValueError`` when a stage before it is not done.
    """
    config = Config.model_validate(spec.config)
    row = find_row(spec.rows[0])
    stages = stages_of(row, config, *places_of(row, config))
    stage = stages.refuse_too_early(spec.stage)
    outcome = Outcome(str(stage.folder), stage.digest)
    if stage.is_done() and (stage.folder / KEPT).is_file():
        print(f"{spec.key}: done before", flush=True)
        return outcome
    topology = discover()
    tracking = tracking_of(spec, config, topology.rank)
    run = begin_stage(tracking, under(spec.parent_run_id), stage, stages.config)
    with run, watch_system(run):
        if topology.rank == 0:
            run.inputs(inputs_of(stages, stage))
            run.tags({"drdg.job_ids": job_ids(spec), **git_state(Path(drdg.__file__).parents[1])})
        if not stage.is_done():
            if stage.name in AS_RANK and topology.world_size > 1:
                with process_group(config.distributed, topology) as group:
                    AS_RANK[stage.name](stages, group, run)
            else:
                STEPS[stage.name](stages, run)
        if topology.rank == 0:
            keep(stages, stage, run)
    return outcome


def keep(stages: RowStages, stage: Stage, run: Handle) -> None:
    """Give MLflow a finished stage's pictures, samples and model, and remember that it has them."""
    run.flush()
    history = {name: values for name, values in run.history().items() if is_drawn(name) and len(values) > 1}
    if history:
        path = stage.folder / "curves.png"
        loss_curves(path, history, title=f"{stage.row}: {stage.name}")
        run.artifact(path, "panels")
    if stage.name == "gan":
        assert stages.translator is not None
        log_generator(run, stages.translator)
    elif stage.name == "segment":
        log_segmentor(run, stages.segmentor)
    elif stage.name == "translate":
        run.artifact(translation_exhibit(stages, stage.folder / EXHIBITS), EXHIBITS)
    else:
        run.artifact(target_exhibits(stages, stage.folder / EXHIBITS), EXHIBITS)
    run.flush()
    chain = {before.name: before.digest for before in stages.in_order()}
    write_json(stage.folder / KEPT, {"digest": stage.digest, "run_id": run.run_id, "stages": chain})


def is_drawn(name: str) -> bool:
    """Whether a metric is of the training, not of the machine it ran on."""
    return not name.startswith("system/")
