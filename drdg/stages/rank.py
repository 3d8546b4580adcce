"""Station 6, stages: one rank of a training, as a launcher or a person starts it (``launch/train.py``, ``segment``)."""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import nullcontext
from typing import TYPE_CHECKING

from drdg import cli
from drdg.distributed.voice import once_per_node
from drdg.stages.parent import die_with_parent
from drdg.training.preemption import SCHEDULERS, listening

if TYPE_CHECKING:
    from drdg.config import Config


def main(stage: str, description: str) -> None:
    """Parse the command line and take part in the ``stage`` of a row."""
    arguments = cli.parser(description)
    arguments.add_argument("--row", default="drdg", help="row of the table, by its name (default: drdg)")
    # DeepSpeed's launcher gives it to each process, unless it is told not to, and says it by a variable as well.
    arguments.add_argument("--local_rank", help=argparse.SUPPRESS)

    def action(config: Config, options: argparse.Namespace) -> None:
        # Read when torch is loaded. Of its warnings every rank would write one that DDP looks for unused parameters in
        # vain (``DdpEngine`` says why it does) and, where addresses have no names, one for each connection.
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
        die_with_parent()
        # From the beginning: who is asked to stop before the first iteration makes that one and saves, so that a job
        # whose every start is cut short gets further all the same.
        with listening(SCHEDULERS):
            _take_part(stage, config, options)

    cli.run(arguments, action, once_per_node)


def _take_part(name: str, config: Config, options: argparse.Namespace) -> None:
    from drdg.distributed.group import process_group
    from drdg.distributed.topology import discover
    from drdg.experiments import find_row
    from drdg.stages.places import places_of
    from drdg.stages.records import begin_parent, begin_stage
    from drdg.stages.row import AS_RANK
    from drdg.stages.workspace import stages_of
    from drdg.tracking import Tracking, inherited_run_id

    row = find_row(options.row)
    if name == "gan" and not row.is_trained:
        other = "take rdg or drdg" if row.shares is None else f"it learns from the tiles of row {row.shares}"
        raise ValueError(f"--row {row.name}: has no translator to train; {other}")
    topology = discover()
    if options.dry_run:
        what = f"{name} of {row.name} as rank {topology.rank} of {topology.world_size}"
        print(f"would train {what} in {config.run.directory}")
        return
    stages = stages_of(row, config, *places_of(row, config))
    stage = stages.refuse_too_early(name)
    if stage.is_done():
        return
    where = (config.tracking.uri, config.tracking.experiment, config.run.directory)
    tracking = Tracking(*where, rank=topology.rank, in_background=True)
    # The pipeline that starts ranks has begun the run already; a person's command begins its own.
    with nullcontext() if inherited_run_id() else begin_parent(tracking, config) as parent:
        run = tracking.join() if parent is None else begin_stage(tracking, parent, stage, stages.config)
        with run, process_group(config.distributed, topology) as group:
            AS_RANK[name](stages, group, run)


if __name__ == "__main__":
    main(sys.argv.pop(1), "One rank of a stage.")
