#!/usr/bin/env python
"""Check shards byte by byte, name each that is damaged, and mend just those (station 2, ``drdg.verify.folders``).

Alone, or as several processes by ``mpiexec -n N`` or ``srun``, which share the shards.
"""

from __future__ import annotations

import argparse
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from drdg import cli

if TYPE_CHECKING:
    from drdg.config import Config
    from drdg.shards.crew import Crew
    from drdg.verify.folders import FolderReport


def main() -> None:
    """Parse the command line, check, print a table and each finding; status 0 only if nothing is wrong."""
    arguments = cli.parser("Check shards byte by byte, name each that is damaged, and mend just those.")
    cli.add_domain(arguments)
    arguments.add_argument(
        "--folder", action="append", type=Path, default=[], metavar="DIR", help="check DIR, without a configuration"
    )
    arguments.add_argument("--repair", action="store_true", help="build what is damaged again, and only that")
    arguments.add_argument("--json", type=Path, metavar="FILE", help="write what was found to FILE too")
    cli.run_together(arguments, action, open_crew)


def open_crew() -> AbstractContextManager[Crew]:
    """All processes that check, which may be this one alone."""
    # After the parser, so that --help need not wait for them; so below.
    from drdg.distributed import mpi
    from drdg.shards.crew import ALONE

    return mpi.open_crew(ALONE)


def action(config: Config, options: argparse.Namespace, crew: Crew) -> None:
    """Check the folders of a configuration, or those that are named, or say which would be."""
    cli.refuse_folder_with_config(options)
    if options.folder and options.repair:
        raise ValueError("--repair needs the archive that the shards were cut from; give --config instead of --folder")
    if options.dry_run:
        crew.shared(lambda: preview(config, options))
        return
    reports = verify(config, options, crew)
    crew.shared(lambda: conclude(reports, options))


def verify(config: Config, options: argparse.Namespace, crew: Crew) -> dict[str, FolderReport]:
    """What was found in each folder, by the name it is shown under."""
    from drdg.verify.folders import verify_domain, verify_folder

    if options.folder:
        return {str(folder): verify_folder(folder, crew=crew) for folder in options.folder}
    return {
        name: verify_domain(
            getattr(config, name), config.shards, need_label=name == "source", repair=options.repair, crew=crew
        )
        for name in cli.domains(options)
    }


def conclude(reports: dict[str, FolderReport], options: argparse.Namespace) -> None:
    """Print and write what was found; raises ``Damage`` if there is any."""
    from drdg.files import write_json
    from drdg.verify.findings import as_plain_values, print_reports

    print_reports(reports)
    if options.json is not None:
        write_json(options.json, as_plain_values(reports))
    bad = [report for report in reports.values() if report.findings]
    if bad:
        count = sum(len(report.bad) for report in bad)
        cure = "build them again" if options.folder else "the same command with --repair builds just what is bad again"
        if options.repair:
            cure = "what is left cannot be mended by building again, so look at the lines above"
        raise cli.Damage(f"of {len(reports)} folders {len(bad)} are not as built, with {count} bad shards; {cure}")


def preview(config: Config, options: argparse.Namespace) -> None:
    """Print what would be checked; the shards need not be there."""
    from drdg.datasets import open_archive
    from drdg.shards.plan import make_plan

    for folder in options.folder:
        print(f"would check {folder}")
    for name in () if options.folder else cli.domains(options):
        domain = getattr(config, name)
        where = domain.shards
        if where is None:
            plan = make_plan(open_archive(domain.archive), domain, config.shards, need_label=name == "source")
            where = f"{len(plan.shards)} shards in {config.shards.root / plan.name}"
        print(f"{name}: would check {where}{' and mend what is bad' if options.repair else ''}")


if __name__ == "__main__":
    main()
