"""Station 5, maps: a finished map opened, and read small, for what shows it to people."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from drdg.tiles.raster import block_cache

# Of GDAL's, for decoded blocks; by itself it takes a twentieth of the machine's memory.
CACHE_BYTES = 256 << 20


@contextmanager
def opened_raster(path: Path) -> Iterator[rasterio.DatasetReader]:
    """A raster, opened. Raises ``ValueError`` when it cannot be."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            file = rasterio.open(path)
    except RasterioError as error:
        raise ValueError(f"{path}: cannot be read as a raster ({error}); make it again") from error
    with file, block_cache(CACHE_BYTES):
        yield file


@contextmanager
def opened_map(path: Path) -> Iterator[rasterio.DatasetReader]:
    """A class map, opened. Raises ``ValueError`` when it cannot be, or is none."""
    with opened_raster(path) as file:
        if file.count != 1 or file.dtypes[0] != "uint8":
            raise ValueError(
                f"{path}: has {file.count} bands of {file.dtypes[0]}, but a class map has one of uint8; name the map"
            )
        yield file


def small(file: rasterio.DatasetReader, side: int) -> np.ndarray:
    """A class map's ids, uint8, of at most ``side`` pixels along its longer side, by overviews where it has some."""
    factor = max(1.0, max(file.height, file.width) / side)
    shape = (max(1, round(file.height / factor)), max(1, round(file.width / factor)))
    ids: np.ndarray = file.read(1, out_shape=shape)
    return ids


def class_ids(ids: np.ndarray, nodata: float | None, classes: int) -> np.ndarray:
    """``ids`` with everything that is no class as 255."""
    known = ids < classes
    if nodata is not None:
        known &= ids != nodata
    return np.where(known, ids, np.uint8(255))


def round_length(wanted: float) -> float:
    """The largest 1, 2 or 5 times a power of ten that is not above ``wanted``."""
    power = 10.0 ** np.floor(np.log10(wanted))
    return float(power * max(factor for factor in (1, 2, 5) if factor * power <= wanted * (1 + 1e-9)))


def length_text(metres: float) -> str:
    """A length for people: 250 m, 2 km, 20 cm."""
    if metres >= 1000:
        return f"{metres / 1000:g} km"
    return f"{metres:g} m" if metres >= 1 else f"{metres * 100:g} cm"
