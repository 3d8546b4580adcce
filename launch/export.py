"""Write trained networks as files that anyone can load, torch.export and ONNX, checked, each with its card."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from drdg import cli

if TYPE_CHECKING:
    from drdg.config import Config

FORMATS = ("pt2", "onnx")


def main() -> None:
    """Parse the command line and export."""
    arguments = cli.parser(__doc__ or "")
    arguments.add_argument(
        "--row", type=Path, metavar="DIR", help="a row's folder, as runs/demo/drdg: all that is in it"
    )
    arguments.add_argument("--segmentor", metavar="FILE", help="a segmentor.safetensors, or models:/name@alias")
    arguments.add_argument("--generator", type=Path, metavar="FILE", help="a translator.safetensors")
    arguments.add_argument("--output", type=Path, metavar="DIR", default=Path("exported"), help="default: exported")
    arguments.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS), help="default: both")
    arguments.add_argument(
        "--tolerance", type=tolerance, default=1e-4, metavar="T", help="of the largest value; default: 1e-4"
    )
    arguments.add_argument("--shards", nargs="+", default=[], metavar="DIR", help="learned from, for the card")
    arguments.add_argument("--scores", type=Path, metavar="FILE", help="the segmentor's metrics.json, for the card")
    arguments.add_argument("--data-licence", metavar="TEXT", help="of what was learned from, for the card")
    cli.run(arguments, action)


def tolerance(text: str) -> float:
    """A number above 0 and below 1."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text} is no share between 0 and 1; take 1e-4")
    return value


def action(config: Config, options: argparse.Namespace) -> None:
    """Export, or say what would be."""
    from drdg.maps.export import Order, check_order, export, order_of_row

    order = Order(
        out=options.output,
        segmentor=options.segmentor,
        generator=options.generator,
        config=config if options.config or options.overrides else None,
        formats=tuple(dict.fromkeys(options.formats)),
        tolerance=options.tolerance,
        shards=tuple(options.shards),
        scores=options.scores,
        licence=options.data_licence,
        store=config.tracking.uri,
    )
    if options.row is not None:
        order = order_of_row(options.row, order)
    check_order(order)
    if options.dry_run:
        print(f"would write {', '.join(map(str, order.files()))}")
        return
    files = export(order)
    print(f"Written: {', '.join(map(str, files))}", flush=True)


if __name__ == "__main__":
    main()
