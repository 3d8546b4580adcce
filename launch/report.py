"""Put finished runs, such as those of several seeds, into one table beside the paper's numbers."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from drdg import cli

if TYPE_CHECKING:
    from drdg.config import Config


def main() -> None:
    """Parse the command line, read the runs, and print and write their comparison."""
    folders = argparse.ArgumentParser(add_help=False)
    folders.add_argument("folders", nargs="*", type=Path, metavar="RUN_FOLDER", help="of a run, as runs/demo")
    arguments = cli.parser(__doc__ or "", parents=[folders], overridable=False)
    arguments.add_argument(
        "--table", choices=("all", "main", "ablation"), default="all", help="only rows of the paper's Table I or II"
    )
    arguments.add_argument("--out", type=Path, metavar="DIR", help="where to write; default: beside the first folder")
    cli.run(arguments, action)


def action(config: Config, options: argparse.Namespace) -> None:
    """Compare the runs that are named, with that of ``--config`` as the first, or say what would be read."""
    folders = [*([config.run.directory] if options.config else []), *options.folders]
    if not folders:
        raise ValueError("name the folders of the runs, such as runs/demo, or the configuration of one by --config")
    out = options.out or folders[0].absolute().parent
    if options.dry_run:
        print(f"would compare {', '.join(map(str, folders))} and write comparison.md, .json and .png to {out}")
        return
    # After the parser, so that --help need not wait for it.
    from drdg.comparison.write import write_comparison

    files = write_comparison(folders, out, None if options.table == "all" else options.table)
    print(f"Written: {', '.join(map(str, files))}", flush=True)


if __name__ == "__main__":
    main()
