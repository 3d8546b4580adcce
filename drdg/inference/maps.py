"""Station 5, inference: class maps as GeoTIFFs that a GIS opens in the right place and colours."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rasterio import Affine
from rasterio.errors import NotGeoreferencedWarning
from rasterio.io import MemoryFile

from drdg.datasets import VOID
from drdg.files import whole_file

BLOCK = 256  # side of a GeoTIFF's inner tiles in pixels, what GDAL and web viewers take by default


def write_map(
    path: Path,
    ids: np.ndarray,
    classes: Sequence[str],
    palette: Sequence[tuple[int, int, int]],
    *,
    crs: str | None,
    transform: Sequence[float],
) -> None:
    """Write class ids, uint8 (H, W) with 255 for void, as a tiled, compressed GeoTIFF, whole or not at all.

    The colours are its colour table, the names its tags ``class_0``, ``class_1``, ...; void is its nodata value.
    ``transform`` has the numbers a, b, c, d, e, f of x = a col + b row + c, y = d col + e row + f; the identity means
    that the place is not known.
    """
    assert ids.dtype == np.uint8, ids.dtype
    assert ids.ndim == 2, ids.shape
    assert len(classes) == len(palette), (classes, palette)
    place = Affine(*transform)
    profile = {
        "driver": "GTiff",
        "height": ids.shape[0],
        "width": ids.shape[1],
        "count": 1,
        "dtype": "uint8",
        "nodata": VOID,
        "crs": crs,
        "transform": None if place.is_identity else place,
        "tiled": True,
        "blockxsize": BLOCK,
        "blockysize": BLOCK,
        "compress": "deflate",
        "photometric": "palette",
    }
    colours = {i: (*colour, 255) for i, colour in enumerate(palette)}
    with MemoryFile() as memory:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with memory.open(**profile) as file:
                file.write(ids, 1)
                file.write_colormap(1, {**colours, VOID: (0, 0, 0, 0)})
                file.update_tags(**{f"class_{i}": name for i, name in enumerate(classes)})
        with whole_file(path) as whole:
            whole.write(memory.getbuffer())
