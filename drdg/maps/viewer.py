"""Station 5, maps: a page to look around a map in any browser, from the disk, without a network or a server."""

from __future__ import annotations

import html
import json
import shutil
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from drdg.files import write_text
from drdg.maps.looks import opened_map
from drdg.maps.measures import north, pixel_m
from drdg.maps.ours import PICTURES_MARK, is_ours, pictures_of
from drdg.maps.pyramid import TILE, Grid, Layer, Level, gradient, grid_of, write_layer
from drdg.panels import Palette

MAP, IMAGE = "map", "image"
TEMPLATE = "viewer.html"
MARK_TEXT = "Pictures of the page beside this folder; they are made anew with it.\n"


def write_viewer(
    layers: Mapping[str, Path], out: Path, classes: Sequence[str], palette: Palette, *, title: str
) -> Path:
    """Write the page ``out`` (HTML), and beside it the folder ``<its name>_tiles`` of its pictures; returns ``out``.

    ``layers``: rasters by their names, from the lowest to the highest; ``map``, the class map, must be one, and gives
    the grid that the others are brought to. An image has three bands, other layers one. A layer has pictures down to
    one of its pixels, or where these would be more than ``pyramid.MOST_TILES``, to as fine as these allow. Raises
    ``ValueError`` for a raster that cannot be read or placed, and for a folder of that name that is not ours.
    """
    assert len(classes) == len(palette), (classes, palette)
    if MAP not in layers:
        raise ValueError(f"{out}: a page needs the layer {MAP!r}, but there is {', '.join(layers) or 'none'}; name it")
    tiles = pictures_of(out)
    if tiles.exists() and not is_ours(tiles):
        raise ValueError(f"{tiles}: is there already and not of this page's making; move it or name another page")
    fresh = out.with_name(f".{out.stem}_tiles.new")
    shutil.rmtree(fresh, ignore_errors=True)
    with opened_map(layers[MAP]) as file:
        grid = grid_of(file)
    levels = grid.levels()
    drawn = [
        write_layer(name, path, grid, levels, fresh / str(number), palette if name == MAP else None)
        for number, (name, path) in enumerate(layers.items())
    ]
    write_text(fresh / PICTURES_MARK, MARK_TEXT)
    shutil.rmtree(tiles, ignore_errors=True)
    fresh.rename(tiles)
    write_text(out, page(_described(drawn, levels, grid, tiles.name, classes, palette), title))
    return out


def page(described: Mapping[str, Any], title: str) -> str:
    """The page's text."""
    text = resources.files("drdg.maps").joinpath(TEMPLATE).read_text(encoding="utf-8")
    # Inside a script only an end tag, or a comment's beginning, could end the JSON.
    values = json.dumps(described, separators=(",", ":")).replace("<", "\\u003c")
    return text.replace("@TITLE@", html.escape(title)).replace("@DESCRIBED@", values)


def _described(
    layers: Sequence[Layer],
    levels: Sequence[Level],
    grid: Grid,
    folder: str,
    classes: Sequence[str],
    palette: Palette,
) -> dict[str, Any]:
    """What the page's script works with."""
    placed = not (grid.crs is None and grid.transform.is_identity)
    x_m, y_m = pixel_m(grid.crs, grid.transform, grid.height, grid.width) if placed else (1.0, 1.0)
    right, down = north(grid.crs, grid.transform, grid.height, grid.width) if placed else (0.0, -1.0)
    epsg = None if grid.crs is None else grid.crs.to_epsg()
    return {
        "folder": folder,
        "tile": TILE,
        "height": grid.height,
        "width": grid.width,
        "pixel_m": [x_m, y_m] if placed else None,
        "north": [right * x_m, down * y_m] if placed else None,
        "transform": list(grid.transform)[:6],
        "crs": f"EPSG:{epsg}" if epsg else ("" if grid.crs is None else "own coordinate system"),
        "degrees": bool(grid.crs and grid.crs.is_geographic),
        "levels": [{"factor": level.factor, "rows": level.rows, "cols": level.cols} for level in levels],
        "layers": [
            {
                "name": layer.name.replace("_", " "),
                "kind": layer.kind,
                "tiles": layer.tiles,
                "range": layer.low_high,
                # What lies below the map is to be seen through it; what says how good it is can be asked for.
                "opacity": 0.6 if layer.name == MAP and len(layers) > 1 and layers[0].name != MAP else 1.0,
                "shown": layer.name == MAP or layer.kind == "image",
            }
            for layer in layers
        ],
        "classes": [
            {"name": name.replace("_", " "), "colour": list(shade)}
            for name, shade in zip(classes, palette, strict=True)
        ],
        "gradient": [list(shade) for shade in gradient()[::32]],
    }
