"""Say on one page why a job on these nodes would hang or crawl, before it does."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from drdg import cli

if TYPE_CHECKING:
    from drdg.config import Config

TIMEOUT_S = 10.0


def main() -> None:
    """Parse the command line and examine the ranks that a launcher has started, or answer the first of them."""
    arguments = cli.parser(
        "Say on one page why a job on these nodes would hang or crawl, before it does. Start it as the job: "
        "srun python launch/doctor.py, or by torchrun, mpiexec, deepspeed, or alone."
    )
    arguments.add_argument(
        "--timeout", type=seconds, default=TIMEOUT_S, metavar="S", help=f"for one step; default: {TIMEOUT_S:g} seconds"
    )
    arguments.add_argument("--json", action="store_true", help="the findings as a list; the page to standard error")
    # DeepSpeed's launcher gives it to each process, unless it is told not to, and says it by a variable as well.
    arguments.add_argument("--local_rank", help=argparse.SUPPRESS)
    cli.run(arguments, action)


def seconds(text: str) -> float:
    """A time of at least a second."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 1 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is no time to wait; take {TIMEOUT_S:g}, or at least 1")
    return value


def action(config: Config, options: argparse.Namespace) -> None:
    """Examine, or say what would be done."""
    if options.dry_run:
        print(f"would examine the ranks that start with this, each step within {options.timeout:g} s")
        return
    # After the parser, so that --help need not wait for it.
    from drdg.doctor.visit import visit

    configured = ["--config", options.config] if options.config else []
    visit(config, [*configured, *options.overrides], options.timeout, json_wanted=options.json)


if __name__ == "__main__":
    main()
