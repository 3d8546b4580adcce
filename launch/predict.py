"""Map any georeferenced rasters with a trained segmentor: class maps as Cloud-Optimised GeoTIFFs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from drdg import cli

if TYPE_CHECKING:
    from drdg.config import Config


def main() -> None:
    """Parse the command line and map the inputs, alone or as one rank of those that a launcher started."""
    from drdg.distributed.voice import once_per_node

    arguments = cli.parser(
        "Map any georeferenced rasters with a trained segmentor: class maps as Cloud-Optimised GeoTIFFs, alone or as "
        "one rank of those that torchrun, srun or mpiexec started. The same command continues what was interrupted. "
        "Windows are cut by evaluation.window, evaluation.overlap and evaluation.batch_size."
    )
    need = arguments.add_argument_group("what is mapped")
    need.add_argument("--model", required=True, metavar="FILE", help="segmentor.safetensors, or models:/name@alias")
    need.add_argument("--input", required=True, nargs="+", metavar="RASTER", help="files, folders or patterns")
    need.add_argument("--output", required=True, type=Path, metavar="DIR")
    add_reading(arguments.add_argument_group("how it is read"))
    add_writing(arguments.add_argument_group("what is written besides"))
    # DeepSpeed's launcher gives it to each process, unless it is told not to, and says it by a variable as well.
    arguments.add_argument("--local_rank", help=argparse.SUPPRESS)
    cli.run(arguments, action, once_per_node)


def add_reading(group: argparse._ArgumentGroup) -> None:
    """How pixels become what the network sees."""
    group.add_argument("--bands", type=bands, default=(1, 2, 3), metavar="1,2,3", help="in the order of training")
    group.add_argument(
        "--scale", type=float, nargs=2, metavar=("LOW", "HIGH"), help="values that become black and white"
    )
    group.add_argument("--gsd", type=metres, metavar="M", help="that the network is to see; default: as it was trained")
    group.add_argument("--no-crs", action="store_true", help="take rasters without a CRS")
    group.add_argument("--flips", action="store_true", help="look at each window four times, mirrored")
    group.add_argument(
        "--scales", type=factors, default=(1.0,), metavar="0.75,1,1.25", help="look at it in these sizes"
    )


def add_writing(group: argparse._ArgumentGroup) -> None:
    """What is written beside the class maps."""
    group.add_argument("--probabilities", action="store_true", help="a band for each class, 254 for 1")
    group.add_argument("--confidence", action="store_true", help="of the class in the map")
    group.add_argument(
        "--generator", type=Path, metavar="FILE", help="translator.safetensors: translated image and heights"
    )
    group.add_argument("--generator-gsd", type=metres, metavar="M", help="that it is to see; default: the raster's own")
    group.add_argument(
        "--dsm", type=Path, metavar="PATH", help="a DSM, or a folder of them: metres for heights by dsm.rule=top"
    )
    group.add_argument("--mosaic", type=Path, metavar="FILE", help=".vrt or .tif over all maps")
    group.add_argument(
        "--polygons", action="store_true", help="GeoPackage, of the mosaic if there is one, else of each map"
    )
    group.add_argument("--minimum-area", type=metres, default=0.0, metavar="M2", help="of a polygon")
    group.add_argument("--simplify", type=metres, default=0.0, metavar="M", help="tolerance of polygons' edges")
    group.add_argument("--preview", action="store_true", help="PNG with a legend, a scale bar and a north arrow")
    group.add_argument("--viewer", action="store_true", help="HTML page to look around the map")


def bands(text: str) -> tuple[int, ...]:
    """Whole numbers with commas between them."""
    parts = text.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f"{text} are no numbers of bands; write 1,2,3")
    return tuple(int(part) for part in parts)


def factors(text: str) -> tuple[float, ...]:
    """Numbers above 0 with commas between them."""
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = (0.0,)
    if not all(0.1 <= value <= 10 for value in values):
        raise argparse.ArgumentTypeError(f"{text} are no factors from 0.1 to 10; write 0.75,1,1.25")
    return values


def metres(text: str) -> float:
    """A finite number that is not negative."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is no number of 0 or more")
    return value


def action(config: Config, options: argparse.Namespace) -> None:
    """Map, or say what would be mapped."""
    from drdg.maps.inputs import Reading
    from drdg.maps.request import Request

    request = Request(
        model=options.model,
        inputs=tuple(options.input),
        output=options.output,
        reading=Reading(options.bands, tuple(options.scale) if options.scale else None, not options.no_crs),
        gsd_m=options.gsd,
        probabilities=options.probabilities,
        confidence=options.confidence,
        flips=options.flips,
        scales=options.scales,
        generator=options.generator,
        generator_gsd_m=options.generator_gsd,
        dsm=options.dsm,
        mosaic=options.mosaic,
        polygons=options.polygons,
        minimum_m2=options.minimum_area,
        simplify_m=options.simplify,
        preview=options.preview,
        viewer=options.viewer,
    )
    if options.dry_run:
        files = request.files()
        names = f"{len(files)} rasters, {files[0].name} to {files[-1].name}," if len(files) > 1 else files[0].name
        print(f"would map {names} by {request.model} to {request.output}")
        return
    # After the parser, so that --help and --dry-run need not wait for torch.
    from drdg.maps.run import predict

    predict(config, request)


if __name__ == "__main__":
    main()
