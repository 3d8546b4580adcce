"""Station 6, stages: one job of a sweep, on one rank or on all that its scheduler has started.

Whatever a job did before it was cut off is done, so a job may be started any number of times. Torch is loaded by the
jobs that compute, not by this module.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from drdg.config import Config
from drdg.files import write_json
from drdg.sweep.notes import read_note
from drdg.sweep.record import current_uri
from drdg.sweep.spec import REPORT, SHARDS, JobSpec
from drdg.tracking import Handle, NullHandle, Tracking, sync
from drdg.training.preemption import SCHEDULERS, listening

SPOOL = "spool"
"""The folder in a sweep's that takes what the MLflow store could not."""
JOB_IDS = "job_ids.json"
KEPT = "kept.json"
"""In a stage's folder: MLflow has all of it, and by which digests the stages of its row made it."""
TRAINED = ("gan", "segment")


@dataclass(frozen=True)
class Outcome:
    """What a job leaves."""

    result: str
    """The folder or file that holds it."""
    stage_digest: str = ""
    """Of a stage of a row: its MLflow run's tag ``drdg.digest``."""


def run_job(spec: JobSpec) -> Outcome:
    """Do the job, or what is left of it.

    Raises what the stage raises: ``ValueError`` for what a user did, ``Stopped`` where it was asked to and has saved.
    """
    # Read when torch is loaded. Of its warnings every rank would write one that DDP looks for unused parameters in vain
    # (``DdpEngine`` says why it does) and, where addresses have no names, one for each connection.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    if spec.stage == REPORT:
        from drdg.stages.settle import report

        return Outcome(str(report(spec)))
    if spec.stage == SHARDS:
        return build(spec)
    # From the beginning, before torch is loaded: who is asked to stop before the first iteration makes that one and
    # saves, so that a job whose every start is cut short gets further all the same.
    with listening(SCHEDULERS) if spec.stage in TRAINED else nullcontext():
        from drdg.stages.cell_stage import run_stage_of_cell

        return run_stage_of_cell(spec)


def build(spec: JobSpec) -> Outcome:
    """Write the synthetic towns, where there are to be some, and build the shards of a direction that its rows need."""
    from drdg.experiments import find_row
    from drdg.stages.given import find_given
    from drdg.stages.pipeline import refuse_missing_layers, synthesize
    from drdg.stages.places import build_places, finished_shards

    config = Config.model_validate(spec.config)
    rows = [find_row(name) for name in spec.rows]
    synthesize(config)
    given = find_given(config)
    refuse_missing_layers(config, rows, given)
    build_places(config, rows, given, tracking_of(spec, config), under(spec.parent_run_id))
    source, _ = finished_shards(config)
    return Outcome(str(spec.place if "source" in given else source))


def tracking_of(spec: JobSpec, config: Config, rank: int = 0) -> Tracking:
    """The sweep's store, or its spool where that cannot be reached; where it can, it gets first what waits there."""
    folder = Path(spec.folder)
    spool = folder / SPOOL
    where = (current_uri(folder, config.tracking.uri), config.tracking.experiment, folder)
    tracking = Tracking(*where, rank=rank, spool=spool, in_background=True)
    if rank == 0 and not tracking.is_away:
        try:
            sync(spool, tracking)
        except (ValueError, OSError) as error:  # which is no trouble of this job
            print(f"warning: {error}", file=sys.stderr, flush=True)
    return tracking


def under(run_id: str) -> Handle:
    """A parent of runs that another process keeps."""
    parent = NullHandle()
    parent.run_id = run_id
    return parent


def job_ids(spec: JobSpec) -> str:
    """The scheduler's numbers of every start of this job, oldest first, to be written to MLflow."""
    note = read_note(spec.place)
    path = spec.place / JOB_IDS
    ids: list[str] = json.loads(path.read_bytes()) if path.is_file() else []
    if note is not None and note.job_id and note.job_id not in ids:
        ids.append(note.job_id)
        write_json(path, ids)
    return ", ".join(ids)
