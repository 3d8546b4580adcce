"""Put finished runs, such as those of several seeds, or a whole sweep into tables beside the paper's numbers.

With folders of runs it compares those. With --sweep, --store or MLFLOW_TRACKING_URI it reads a sweep from MLflow alone
and writes tables, pictures and a page to open in a browser.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from drdg import cli

if TYPE_CHECKING:
    from drdg.config import Config

VARIABLE = "MLFLOW_TRACKING_URI"
PLAN = "sweep.json"
FOLDER = "report-from-store"  # not that of the report that a sweep makes itself


def main() -> None:
    """Parse the command line, read the runs, and print and write their comparison."""
    folders = argparse.ArgumentParser(add_help=False)
    folders.add_argument("folders", nargs="*", type=Path, metavar="RUN_FOLDER", help="of a run, as runs/demo")
    arguments = cli.parser(__doc__ or "", parents=[folders], overridable=False)
    arguments.add_argument(
        "--table", choices=("all", "main", "ablation"), default="all", help="of folders only the rows of Table I or II"
    )
    arguments.add_argument("--out", type=Path, metavar="DIR", help="where to write; default: beside what is read")
    arguments.add_argument("--sweep", metavar="NAME", help="or folder or MLflow run id; else the newest sweep")
    arguments.add_argument("--store", metavar="URI", help=f"MLflow's; else the sweep's, tracking.uri or {VARIABLE}")
    arguments.add_argument("--experiment", metavar="NAME", help="MLflow's; default: tracking.experiment")
    cli.run(arguments, action)


def action(config: Config, options: argparse.Namespace) -> None:
    """Compare the runs that are named, with that of ``--config`` as the first, or report the sweep that is."""
    asked = options.sweep or options.store or options.experiment
    if asked and options.folders:
        raise ValueError(f"{options.folders[0]}: folders of runs are read without --sweep, --store and --experiment")
    if len(options.folders) == 1 and plan_of(options.folders[0]) and not options.config:
        asked = options.sweep = str(options.folders[0])
    if asked or (not options.folders and not options.config and os.environ.get(VARIABLE)):
        report_sweep(config, options)
    else:
        compare_folders(config, options)


def compare_folders(config: Config, options: argparse.Namespace) -> None:
    """Put runs in folders into one table, or say what would be read."""
    folders = [*([config.run.directory] if options.config else []), *options.folders]
    if not folders:
        raise ValueError(
            f"name the folders of the runs, such as runs/demo, or the configuration of one by --config, or a sweep by "
            f"--sweep, --store or {VARIABLE}"
        )
    out = options.out or folders[0].absolute().parent
    if options.dry_run:
        print(f"would compare {', '.join(map(str, folders))} and write comparison.md, .json and .png to {out}")
        return
    # After the parser, so that --help need not wait for it.
    from drdg.comparison.write import write_comparison

    files = write_comparison(folders, out, None if options.table == "all" else options.table)
    print(f"Written: {', '.join(map(str, files))}", flush=True)


def report_sweep(config: Config, options: argparse.Namespace) -> None:
    """Write everything about a sweep, read from its store, or say what would be."""
    if options.table != "all":
        raise ValueError("--table is for folders of runs; a sweep's report has both tables")
    name, uri, experiment, folder = options.sweep, options.store, options.experiment, config.run.root
    if name:
        folder = Path(name) if plan_of(Path(name)) else config.run.root / name
        if plan := plan_of(folder):
            name, uri, experiment = plan["run_id"], uri or plan["uri"], experiment or plan["experiment"]
    uri = uri or config.tracking.uri
    experiment = experiment or config.tracking.experiment
    from drdg.tracking.query import open_sweep

    record = open_sweep(uri, experiment, name, folder)
    here = record.folder if plan_of(record.folder) else config.run.root / record.name
    out = options.out or here / FOLDER
    if options.dry_run:
        print(f"would report sweep {record.name} ({len(record.cells)} cells) of {record.shown} and write to {out}")
        return
    from drdg.comparison.store_report import write_report

    files = write_report(record, out)
    print(f"Written: {len(files)} files in {out}; open {files[0]}", flush=True)


def plan_of(folder: Path) -> dict[str, str] | None:
    """What ``sweep.json`` of a sweep's folder says; None for any other folder."""
    try:
        plan = json.loads((folder / PLAN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    is_plan = isinstance(plan, dict) and {"run_id", "uri", "experiment"} <= set(plan)
    return plan if is_plan else None


if __name__ == "__main__":
    main()
