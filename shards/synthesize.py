#!/usr/bin/env python
"""Write two generated archives in the ISPRS layouts (station 1, ``drdg.datasets.synthetic``)."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from drdg import cli

if TYPE_CHECKING:
    from drdg.config import Config


def main() -> None:
    """Parse the command line, write what is not there yet, say in one line what there is now."""
    cli.run(cli.parser("Write two generated archives in the ISPRS layouts, as the section synthetic says."), action)


def action(config: Config, options: argparse.Namespace) -> None:
    """Write the archives, or say what would be written. Raises ``ValueError`` when no archives are asked for."""
    wanted = config.synthetic
    if wanted is None:
        raise ValueError(
            "synthetic: the configuration has no such section; take --config configs/demo.yaml "
            "or give an override such as synthetic.root=data/synthetic"
        )
    # After the parser, so that --help need not wait for it.
    from drdg.datasets.synthetic import archive_folders, write_archives

    source, target = archive_folders(wanted) if options.dry_run else write_archives(wanted)
    print(
        f"{'would write' if options.dry_run else 'ready'}: "
        f"{source} ({wanted.source_tops} TOPs of {wanted.source_side} px at 5 cm), "
        f"{target} ({wanted.target_tops} TOPs of {wanted.target_side} px at 9 cm)"
    )


if __name__ == "__main__":
    main()
