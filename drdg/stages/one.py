"""Station 6, stages: one stage of one row as a command (``launch/translate.py``, ``segment.py``, ``evaluate.py``)."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from drdg import cli

if TYPE_CHECKING:
    from drdg.config import Config


def main(name: str, description: str) -> None:
    """Parse the command line and run the stage ``name``."""
    arguments = cli.parser(description)
    arguments.add_argument("--row", default="drdg", help="row of the table, by its name (default: drdg)")

    def action(config: Config, options: argparse.Namespace) -> None:
        from drdg.experiments import find_row

        row = find_row(options.row)
        if options.dry_run:
            print(f"would run the stage {name} of row {row.name} in {config.run.directory / row.name / name}")
            return
        from drdg.stages.pipeline import run_one_stage

        run_one_stage(config, row, name)

    cli.run(arguments, action)
