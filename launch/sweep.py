"""All cells of a table, every row with every seed, as jobs of a cluster or of this machine, watched and kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from drdg import cli
from drdg.sweep.options import add_arguments


def main() -> None:
    """Parse the command line and start, attach to, describe or end the sweep."""
    arguments = cli.parser(
        "Train and score every row with every seed, each stage a job that starts when what it needs is done. The same "
        "command attaches to what runs, skips what is done and starts again what was lost."
    )
    add_arguments(arguments)
    options = arguments.parse_intermixed_args()
    with cli.one_sentence():
        # After the parser, so that --help need not wait for them.
        from drdg.cluster.executors import default_kind, open_executor
        from drdg.sweep.command import Surroundings, act

        missing = act(options, Surroundings(open_executor, default_kind, settle))
    if missing:
        cli.stop(missing, cli.FAILED)


def settle(sweep: Mapping[str, Any]) -> object:
    """Settle every cell of the sweep and write its report."""
    from drdg.stages.settle import settle_and_report

    return settle_and_report(sweep)


if __name__ == "__main__":
    main()
