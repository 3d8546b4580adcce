"""Station 6, sweep: the options of its command; torch, pydantic and all else that takes long stay out of here."""

from __future__ import annotations

import argparse

SLURM = "slurm"
EXECUTORS = (SLURM, "local", "debug")


def add_arguments(arguments: argparse.ArgumentParser) -> None:
    """The command's own options."""
    which = arguments.add_argument_group("which cells")
    which.add_argument("--ablation", action="store_true", help="the rows of the paper's Table II")
    which.add_argument("--table1", action="store_true", help="the rows of the paper's Table I")
    which.add_argument("--rows", metavar="ROW,ROW", help="these rows, as drdg,rdg")
    which.add_argument("--seeds", default="0,1,2", metavar="N,N", help="default: 0,1,2")
    which.add_argument(
        "--directions", metavar="NAME,FILE", help="several configurations: files, or names of those in configs"
    )
    which.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a change to the configuration")
    which.add_argument("--name", help="of the sweep and its folder in run.root; default: from run.name and the rows")
    which.add_argument(
        "--smoke", action="store_true", help="two iterations of every training, in a folder of its own, to find errors"
    )
    how = arguments.add_argument_group("how they run")
    how.add_argument("--executor", choices=EXECUTORS, help="default: slurm where there is one, else this machine")
    how.add_argument("--retry-failed", action="store_true", help="start failed jobs again, too")
    how.add_argument("--detach", action="store_true", help="start the jobs and end; the same command attaches again")
    how.add_argument("--cancel", action="store_true", help="end the sweep's jobs; what is whole is kept")
    how.add_argument("--sync", action="store_true", help="write to MLflow what jobs without a way to it have spooled")
