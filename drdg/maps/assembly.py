"""Station 5, maps: one raster over the maps of a city's tiles, virtual or of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import rasterio
from rasterio.transform import Affine

from drdg.files import write_text
from drdg.maps.cog import Grid, Source, copy_as_cog, piece_vrt
from drdg.maps.inputs import Reading
from drdg.maps.ours import PLAN, without_place
from drdg.maps.products import Product, translated

SAME_STEP = 1e-6
"""Share by which pixels may differ in size: less is rounding of the transforms."""
ON_GRID = 1e-3
"""Share of a pixel by which a map may lie beside the grid and still be on it."""
MOSAIC = "mosaic"
"""The plan of a mosaic, which is written anew each time; by it one is known to be ours."""


def write_mosaic(path: Path, maps: Sequence[Path], product: Product) -> Path:
    """Write one class map over ``maps``, a GDAL virtual raster or a COG by the suffix of ``path``.

    Where maps overlap, the last that has a class shows. Raises ``ValueError`` when they differ in CRS or GSD.
    """
    grid, sources = lay_out(maps)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() == ".vrt":
        write_text(path, piece_vrt(path, product, grid, sources, {PLAN: MOSAIC}))
        return path
    with TemporaryDirectory(prefix=f".{path.stem}-", dir=path.parent) as folder:
        draft = Path(folder)
        virtual = draft / "mosaic.vrt"
        write_text(virtual, piece_vrt(virtual, product, grid, sources, {PLAN: MOSAIC}))
        copy_as_cog(virtual, path, draft, product.overviews)
    return path


def write_image(path: Path, inputs: Sequence[Path], reading: Reading) -> Path:
    """Write a GDAL virtual raster over the images that were mapped, uint8 (3 bands), as the network saw them."""
    grid, sources = lay_out(inputs)
    seen = [replace(source, bands=reading.bands, low_high=reading.low_high) for source in sources]
    write_text(path, piece_vrt(path, translated(), grid, seen, {}))
    return path


def lay_out(maps: Sequence[Path]) -> tuple[Grid, list[Source]]:
    """The smallest grid that holds all ``maps``, in the steps of the first, and their places on it."""
    found = []
    for place in maps:
        with without_place(), rasterio.open(place) as file:
            found.append((place, file.height, file.width, file.crs, file.transform))
    _, _, _, crs, first = found[0]
    if len(found) > 1 and (crs is None or first.is_identity):
        raise ValueError(
            f"{maps[0]}: has no place on the ground, so it cannot be put beside others; leave out --mosaic"
        )
    for place, _, _, other, transform in found:
        if other != crs:
            raise ValueError(f"{place}: is in another CRS than {maps[0]}; warp one input, or leave it out of --mosaic")
        if abs(transform.a / first.a - 1) > SAME_STEP or abs(transform.e / first.e - 1) > SAME_STEP:
            raise ValueError(f"{place}: has other pixels than {maps[0]}; warp one input, or leave it out of --mosaic")
    at = [((t.c - first.c) / first.a, (t.f - first.f) / first.e) for *_, t in found]
    left, top = min(col for col, _ in at), min(row for _, row in at)
    sources = [
        Source(place, _on_grid(row - top), _on_grid(col - left), height, width)
        for (place, height, width, *_), (col, row) in zip(found, at, strict=True)
    ]
    height = max(-int(-(source.row + source.height) // 1) for source in sources)
    width = max(-int(-(source.col + source.width) // 1) for source in sources)
    corner = first.c + left * first.a, first.f + top * first.e
    return Grid(height, width, crs, Affine(first.a, first.b, corner[0], first.d, first.e, corner[1])), sources


def _on_grid(place: float) -> float:
    return float(round(place)) if abs(place - round(place)) < ON_GRID else place
