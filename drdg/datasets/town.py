"""Station 1, archives: what a generated town is made of, in metres and without any camera.

A plan knows what stands where and how big it is (``planning.py`` draws one); which colours that has and how it is lit
belongs to a domain's :class:`~drdg.datasets.look.Look`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

# The plan goes on this far beyond the orthophoto: its border cuts objects, and shadows fall in from outside.
MARGIN_M = 4.0

ROAD_HALF_WIDTH_M = 2.7
SIDEWALK_M = 1.2
CORNER_RADIUS_M = 2.5
MAIN_SPACING_M = (31.0, 35.0)

Floats = NDArray[np.float32]
RoofShape = Literal["gable", "hip", "flat"]
ClutterKind = Literal["container", "pool", "heap", "court"]


@dataclass(frozen=True)
class Box:
    """A rectangle: centre, size along and across its own axis in metres, and that axis' angle in radians."""

    x: float
    y: float
    length: float
    width: float
    angle: float

    @property
    def reach(self) -> float:
        """Radius of the circle around it in metres."""
        return 0.5 * float(np.hypot(self.length, self.width))


@dataclass(frozen=True)
class Roof:
    """A roofed body; ``pick`` chooses its covering, ``tone`` its brightness, ``patches`` are painted on it."""

    box: Box
    shape: RoofShape
    eaves_m: float
    slope: float
    pick: float
    tone: float
    patches: tuple[tuple[Box, float], ...] = ()


@dataclass(frozen=True)
class Surface:
    """Something flush with the ground: a plot of lawn or a paved yard."""

    box: Box
    kind: Literal["lawn", "slabs", "asphalt"]
    tone: float


@dataclass(frozen=True)
class Tree:
    """One crown."""

    x: float
    y: float
    radius_m: float
    height_m: float
    conifer: bool
    tone: float
    lobes: tuple[tuple[float, float], ...]
    """Amplitude (share of the radius) and phase of the outline's harmonics 2, 3, ..."""


@dataclass(frozen=True)
class Hedge:
    """A clipped hedge, low vegetation."""

    box: Box
    height_m: float
    tone: float


@dataclass(frozen=True)
class Car:
    """One parked car; ``pick`` chooses its paint."""

    box: Box
    height_m: float
    pick: float


@dataclass(frozen=True)
class Clutter:
    """What is none of the other classes: a container, a pool, a heap of soil or rubble, a small sports court."""

    box: Box
    kind: ClutterKind
    height_m: float
    pick: float


@dataclass(frozen=True)
class Streets:
    """Two families of parallel streets around a centre; offsets in metres along the turned axes."""

    x: float
    y: float
    angle: float
    mains: tuple[float, ...]
    crosses: tuple[float, ...]

    def to_plane(self, u: float, v: float) -> tuple[float, float]:
        """From turned axes to metres from the orthophoto's upper left corner (x right, y down)."""
        cosine, sine = np.cos(self.angle), np.sin(self.angle)
        return float(self.x + u * cosine - v * sine), float(self.y + u * sine + v * cosine)

    def from_plane(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """The inverse of :meth:`to_plane`, on arrays that broadcast."""
        cosine, sine = np.float32(np.cos(self.angle)), np.float32(np.sin(self.angle))
        dx, dy = x - np.float32(self.x), y - np.float32(self.y)
        return dx * cosine + dy * sine, dy * cosine - dx * sine


@dataclass(frozen=True)
class Plot:
    """One plot of a row: its front line's u, which way its depth goes, and how much of its width is the house's."""

    front: float
    inwards: int
    depth: float
    v: float
    width: float
    gap: float
    driveway: bool


@dataclass
class Town:
    """Everything that stands on a square of ``side_m`` metres and its margin."""

    side_m: float
    streets: Streets
    surfaces: list[Surface] = field(default_factory=list)
    roofs: list[Roof] = field(default_factory=list)
    trees: list[Tree] = field(default_factory=list)
    hedges: list[Hedge] = field(default_factory=list)
    cars: list[Car] = field(default_factory=list)
    clutter: list[Clutter] = field(default_factory=list)


def distance_to(lines: tuple[float, ...], at: Floats) -> Floats:
    """Distance in metres from every coordinate to the nearest of the parallel lines; far away when there are none."""
    nearest = np.full(at.shape, 1e3, dtype=np.float32)
    low, high = float(at.min()), float(at.max())
    for line in lines:
        if low - MAIN_SPACING_M[1] < line < high + MAIN_SPACING_M[1]:
            offset = at - np.float32(line)
            np.minimum(nearest, np.abs(offset, out=offset), out=nearest)
    return nearest


def street_masks(du: Floats, dv: Floats) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Where carriageway and where sidewalk is, by distances from the streets' centre lines; kerbs are rounded."""

    def within(half_width: float, radius: float) -> NDArray[np.bool_]:
        inside = np.minimum(du, dv) < half_width
        corner = half_width + radius
        near = np.nonzero(np.maximum(du, dv) < corner)
        inside[near] |= np.hypot(du[near] - corner, dv[near] - corner) > radius
        return inside

    road = within(ROAD_HALF_WIDTH_M, CORNER_RADIUS_M)
    return road, within(ROAD_HALF_WIDTH_M + SIDEWALK_M, CORNER_RADIUS_M - SIDEWALK_M) & ~road
