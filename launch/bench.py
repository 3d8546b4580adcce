"""Measure the suite beside its peers, interleaved in one run, and print medians, ratios and goals; or what more nodes
would cost, on paper.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from drdg import cli
from drdg.bench import predict_sizes, scaling_sizes, sizes, tracking_sizes

if TYPE_CHECKING:
    from drdg.bench.result import Comparison
    from drdg.config import Config

SUBJECTS = {
    "data": "from archives to batches: the stream of pairs and the build of shards",
    "scaling": "a second rank, DeepSpeed, what is sent, and checkpoints",
    "tracking": "what a training's step gives for being kept in MLflow",
    "predict": "a class map of a whole orthophoto, its time and memory",
    "cost": "on paper: nodes, batches and networks (slurm/README.md)",
}
PARTS = {
    "data": sizes.PARTS,
    "scaling": scaling_sizes.PARTS,
    "tracking": tracking_sizes.PARTS,
    "predict": predict_sizes.PARTS,
}
REPEATS, QUICK_REPEATS = 5, 2
# Options of one subject that have no meaning for another.
MEASURED = ("only", "repeats", "quick", "root")
ONLY_FOR = {
    "data": (*MEASURED, "real"),
    "scaling": MEASURED,
    "tracking": MEASURED,
    "predict": MEASURED,
    "cost": ("nodes", "pairs", "batch", "gpus", "tflops", "launch_us", "nics", "nic_gbit"),
}


def main() -> None:
    """Parse the command line, measure, print the comparisons; missed goals are results and no errors."""
    subject = argparse.ArgumentParser(add_help=False)
    help_ = "; ".join(f"{name}: {what}" for name, what in SUBJECTS.items())
    subject.add_argument("subject", choices=tuple(SUBJECTS), help=help_)
    arguments = cli.parser(__doc__ or "", parents=[subject])
    every = [part for parts in PARTS.values() for part in parts]
    arguments.add_argument("--only", choices=every, nargs="+", help="parts of the subject; default: all")
    arguments.add_argument("--repeats", type=runs, metavar="N", help=f"runs of each side; default: {REPEATS}")
    arguments.add_argument(
        "--quick", action="store_true", help="tiny sizes, to see that it works; the figures mean nothing"
    )
    arguments.add_argument(
        "--real", action="store_true", help="data: pixels of the source's archive, not of a generated town"
    )
    arguments.add_argument("--root", type=Path, metavar="DIR", help="where to work; default: the temporary folder")
    arguments.add_argument("--json", action="store_true", help="results as JSON; the table to standard error")
    add_cost(arguments)
    cli.run(arguments, action)


def add_cost(arguments: argparse.ArgumentParser) -> None:
    """The options of the subject ``cost``."""
    cost = arguments.add_argument_group("cost")
    cost.add_argument("--nodes", type=count, nargs="+", help="default: 1 8 64")
    cost.add_argument("--pairs", type=count, nargs="+", help="on each GPU (weak scaling); default: 1 8")
    cost.add_argument("--batch", type=count, nargs="+", help="gan.batch_size (strong scaling); default: 64 512")
    cost.add_argument("--gpus", type=count, help="of a node")
    cost.add_argument("--tflops", type=above_zero, help="what a GPU really computes")
    cost.add_argument("--launch-us", type=zero_or_more, help="of a kernel; 0 for CUDA graphs")
    cost.add_argument("--nics", type=count, help="network cards of a node")
    cost.add_argument("--nic-gbit", type=above_zero, help="of each, in Gbit/s")


def runs(text: str) -> int:
    """A number of runs of each side."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text} runs measure nothing; take {REPEATS} or more")
    return int(text)


def count(text: str) -> int:
    """A whole number above 0."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text} is too few; take a whole number above 0")
    return int(text)


def above_zero(text: str) -> float:
    """A number above 0."""
    if not (value := zero_or_more(text)):
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def zero_or_more(text: str) -> float:
    """A finite number that is not negative."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is no number of 0 or more")
    return value


def action(config: Config, options: argparse.Namespace) -> None:
    """Do what the subject asks for, or say what would be measured."""
    refuse_others_options(options)
    if options.subject == "cost":
        print_cost(config, options)
        return
    parts = options.only or PARTS[options.subject]
    repeats = options.repeats or (QUICK_REPEATS if options.quick else REPEATS)
    if options.dry_run:
        where = str(options.root or "the temporary folder")
        if options.subject == "data":
            print(sizes.describe(sizes.QUICK if options.quick else sizes.FULL, repeats, parts, where))
        elif options.subject == "tracking":
            small = tracking_sizes.QUICK if options.quick else tracking_sizes.FULL
            print(tracking_sizes.describe(small, repeats, parts, where))
        elif options.subject == "predict":
            shown = predict_sizes.QUICK if options.quick else predict_sizes.FULL
            print(predict_sizes.describe(shown, repeats, where))
        else:
            scale = scaling_sizes.QUICK if options.quick else scaling_sizes.FULL
            print(scaling_sizes.describe(scale, repeats, parts, where))
        return
    # After the parser, so that --help and --dry-run need not wait for torch.
    from drdg.bench.result import table

    comparisons = measure(config, options, parts, repeats)
    print(table(comparisons), file=sys.stderr if options.json else sys.stdout)
    if options.json:
        print(json.dumps([comparison.row() for comparison in comparisons], indent=1))


def measure(config: Config, options: argparse.Namespace, parts: Sequence[str], repeats: int) -> list[Comparison]:
    """Measure ``parts`` of the subject."""
    if options.subject == "data":
        from drdg.bench.suite import measure_data

        size = sizes.QUICK if options.quick else sizes.FULL
        return measure_data(config, size, repeats, parts, root=options.root, real=options.real)
    if options.subject == "tracking":
        from drdg.bench.tracking import measure_tracking

        small = tracking_sizes.QUICK if options.quick else tracking_sizes.FULL
        return measure_tracking(config, small, repeats, root=options.root)
    if options.subject == "predict":
        from drdg.bench.predict import measure_predict

        chosen = predict_sizes.QUICK if options.quick else predict_sizes.FULL
        return measure_predict(chosen, repeats, root=options.root)
    from drdg.bench.scaling import measure_scaling

    scale = scaling_sizes.QUICK if options.quick else scaling_sizes.FULL
    return measure_scaling(config, scale, repeats, parts, root=options.root)


def print_cost(config: Config, options: argparse.Namespace) -> None:
    """Print the cost model's tables."""
    nodes, pairs, batches = options.nodes or [1, 8, 64], options.pairs or [1, 8], options.batch or [64, 512]
    if options.dry_run:
        print(f"cost: nodes {nodes}, pairs a GPU {pairs}, gan.batch_size {batches}; nothing is measured")
        return
    from drdg.bench.cost_inputs import Machine
    from drdg.bench.cost_table import Costs, as_rows, report

    said = {name: getattr(options, name) for name in ("gpus", "tflops", "launch_us", "nics", "nic_gbit")}
    costs = Costs(config, Machine(**{name: value for name, value in said.items() if value is not None}))
    print(report(costs, nodes, pairs, batches), file=sys.stderr if options.json else sys.stdout)
    if options.json:
        rows = {"weak": costs.weak(nodes, pairs), "strong": costs.strong(nodes, batches)}
        print(json.dumps({name: as_rows(found) for name, found in rows.items()}, indent=1))


def refuse_others_options(options: argparse.Namespace) -> None:
    """Raise ``ValueError`` when an option or a part belongs to another subject."""
    for name in {name for names in ONLY_FOR.values() for name in names} - {*ONLY_FOR[options.subject]}:
        if getattr(options, name) not in (None, False):
            there = " and ".join(subject for subject, names in ONLY_FOR.items() if name in names)
            raise ValueError(f"--{name.replace('_', '-')} is for {there}, not for {options.subject}; leave it out")
    for part in options.only or ():
        if part not in PARTS[options.subject]:
            raise ValueError(
                f"--only {part}: is no part of {options.subject}; take {', '.join(PARTS[options.subject])}"
            )


if __name__ == "__main__":
    main()
