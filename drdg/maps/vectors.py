"""Station 5, maps: a class map as polygons in a GeoPackage, without gaps or overlaps, in bounded memory.

Patches that are too small go to their largest neighbour. The map is then cut into tiles; of each the faces are found
and simplified together, by the edges that they share, so that no gap comes between them. Edges along tiles' borders
stay, and polygons are joined across them. Held in memory are a tile's pixels, the polygons of a row of tiles, those of
the rows before that reach into it, and for the small patches about 20 bytes for each run of equal pixels that begins a
patch; the map without small patches lies in a scratch file of a byte for each pixel beside the output.
"""

from __future__ import annotations

import math
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
import rasterio.features
from rasterio.errors import NotGeoreferencedWarning
from rasterio.windows import Window

from drdg.maps.faces import OUTSIDE, faces
from drdg.maps.looks import opened_map
from drdg.maps.measures import areas_m2, pixel_m
from drdg.maps.ours import LAYER
from drdg.progress import progress

if TYPE_CHECKING:
    from rasterio import Affine
    from rasterio.crs import CRS

# Side of a tile in pixels: its faces and edges take about 100 MB where a map is all small patches.
TILE = 2048
ROWS = 512  # of the map that are looked at a time for their nodata


def write_polygons(
    map_path: Path,
    out: Path,
    classes: Sequence[str],
    *,
    minimum_m2: float,
    simplify_m: float,
) -> Path:
    """Write the regions of the class map ``map_path`` as polygons to the GeoPackage ``out``, whole or not at all.

    Each has ``class_id``, ``class_name`` and ``area_m2``; the CRS is the map's. Pixels that are nodata are in no
    polygon. ``minimum_m2``: regions with less pixels go to their largest neighbour, but where all around is nodata.
    ``simplify_m``: edges lose corners that cut off up to about its square; 0 keeps every corner. The areas of the
    classes change by no more than that, the area of all together only along nodata. Lengths are those in the map's
    middle. Raises ``ValueError`` for a map that cannot be read, or has pixels that are no class.
    """
    require_libraries()
    if not (minimum_m2 >= 0 and simplify_m >= 0):
        raise ValueError(f"minimum area {minimum_m2:g} m2 and simplification {simplify_m:g} m must not be negative")
    with opened_map(map_path) as file, _scratch(out) as scratch:
        nodata = OUTSIDE if file.nodata is None else int(file.nodata)
        x_m, y_m = pixel_m(file.crs, file.transform, file.height, file.width)
        pixels = sieved(file, math.ceil(minimum_m2 / (x_m * y_m)), nodata, scratch)
        tolerance = simplify_m / math.sqrt(x_m * y_m)
        unfinished = scratch / out.name
        writer = _Writer(unfinished, classes, file.crs, file.transform, map_path)
        for polygons, ids in regions(pixels, nodata, tolerance, TILE):
            writer.write(polygons, ids)
        writer.finish()
        unfinished.replace(out)
    return out


def sieved(file: rasterio.DatasetReader, size: int, nodata: int, scratch: Path) -> Any:
    """What gives the map's pixels by ``[rows, columns]``, uint8, without patches of less than ``size`` pixels.

    Patches are connected by pixels' sides. Pixels that are ``nodata`` stay, and nothing becomes nodata.
    """
    if size <= 1:
        return _Pixels(file)
    shape = (file.height, file.width)
    # Not a raster: rasterio writes a sieve's result to an array, which as a mapped file need not be in memory.
    result = np.memmap(scratch / "sieved", dtype=np.uint8, mode="w+", shape=shape)
    mask = scratch / "mask.tif"
    profile = {"driver": "GTiff", "height": shape[0], "width": shape[1], "count": 1, "dtype": "uint8"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(mask, "w", **profile, compress="deflate", zlevel=1, tiled=True, bigtiff="if_safer") as valid:
            for row in range(0, shape[0], ROWS):
                window = Window(0, row, shape[1], min(ROWS, shape[0] - row))
                valid.write((file.read(1, window=window) != nodata).astype(np.uint8), 1, window=window)
        with rasterio.open(mask) as valid:
            given = (rasterio.band(file, 1), size)
            rasterio.features.sieve(*given, out=result, mask=rasterio.band(valid, 1), connectivity=4)
    return result


def regions(pixels: Any, nodata: int, tolerance: float, tile: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The regions of a map as polygons in pixels (x along columns, y along rows), and their ids, some at a time.

    ``pixels`` gives ids by ``[rows, columns]`` and has a ``shape``. All together the polygons are a coverage: valid,
    without overlaps, and with the same vertices along shared edges; gaps are where ``nodata`` is. ``tolerance`` in
    pixels.
    """
    import shapely

    height, width = pixels.shape
    waiting: dict[int, list[Any]] = {}  # by class, what reaches the row of tiles to come
    for top in progress(range(0, height, tile), "polygons", total=-(-height // tile)):
        bottom = min(top + tile, height)
        reaching = waiting
        for left in range(0, width, tile):
            right = min(left + tile, width)
            polygons, ids = _tile(pixels, top, bottom, left, right, nodata, tolerance)
            bounds = shapely.bounds(polygons)
            # What touches no other tile is a whole region.
            open_ = (bounds[:, 0] == left) & (left > 0) | (bounds[:, 2] == right) & (right < width)
            open_ |= (bounds[:, 1] == top) & (top > 0) | (bounds[:, 3] == bottom) & (bottom < height)
            if not open_.all():
                yield polygons[~open_], ids[~open_]
            for number in np.unique(ids[open_]):
                reaching.setdefault(int(number), []).extend(polygons[open_ & (ids == number)])
        waiting = {}
        for number, pieces in sorted(reaching.items()):
            joined = shapely.get_parts(shapely.coverage_union_all(pieces))
            ahead = (shapely.bounds(joined)[:, 3] == bottom) & (bottom < height)
            if ahead.any():
                waiting[number] = list(joined[ahead])
            if not ahead.all():
                yield joined[~ahead], np.full((~ahead).sum(), number, dtype=np.int16)


def _tile(
    pixels: Any, top: int, bottom: int, left: int, right: int, nodata: int, tolerance: float
) -> tuple[np.ndarray, np.ndarray]:
    """The simplified faces of one tile that are not nodata, in the map's pixels."""
    import shapely

    height, width = pixels.shape
    ids = np.full((bottom - top + 2, right - left + 2), OUTSIDE, dtype=np.int16)
    rows, cols = slice(max(0, top - 1), min(height, bottom + 1)), slice(max(0, left - 1), min(width, right + 1))
    place = (
        slice(rows.start - top + 1, rows.stop - top + 1),
        slice(cols.start - left + 1, cols.stop - left + 1),
    )
    ids[place] = pixels[rows, cols]
    polygons, numbers = faces(ids)
    # With the faces of nodata, so that edges along it are shared ones, too; the tile's own border stays.
    polygons = shapely.coverage_simplify(polygons, tolerance, simplify_boundary=False)
    kept = numbers != nodata
    return shapely.transform(polygons[kept], lambda places: places + np.array([left, top])), numbers[kept]


class _Pixels:
    """A raster's first band, read as an array is indexed."""

    def __init__(self, file: rasterio.DatasetReader) -> None:
        self._file = file
        self.shape = (file.height, file.width)

    def __getitem__(self, place: tuple[slice, slice]) -> np.ndarray:
        rows, cols = place
        pixels: np.ndarray = self._file.read(1, window=Window.from_slices(rows, cols))
        return pixels


class _Writer:
    """A GeoPackage that grows."""

    def __init__(self, path: Path, classes: Sequence[str], crs: CRS | None, transform: Affine, source: Path) -> None:
        self.path, self.classes, self.crs, self.transform, self.source = path, classes, crs, transform, source
        self._begun = False

    def write(self, polygons: np.ndarray, ids: np.ndarray) -> None:
        """Add polygons in pixels."""
        import shapely

        if len(ids) and int(ids.max()) >= len(self.classes):
            raise ValueError(
                f"{self.source}: has the id {int(ids.max())}, which is none of the {len(self.classes)} classes; "
                "give the map's own classes, or declare that value as its nodata"
            )
        a, b, c, d, e, f = tuple(self.transform)[:6]

        def placed(places: np.ndarray) -> np.ndarray:
            col, row = places.T
            return np.stack([a * col + b * row + c, d * col + e * row + f], axis=1)

        self._append(shapely.transform(polygons, placed), ids)

    def finish(self) -> None:
        """Make a file also where there was nothing to write."""
        if not self._begun:
            self._append(np.empty(0, dtype=object), np.empty(0, dtype=np.int16))

    def _append(self, polygons: np.ndarray, ids: np.ndarray) -> None:
        import pyogrio.raw
        import shapely

        names = np.array([self.classes[number] for number in ids], dtype=object)
        epsg = None if self.crs is None else self.crs.to_epsg()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "'crs' was not provided")
            pyogrio.raw.write(
                self.path,
                shapely.to_wkb(shapely.normalize(polygons)),
                [ids.astype(np.int32), names, areas_m2(polygons, self.crs).astype(np.float64)],
                ["class_id", "class_name", "area_m2"],
                layer=LAYER,
                driver="GPKG",
                geometry_type="Polygon",
                crs=None if self.crs is None else (f"EPSG:{epsg}" if epsg else self.crs.to_wkt()),
                append=self._begun,
            )
        self._begun = True


@contextmanager
def _scratch(out: Path) -> Iterator[Path]:
    """A folder beside ``out`` that goes again, and that the next run clears where this one was killed."""
    folder = out.with_name(f".{out.name}.scratch")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def require_libraries() -> None:
    """Raise ``ValueError`` where polygons cannot be written."""
    from importlib.util import find_spec

    if missing := [name for name in ("shapely", "pyogrio") if find_spec(name) is None]:
        raise ValueError(f"polygons need {' and '.join(missing)}, not installed here; pip install 'drdg[maps]'")
