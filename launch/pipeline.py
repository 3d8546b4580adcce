"""The whole path in one command: archives, shards, GAN, translation, segmentor, scores, table, MLflow."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from drdg import cli

if TYPE_CHECKING:
    from drdg.config import Config


def main() -> None:
    """Parse the command line and run every stage that is not done."""
    arguments = cli.parser("From orthophotos to a scored map of the target city; what is done is not done again.")
    cli.run(arguments, action)


def action(config: Config, options: argparse.Namespace) -> None:
    """Run the pipeline, or say what it would run."""
    if options.dry_run:
        from drdg.stages.pipeline import describe

        print(describe(config))
        return
    from drdg.stages.pipeline import run_pipeline

    run_pipeline(config)


if __name__ == "__main__":
    main()
