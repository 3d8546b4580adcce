#!/usr/bin/env python
"""Show some samples of shards in one picture, and what the shards hold in one table (station 7, ``drdg.gallery``)."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from drdg import cli

if TYPE_CHECKING:
    from drdg.config import Config
    from drdg.shards.store import ShardStore


def main() -> None:
    """Parse the command line, print the table, draw the picture and say where it is."""
    arguments = cli.parser("Show some samples of shards in one picture, and what the shards hold in one table.")
    cli.add_domain(arguments)
    arguments.add_argument(
        "--folder", action="append", default=[], metavar="DIR", help="look at DIR (or a URL), without a configuration"
    )
    arguments.add_argument("--samples", type=int, default=8, metavar="N", help="how many of each folder (default: 8)")
    arguments.add_argument("--seed", type=int, default=0, help="which ones (default: 0)")
    arguments.add_argument(
        "--out", type=Path, metavar="FILE.png", help="the picture (default: samples.png beside the folders)"
    )
    cli.run(arguments, action)


def action(config: Config, options: argparse.Namespace) -> None:
    """Look into the folders of a configuration, or into those that are named."""
    cli.refuse_folder_with_config(options)
    if options.samples < 1:
        raise ValueError(f"--samples {options.samples}: a picture needs at least 1")
    # After the parser, so that --help need not wait for them.
    from drdg.gallery import draw_gallery, print_summary

    stores = named_stores(options.folder) if options.folder else configured_stores(config, options)
    out = options.out or beside(next(iter(stores.values()))) / "samples.png"
    print_summary(stores)
    if options.dry_run:
        print(f"would draw {out}")
        return
    draw_gallery(out, stores, options.samples, options.seed)
    print(out)


def named_stores(folders: list[str]) -> dict[str, ShardStore]:
    """The shards in each of ``folders``, by the name they are shown under."""
    from drdg.shards.store import ShardStore

    return {Path(folder).name: ShardStore(folder) for folder in folders}


def configured_stores(config: Config, options: argparse.Namespace) -> dict[str, ShardStore]:
    """The shards of each domain that is asked for; they must be built or given."""
    from drdg.shards.build import find_shards
    from drdg.shards.location import Location
    from drdg.shards.store import ShardStore

    stores = {}
    for name in cli.domains(options):
        domain = getattr(config, name)
        given = domain.shards and Location(domain.shards, config.shards.cache)
        stores[name] = ShardStore(given or find_shards(domain, config.shards, need_label=name == "source"))
    return stores


def beside(store: ShardStore) -> Path:
    """The folder that a local folder of shards lies in; the current one for shards that lie elsewhere."""
    return Path(store.name).resolve().parent if Path(store.name).is_dir() else Path()


if __name__ == "__main__":
    main()
