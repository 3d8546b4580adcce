"""Measure the suite beside its peers, interleaved in one run, and print medians, ratios and goals."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from drdg import cli
from drdg.bench.sizes import FULL, PARTS, QUICK, describe

if TYPE_CHECKING:
    from drdg.config import Config

SUBJECTS = {"data": "from archives to batches: the stream of pairs and the build of shards"}
REPEATS, QUICK_REPEATS = 5, 2


def main() -> None:
    """Parse the command line, measure, print the comparisons; missed goals are results and no errors."""
    subject = argparse.ArgumentParser(add_help=False)
    help_ = "; ".join(f"{name}: {what}" for name, what in SUBJECTS.items())
    subject.add_argument("subject", choices=tuple(SUBJECTS), help=help_)
    arguments = cli.parser(__doc__, parents=[subject])
    arguments.add_argument("--only", choices=PARTS, nargs="+", default=PARTS, help="parts of it; default: all")
    arguments.add_argument("--repeats", type=count, metavar="N", help=f"runs of each side; default: {REPEATS}")
    arguments.add_argument(
        "--quick", action="store_true", help="tiny sizes, to see that it works; the figures mean nothing"
    )
    arguments.add_argument(
        "--real", action="store_true", help="pixels of the source's archive, not of a generated town"
    )
    arguments.add_argument("--root", type=Path, metavar="DIR", help="where to work; default: the temporary folder")
    arguments.add_argument("--json", action="store_true", help="the comparisons as JSON; the table to standard error")
    cli.run(arguments, action)


def count(text: str) -> int:
    """A whole number above 0."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text} runs measure nothing; take {REPEATS} or more")
    return int(text)


def action(config: Config, options: argparse.Namespace) -> None:
    """Measure the subject, or say what would be measured."""
    sizes = QUICK if options.quick else FULL
    repeats = options.repeats if options.repeats is not None else QUICK_REPEATS if options.quick else REPEATS
    if options.dry_run:
        print(describe(sizes, repeats, options.only, str(options.root or "the temporary folder")))
        return
    # After the parser, so that --help and --dry-run need not wait for torch.
    from drdg.bench.result import table
    from drdg.bench.suite import measure_data

    comparisons = measure_data(config, sizes, repeats, options.only, root=options.root, real=options.real)
    print(table(comparisons), file=sys.stderr if options.json else sys.stdout)
    if options.json:
        print(json.dumps([comparison.row() for comparison in comparisons], indent=1))


if __name__ == "__main__":
    main()
