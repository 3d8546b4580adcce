"""Station 1, archives: light on a generated town and the sensor that sees it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from drdg.datasets.look import Look, Sensor, Sun
from drdg.datasets.relief import Floats, Relief

# Longest shadow that is followed, in metres: a 13 m tree under the lower of the two suns.
SHADOW_REACH_M = 18.0
# Slopes steeper than this (rise over run) count as this: leaf lumps and tile edges, never walls, which an orthophoto
# does not see.
STEEPEST = 1.6
# Radius over which higher neighbours take a point's sky away, in metres, and how much a metre of them takes.
SKY_RADIUS_M = 1.5
SKY_LOSS_PER_M = 0.16


def photograph(relief: Relief, look: Look, rng: np.random.Generator) -> NDArray[np.uint8]:
    """The orthophoto of a relief, its margin cut off: (4, side, side) as R, G, B, IR."""
    light = relief.reflectance * illumination(relief, look.sun)
    inside = slice(relief.margin, relief.height.shape[0] - relief.margin)
    return expose(light[:, inside, inside], look.sensor, rng)


def illumination(relief: Relief, sun: Sun) -> Floats:
    """Light per band, (4, H, W), where level ground in the open has 1: the sun's, if it is seen, and the sky's."""
    height, gsd = relief.height, relief.gsd_m
    azimuth, elevation = np.deg2rad(sun.azimuth_deg), np.deg2rad(sun.elevation_deg)
    # x points right (east), y down (south)
    towards_x, towards_y = float(np.sin(azimuth)), float(-np.cos(azimuth))
    slope = np.clip(_slope(height, 1) / gsd, -STEEPEST, STEEPEST) * np.float32(towards_x)
    slope += np.clip(_slope(height, 0) / gsd, -STEEPEST, STEEPEST) * np.float32(towards_y)
    # cosine to the sun relative to that of level ground; the normal's length is left out, as if surfaces were rough
    facing = np.clip(1 - slope / np.float32(np.tan(elevation)), 0, 1.7)
    direct = facing * sunlit(height, gsd, (towards_x, towards_y), float(np.tan(elevation)))
    sky = sky_view(height, gsd)
    shares = np.asarray(sun.sky, np.float32)[:, None, None]
    return (1 - shares) * direct + shares * sky


def sunlit(height: Floats, gsd_m: float, towards: tuple[float, float], rise: float) -> Floats:
    """1 in the sun and 0 in cast shadow, with a soft edge.

    A point is in shadow when ``max_t (height(p + t * towards) - t * rise)`` over distances ``t`` exceeds its height.
    That maximum is doubled: from the one over ``n`` steps the one over ``2 n`` follows by one shift.
    """
    shadow = height
    step = 1
    while step * gsd_m <= SHADOW_REACH_M / 2:
        rows, columns = round(step * towards[1]), round(step * towards[0])
        # the drop belongs to the whole pixels really gone, or rounding would lift or lower the shadow
        drop = float(np.hypot(rows, columns)) * gsd_m * rise
        shadow = np.maximum(shadow, _shifted(shadow, rows, columns) - np.float32(drop))
        step *= 2
    above = np.clip((shadow - height - np.float32(0.05)) / np.float32(0.15), 0, 1)
    return 1 - ndimage.gaussian_filter(above, 0.05 / gsd_m, truncate=3.0)


def sky_view(height: Floats, gsd_m: float) -> Floats:
    """How much of the sky a point sees, near 1 in the open and less at the foot of something high."""
    factor = max(int(0.3 / gsd_m), 1)
    small = height[::factor, ::factor]
    around = ndimage.gaussian_filter(small, SKY_RADIUS_M / (factor * gsd_m) / 2, truncate=3.0)
    around = np.repeat(np.repeat(around, factor, 0), factor, 1)[: height.shape[0], : height.shape[1]]
    around = ndimage.uniform_filter(around, factor)
    return np.clip(1 - np.float32(SKY_LOSS_PER_M) * (around - height), 0.45, 1.1)


def expose(light: Floats, sensor: Sensor, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Blur, tone curve, filters, noise and 8 bits; the formula is with :class:`~drdg.datasets.look.Sensor`."""
    seen = np.empty_like(light)
    for band, plane in enumerate(seen):
        haze = np.float32(sensor.haze[band])
        ndimage.gaussian_filter(haze + (1 - haze) * light[band], sensor.blur_px, output=plane, truncate=3.0)
        np.power(plane, np.float32(sensor.gamma[band]), out=plane)
    numbers = np.empty(light.shape, np.uint8)
    for band, weights in enumerate(sensor.mixing):
        tone = np.full(light.shape[1:], sensor.offset[band], np.float32)
        for weight, plane in zip(weights, seen, strict=True):
            if weight:
                tone += np.float32(weight) * plane
        spread = np.float32(sensor.noise / 255) * np.sqrt(0.4 + 1.2 * np.clip(tone, 0, 1))
        tone += spread * rng.standard_normal(tone.shape, dtype=np.float32)
        numbers[band] = np.clip(255 * tone + 0.5, 0, 255)
    return numbers


def _slope(height: Floats, axis: int) -> Floats:
    """Difference per pixel to the nearer in height of both neighbours: follows slopes and ignores walls."""
    after = np.diff(height, axis=axis, append=np.take(height, [-1], axis))
    before = np.diff(height, axis=axis, prepend=np.take(height, [0], axis))
    same_side = after * before > 0
    return np.where(same_side, np.where(np.abs(after) < np.abs(before), after, before), 0)


def _shifted(field: Floats, rows: int, columns: int) -> Floats:
    """``field[r + rows, c + columns]``, far below outside."""
    result = np.full_like(field, -1e4)
    height, width = field.shape
    if abs(rows) >= height or abs(columns) >= width:
        return result
    to_rows, from_rows = _overlap(rows, height)
    to_columns, from_columns = _overlap(columns, width)
    result[to_rows, to_columns] = field[from_rows, from_columns]
    return result


def _overlap(shift: int, size: int) -> tuple[slice, slice]:
    return slice(max(-shift, 0), size - max(shift, 0)), slice(max(shift, 0), size - max(-shift, 0))
