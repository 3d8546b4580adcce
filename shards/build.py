#!/usr/bin/env python
"""Build WebDataset shards from the archives of a configuration (station 2, ``drdg.shards.build``).

Alone, or as several processes by ``mpiexec -n N`` or ``srun``: the shards are the same to the byte.
"""

from __future__ import annotations

import argparse
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING

from drdg import cli

if TYPE_CHECKING:
    from pathlib import Path

    from drdg.config import Config
    from drdg.shards.crew import Crew


def main() -> None:
    """Parse the command line, build what is not there yet, print the folders."""
    arguments = cli.parser("Build WebDataset shards from the archives of a configuration.")
    cli.add_domain(arguments)
    cli.run_together(arguments, action, open_crew)


def open_crew() -> AbstractContextManager[Crew]:
    """All processes that build, which may be this one alone."""
    # After the parser, so that --help need not wait for them; so below.
    from drdg.distributed import mpi
    from drdg.shards.crew import ALONE

    return mpi.open_crew(ALONE)


def action(config: Config, options: argparse.Namespace, crew: Crew) -> None:
    """Build the shards of each domain together with the other ranks, or say what would be built."""
    for name in cli.domains(options):
        given = getattr(config, name).shards
        if given is not None:
            say(f"{name}: given, at {given}", crew)
        elif options.dry_run:
            say(crew.shared(partial(describe, config, name)), crew)
        else:
            say(str(build(config, name, crew)), crew)


def build(config: Config, name: str, crew: Crew) -> Path:
    """Build the shards of one domain, what of them is not there."""
    from drdg.shards.build import build_shards

    return build_shards(getattr(config, name), config.shards, need_label=needs_label(name), crew=crew)


def describe(config: Config, name: str) -> str:
    """What building one domain would do, in a line."""
    from drdg.datasets import open_archive
    from drdg.shards.plan import make_plan

    domain = getattr(config, name)
    plan = make_plan(open_archive(domain.archive), domain, config.shards, need_label=needs_label(name))
    return (
        f"{name}: {len(plan.tops)} TOPs, {plan.num_tiles} tiles, {len(plan.shards)} shards, "
        f"{plan.num_bytes / 1e6:.1f} MB{' before compression' if plan.codec.name != 'raw' else ''} "
        f"to {config.shards.root / plan.name}"
    )


def needs_label(name: str) -> bool:
    """Only the source's: the segmentor learns from them, and nothing that trains may see the target's."""
    return name == "source"


def say(line: str, crew: Crew) -> None:
    """Print a line, once for all ranks."""
    if crew.rank == 0:
        print(line, flush=True)


if __name__ == "__main__":
    main()
