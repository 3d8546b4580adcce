"""Station 5, maps: metres on the ground of a raster's pixels and coordinates, whatever its CRS counts in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from rasterio import Affine
from rasterio.crs import CRS
from rasterio.errors import CRSError
from rasterio.warp import transform as transform_points

# WGS 84 (EPSG:4326).
EQUATOR_M, FLATTENING = 6378137.0, 1 / 298.257223563
LONLAT = CRS.from_epsg(4326)
# EASE-Grid 2.0, a cylindrical projection of equal areas of the whole earth, in metres.
EQUAL_AREA = CRS.from_epsg(6933)


def is_planar(crs: CRS | None) -> bool:
    """Whether a length in the CRS's plane is one on the ground but for its unit, as in UTM or a state's own.

    Not so in degrees, nor in Mercator's projection, which web maps use and which doubles lengths at 60 degrees north. A
    CRS that is not known is taken to be.
    """
    return crs is None or not (crs.is_geographic or 'PROJECTION["Mercator' in crs.to_wkt())


def unit_m(crs: CRS | None) -> float:
    """Metres in a unit of a planar CRS; 1 where none is known."""
    try:
        return float(crs.linear_units_factor[1]) if crs is not None else 1.0
    except CRSError:
        return 1.0


def pixel_m(crs: CRS | None, transform: Affine, height: int, width: int) -> tuple[float, float]:
    """Width and height of the pixel in a raster's middle, in metres."""
    if is_planar(crs):
        metres = unit_m(crs)
        return metres * math.hypot(transform.a, transform.d), metres * math.hypot(transform.b, transform.e)
    col, row = width / 2, height / 2
    here, right, below = lonlat(crs, transform, [(col, row), (col + 1, row), (col, row + 1)])
    return _distance_m(here, right), _distance_m(here, below)


def lonlat(crs: CRS | None, transform: Affine, places: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Longitude and latitude of places in pixels (column, row)."""
    a, b, c, d, e, f = tuple(transform)[:6]
    xs, ys = zip(*((a * col + b * row + c, d * col + e * row + f) for col, row in places), strict=True)
    return list(zip(*transform_points(crs, LONLAT, xs, ys), strict=True))


def north(crs: CRS | None, transform: Affine, height: int, width: int) -> tuple[float, float]:
    """The direction of true north in a raster's middle, as a unit vector in pixels (to the right, down).

    The CRS's own north where longitude and latitude cannot be had.
    """
    inverse = ~transform
    x, y = transform @ (width / 2, height / 2)
    step = max(height, width) * math.sqrt(abs(transform.determinant)) / 100
    ahead = (x, y + step)
    if crs is not None and not crs.is_geographic:
        try:
            (lon,), (lat,) = transform_points(crs, LONLAT, [x], [y])
            (other,), (top,) = transform_points(LONLAT, crs, [lon], [min(90.0, lat + 1e-4)])
            ahead = (other, top)
        except (CRSError, ValueError):  # a site's own system, which nobody has tied to the earth
            pass
    (col, row), (col_ahead, row_ahead) = inverse @ (x, y), inverse @ ahead
    length = math.hypot(col_ahead - col, row_ahead - row)
    return (col_ahead - col) / length, (row_ahead - row) / length


def areas_m2(polygons: np.ndarray, crs: CRS | None) -> np.ndarray:
    """Areas of shapely polygons in coordinates of ``crs``, in square metres of the ground."""
    import shapely

    areas: np.ndarray[Any, Any]
    if is_planar(crs):
        areas = shapely.area(polygons) * unit_m(crs) ** 2
        return areas

    def flat(places: np.ndarray) -> np.ndarray:
        return np.stack(transform_points(crs, EQUAL_AREA, *places.T), axis=1) if len(places) else places

    areas = shapely.area(shapely.transform(polygons, flat))
    return areas


def _distance_m(one: tuple[float, float], other: tuple[float, float]) -> float:
    """Metres between two places (longitude, latitude) that lie near each other."""
    latitude = math.radians((one[1] + other[1]) / 2)
    square = FLATTENING * (2 - FLATTENING)
    bend = 1 - square * math.sin(latitude) ** 2
    along = EQUATOR_M / math.sqrt(bend) * math.cos(latitude) * math.radians(other[0] - one[0])
    up = EQUATOR_M * (1 - square) / bend**1.5 * math.radians(other[1] - one[1])
    return math.hypot(along, up)
