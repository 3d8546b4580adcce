#!/usr/bin/env python
"""Build WebDataset shards from the archives of a configuration (station 2, ``drdg.tiles.build``)."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from drdg import cli

if TYPE_CHECKING:
    from drdg.config import Config


def main() -> None:
    """Parse the command line, build what is not there yet, print the folders."""
    arguments = cli.parser("Build WebDataset shards from the archives of a configuration.")
    arguments.add_argument("--domain", choices=("source", "target", "both"), default="both", help="default: both")
    cli.run(arguments, action)


def action(config: Config, options: argparse.Namespace) -> None:
    """Build the shards of each domain, or say what would be built."""
    # After the parser, so that --help need not wait for them.
    from drdg.datasets import open_archive
    from drdg.tiles.build import build_shards
    from drdg.tiles.plan import make_plan

    for name in ("source", "target") if options.domain == "both" else (options.domain,):
        domain = getattr(config, name)
        # The segmentor learns from the source's labels; nothing that trains may see the target's.
        need_label = name == "source"
        if options.dry_run:
            plan = make_plan(open_archive(domain.archive), domain, config.shards, need_label=need_label)
            print(
                f"{name}: {len(plan.tops)} TOPs, {plan.num_tiles} tiles, {len(plan.shards)} shards, "
                f"{plan.num_bytes / 1e6:.1f} MB to {config.shards.root / plan.name}"
            )
        else:
            print(build_shards(domain, config.shards, need_label=need_label), flush=True)


if __name__ == "__main__":
    main()
