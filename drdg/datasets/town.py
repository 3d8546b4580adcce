"""Station 1, archives: the plan of a generated town, in metres and without any camera.

A plan knows what stands where and how big it is; which colours that has and how it is lit belongs to a domain's
:class:`~drdg.datasets.camera.Look`. Sizes are what European suburbs have (houses 8-13 m, cars 4.5 m, crowns 3-9 m), and
both domains draw from the same distribution of plans: only what a plan looks like differs between them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

# The plan goes on this far beyond the orthophoto: its border cuts objects, and shadows fall in from outside.
MARGIN_M = 4.0
# Side of a cell of the occupancy grid: a third of the narrowest thing that must not overlap another (a footpath).
CELL_M = 0.25

ROAD_HALF_WIDTH_M = 2.7
SIDEWALK_M = 1.2
CORNER_RADIUS_M = 2.5
MAIN_SPACING_M = (31.0, 35.0)
CROSS_SPACING_M = (52.0, 68.0)

# Shares of the orthophoto that a town's objects are filled up to, drawn once per town from these ranges.
BUILDING_SHARE = (0.215, 0.25)
TREE_SHARE = (0.135, 0.175)
CAR_SHARE = (0.026, 0.036)
CLUTTER_SHARE = (0.030, 0.046)
IMPERVIOUS_SHARE = (0.27, 0.31)

# The step whose multiples spread most evenly over [0, 1).
GOLDEN_RATIO = (5**0.5 - 1) / 2

# What a cell of the occupancy grid holds.
LAWN, STREET, PAVED, HEDGE, HOUSE, OBSTACLE = range(6)

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


class Draws:
    """Numbers in [0, 1) that cover it evenly from the first few on: an additive sequence from a random start.

    A small orthophoto shows eight roofs. Drawn independently, one domain would by chance get all the red ones, and
    matching distributions would no longer match classes.
    """

    def __init__(self, step: float, rng: np.random.Generator) -> None:
        self.at, self.step = rng.random(), step

    def next(self) -> float:
        """The next number."""
        self.at = (self.at + self.step) % 1.0
        return self.at


class Occupancy:
    """What is where already, on cells of ``CELL_M``, so that objects neither overlap nor exceed their share."""

    def __init__(self, side_m: float) -> None:
        self.cells = int(np.ceil((side_m + 2 * MARGIN_M) / CELL_M))
        self.margin = round(MARGIN_M / CELL_M)
        self.what: NDArray[np.uint8] = np.zeros((self.cells, self.cells), dtype=np.uint8)
        self.crown: NDArray[np.bool_] = np.zeros((self.cells, self.cells), dtype=bool)
        axis = (np.arange(self.cells, dtype=np.float32) + 0.5) * CELL_M - MARGIN_M
        self.x, self.y = axis[None, :], axis[:, None]
        self.seen = slice(self.margin, self.cells - self.margin)

    def window(self, x: float, y: float, reach: float) -> tuple[slice, slice]:
        """Rows and columns of the cells within ``reach`` metres of a point."""

        def span(at: float) -> slice:
            first = int((at - reach + MARGIN_M) / CELL_M)
            last = int((at + reach + MARGIN_M) / CELL_M) + 1
            return slice(max(first, 0), max(min(last, self.cells), 0))

        return span(y), span(x)

    def box(self, box: Box, grow: float = 0.0) -> tuple[tuple[slice, slice], NDArray]:
        """Window and mask of a rectangle, grown by ``grow`` metres on each side."""
        window = self.window(box.x, box.y, box.reach + 1.5 * grow)
        dx, dy = self.x[:, window[1]] - box.x, self.y[window[0]] - box.y
        cosine, sine = np.cos(box.angle), np.sin(box.angle)
        along = np.abs(dx * cosine + dy * sine) <= box.length / 2 + grow
        return window, along & (np.abs(dy * cosine - dx * sine) <= box.width / 2 + grow)

    def fill(self, box: Box, what: int) -> None:
        """Write a rectangle down."""
        window, mask = self.box(box)
        self.what[window][mask] = what

    def free(self, box: Box, on: tuple[int, ...], grow: float = 0.0) -> bool:
        """Whether a rectangle lies inside the plan and on nothing but ``on``."""
        if not self.holds(box.x, box.y):
            return False
        window, mask = self.box(box, grow)
        allowed = np.zeros(OBSTACLE + 1, dtype=bool)
        allowed[list(on)] = True
        return bool(mask.any() and allowed[self.what[window][mask]].all())

    def holds(self, x: float, y: float, reach: float = 0.0) -> bool:
        """Whether a circle of ``reach`` metres touches the plan."""
        low, high = -MARGIN_M - reach, float(self.x[0, -1]) + reach
        return low < x < high and low < y < high

    def share(self, what: tuple[int, ...]) -> float:
        """Share of the orthophoto that ``what`` covers, trees left out."""
        return float((np.isin(self.what, what) & ~self.crown)[self.seen, self.seen].mean())

    def visible(self, window: tuple[slice, slice], mask: NDArray) -> float:
        """Share of the orthophoto that a mask in a window covers."""
        rows = np.arange(self.cells)[window[0]][:, None]
        columns = np.arange(self.cells)[window[1]][None, :]
        end = self.cells - self.margin
        inside = (rows >= self.margin) & (rows < end) & (columns >= self.margin) & (columns < end)
        return float((mask & inside).sum()) / (end - self.margin) ** 2

    def some_lawn(self, rng: np.random.Generator) -> Iterator[tuple[float, float]]:
        """Random points on what was lawn at the first call, more than can be used."""
        rows, columns = np.nonzero(self.what == LAWN)
        for i in rng.integers(0, len(rows), size=2000 + len(rows) // 4 if len(rows) else 0):
            yield float(self.x[0, columns[i]]), float(self.y[rows[i], 0])


def plan_town(side_m: float, rng: np.random.Generator) -> Town:
    """Draw a town of ``side_m`` x ``side_m`` metres; the same generator state gives the same town.

    Streets come first, houses along them, then whatever fills the plots until each class has its share.
    """
    streets = _lay_streets(side_m, rng)
    town = Town(side_m, streets)
    occupancy = Occupancy(side_m)
    u, v = streets.from_plane(occupancy.x, occupancy.y)
    road, walk = street_masks(distance_to(streets.mains, u), distance_to(streets.crosses, v))
    occupancy.what[road | walk] = STREET
    slots = _kerb_slots(streets, side_m, rng)
    plots = [plot for u_range, v_range in _blocks(streets, side_m) for plot in _divide_block(u_range, v_range, rng)]
    shapes, coverings = Draws(2**0.5, rng), Draws(GOLDEN_RATIO, rng)
    wanted, share = rng.uniform(*BUILDING_SHARE), 0.0
    for i in rng.permutation(len(plots)):
        added, places = _build_plot(town, occupancy, plots[i], share < wanted, shapes, coverings, rng)
        share += added
        slots += places
    _add_clutter(town, occupancy, rng)
    _pave_yards(town, occupancy, rng)
    _plant_trees(town, occupancy, rng)
    _park_cars(town, occupancy, slots, rng)
    return town


def _lay_streets(side_m: float, rng: np.random.Generator) -> Streets:
    """Streets such that one passes close to the centre: even a small orthophoto then holds a street and plots."""
    reach = 0.75 * side_m + 2 * MARGIN_M

    def family(first: float, spacing: tuple[float, float]) -> tuple[float, ...]:
        lines = [first]
        while lines[-1] < reach:
            lines.append(lines[-1] + rng.uniform(*spacing))
        while lines[0] > -reach:
            lines.insert(0, lines[0] - rng.uniform(*spacing))
        return tuple(float(line) for line in lines)

    near = rng.choice([-1, 1]) * rng.uniform(0.5, 1.8) * ROAD_HALF_WIDTH_M
    beside = rng.choice([-1, 1]) * rng.uniform(0.25, 0.5) * min(side_m, MAIN_SPACING_M[1] * 1.5)
    angle = float(rng.uniform(-np.pi, np.pi))
    mains, crosses = family(near, MAIN_SPACING_M), family(beside, CROSS_SPACING_M)
    return Streets(side_m / 2, side_m / 2, angle, mains, crosses)


def _blocks(streets: Streets, side_m: float) -> Iterator[tuple[tuple[float, float], tuple[float, float]]]:
    """Ranges in u and v between streets and their sidewalks, of those blocks that the plan can reach."""
    half = ROAD_HALF_WIDTH_M + SIDEWALK_M
    reach = 0.71 * side_m + 1.5 * MARGIN_M
    for u0, u1 in zip(streets.mains, streets.mains[1:], strict=False):
        for v0, v1 in zip(streets.crosses, streets.crosses[1:], strict=False):
            if u0 < reach and u1 > -reach and v0 < reach and v1 > -reach:
                yield (u0 + half, u1 - half), (v0 + half, v1 - half)


def _kerb_slots(streets: Streets, side_m: float, rng: np.random.Generator) -> list[Box]:
    """Parking places along both kerbs of the main streets, clear of crossings."""
    slots = []
    for u in streets.mains:
        for side in (-1, 1):
            v = -0.75 * side_m - MARGIN_M + rng.uniform(0, 5)
            while v < 0.75 * side_m + MARGIN_M:
                if min(abs(v - cross) for cross in streets.crosses) > ROAD_HALF_WIDTH_M + 5:
                    x, y = streets.to_plane(u + side * (ROAD_HALF_WIDTH_M - 1.05), v)
                    slots.append(_car_box(x, y, streets.angle + np.pi / 2, rng))
                v += rng.uniform(5.2, 6.2)
    return slots


def _car_box(x: float, y: float, angle: float, rng: np.random.Generator) -> Box:
    length = float(np.clip(rng.normal(4.5, 0.3), 3.8, 5.2))
    turn = rng.normal(0, 0.02) + (np.pi if rng.random() < 0.5 else 0.0)
    return Box(x, y, length, 0.42 * length, float(angle + turn))


def _divide_block(
    u_range: tuple[float, float], v_range: tuple[float, float], rng: np.random.Generator
) -> Iterator[Plot]:
    """Two rows of plots back to back."""
    middle = (u_range[0] + u_range[1]) / 2
    for front, inwards in ((u_range[0], 1), (u_range[1], -1)):
        v = v_range[0] + rng.uniform(0.8, 2.0)
        while True:
            driveway = bool(rng.random() < 0.5)
            gap = rng.uniform(3.3, 4.0) if driveway else rng.uniform(1.8, 3.6)
            width = rng.uniform(8.0, 12.0)
            if v + width + gap > v_range[1]:
                break
            yield Plot(front, inwards, abs(middle - front), v, width, gap, driveway)
            v += width + gap


def _build_plot(
    town: Town,
    occupancy: Occupancy,
    plot: Plot,
    build: bool,
    shapes: Draws,
    coverings: Draws,
    rng: np.random.Generator,
) -> tuple[float, list[Box]]:
    """Lawn and, if it is to be built on, house, footpath, perhaps wing, garage, driveway, terrace, hedges.

    Returns the share of the orthophoto that is newly built on, and the parking places.
    """

    def place(depth: float, v: float, size_u: float, size_v: float) -> Box:
        """A box by its distance from the front line and its place along the street."""
        x, y = town.streets.to_plane(plot.front + plot.inwards * depth, v)
        return Box(x, y, float(size_u), float(size_v), town.streets.angle)

    def pave(box: Box, kind: Literal["slabs", "asphalt"]) -> None:
        if occupancy.free(box, (LAWN, STREET)):
            town.surfaces.append(Surface(box, kind, float(rng.normal())))
            occupancy.fill(box, PAVED)

    def plant_hedge(box: Box) -> None:
        if occupancy.free(box, (LAWN,)):
            town.hedges.append(Hedge(box, float(rng.uniform(0.7, 1.0)), float(rng.normal())))
            occupancy.fill(box, HEDGE)

    v0, end = plot.v, plot.v + plot.width
    whole = place(plot.depth / 2, plot.v + (plot.width + plot.gap) / 2, plot.depth, plot.width + plot.gap)
    if not occupancy.holds(whole.x, whole.y, whole.reach):
        return 0.0, []
    town.surfaces.append(Surface(whole, "lawn", float(rng.normal())))
    if not build:
        return 0.0, []

    setback, depth = rng.uniform(1.8, 3.2), rng.uniform(7.2, 9.0)
    shape = _roof_shape(shapes.next())
    house = place(setback + depth / 2, (v0 + end) / 2, depth, plot.width)
    roofs = _house(house, shape, coverings.next(), rng)
    behind = setback + depth
    room = plot.depth - behind - 0.5
    if room > 1.5 and rng.random() < 0.35:
        wing_depth = min(room, rng.uniform(1.5, 3.0))
        wing = place(behind + wing_depth / 2 - 1, rng.uniform(v0 + 2.5, end - 2.5), wing_depth + 2, 4.6)
        main = roofs[0]
        roofs.append(Roof(wing, main.shape, main.eaves_m, main.slope, main.pick, main.tone))

    slots = []
    drive_length = setback + rng.uniform(0.3, 0.8) * depth
    if plot.driveway:
        middle = end + plot.gap / 2
        pave(place(drive_length / 2, middle, drive_length, 2.8), "asphalt" if rng.random() < 0.4 else "slabs")
        if rng.random() < 0.45:
            garage = place(drive_length + 2.8, middle, 5.6, 2.9)
            roofs.append(Roof(garage, "flat", float(rng.uniform(2.5, 2.9)), 0.0, rng.random(), float(rng.normal())))
        car = place(drive_length - 2.7, middle, 0, 0)
        slots.append(_car_box(car.x, car.y, town.streets.angle, rng))
    built = 0.0
    for roof in roofs:
        window, mask = occupancy.box(roof.box)
        built += occupancy.visible(window, mask & (occupancy.what[window] != HOUSE))
        occupancy.what[window][mask] = HOUSE
    town.roofs += roofs

    pave(place(setback / 2, rng.uniform(v0 + 2, end - 2), setback, 1.2), "slabs")
    if rng.random() < 0.5:
        terrace = rng.uniform(2.5, 3.5)
        pave(place(behind + terrace / 2, rng.uniform(v0 + 2, end - 2), terrace, rng.uniform(3, 4.5)), "slabs")
    if rng.random() < 0.4:
        plant_hedge(place(0.7, v0 + plot.width * 0.3, 0.7, plot.width * 0.55))
    if rng.random() < 0.35:
        plant_hedge(place((behind + plot.depth) / 2, end + plot.gap - 0.4, plot.depth - behind, 0.7))
    return built, slots


def _roof_shape(at: float) -> RoofShape:
    """Half gables, three in ten hips, the rest flat."""
    return "gable" if at < 0.5 else "hip" if at < 0.8 else "flat"


def _house(box: Box, shape: RoofShape, pick: float, rng: np.random.Generator) -> list[Roof]:
    """A main roof with its windows or panels, and a chimney. The ridge runs along the longer side as a rule."""
    eaves = float(rng.uniform(3.2, 6.0))
    slope = 0.0 if shape == "flat" else float(rng.uniform(0.55, 0.9))
    if (box.width > box.length) != (rng.random() < 0.15):
        box = Box(box.x, box.y, box.width, box.length, box.angle + np.pi / 2)
    cosine, sine = np.cos(box.angle), np.sin(box.angle)

    def on_roof(along: float, across: float, length: float, width: float) -> Box:
        x, y = box.x + along * cosine - across * sine, box.y + along * sine + across * cosine
        return Box(float(x), float(y), float(length), float(width), box.angle)

    side = float(rng.choice([-1, 1]))
    patches: list[tuple[Box, float]] = []
    if rng.random() < 0.2:
        patches.append((on_roof(rng.uniform(-1, 1), side * box.width / 4, 0.45 * box.length, 0.3 * box.width), 0.0))
    elif rng.random() < 0.5:
        for along in rng.uniform(-0.3, 0.3, size=2) * box.length:
            patches.append((on_roof(along, -side * box.width / 4, 0.9, 1.3), 1.0))
    roofs = [Roof(box, shape, eaves, slope, pick, float(rng.normal()), tuple(patches))]
    if rng.random() < 0.75:
        top = eaves + slope * box.width / 2 + 0.7
        chimney = on_roof(rng.uniform(-0.25, 0.25) * box.length, rng.uniform(-0.6, 0.6), 0.8, 0.6)
        roofs.append(Roof(chimney, "flat", top, 0.0, rng.random(), float(rng.normal())))
    return roofs


def _add_clutter(town: Town, occupancy: Occupancy, rng: np.random.Generator) -> None:
    """Fill up to the clutter's share, of every kind by turns."""
    wanted, share = rng.uniform(*CLUTTER_SHARE), 0.0
    colours = Draws(GOLDEN_RATIO, rng)
    kinds: list[ClutterKind] = ["pool", "container", "heap", "court"]
    first = int(rng.integers(len(kinds)))
    for x, y in occupancy.some_lawn(rng):
        if share >= wanted:
            break
        kind = kinds[(first + len(town.clutter)) % len(kinds)]
        angle = town.streets.angle + float(rng.choice([0, np.pi / 2])) + float(rng.normal(0, 0.03))
        scale = rng.uniform(0.7, 1.1)
        length, width, height = {
            "pool": (7.0 * scale, 3.6 * scale, -0.3),
            "container": (6.06, 2.44, 2.59),  # ISO 668, 20 feet
            "heap": (4.4 * scale, 4.4 * scale, 1.6 * scale),
            "court": (9.0 * scale, 5.0 * scale, 0.0),
        }[kind]
        box = Box(x, y, length, width, angle)
        if not occupancy.free(box, (LAWN,), grow=0.3):
            first += int(rng.random() < 0.05)  # a plan without room for a court gets something smaller
            continue
        visible = occupancy.visible(*occupancy.box(box))
        if share + visible > 1.35 * wanted + 0.01:
            continue
        town.clutter.append(Clutter(box, kind, height, colours.next()))
        occupancy.fill(box, OBSTACLE)
        share += visible


def _pave_yards(town: Town, occupancy: Occupancy, rng: np.random.Generator) -> None:
    """Pave yards until the sealed share is reached."""
    wanted, share = rng.uniform(*IMPERVIOUS_SHARE), occupancy.share((STREET, PAVED))
    for x, y in occupancy.some_lawn(rng):
        if share >= wanted:
            break
        angle = town.streets.angle + float(rng.choice([0, np.pi / 2]))
        box = Box(x, y, rng.uniform(3.5, 8), rng.uniform(3, 4.5), angle)
        if occupancy.free(box, (LAWN,)):
            kind: Literal["slabs", "asphalt"] = "slabs" if rng.random() < 0.6 else "asphalt"
            town.surfaces.append(Surface(box, kind, float(rng.normal())))
            occupancy.fill(box, PAVED)
            share += occupancy.visible(*occupancy.box(box))


def _plant_trees(town: Town, occupancy: Occupancy, rng: np.random.Generator) -> None:
    """Plant on lawns until the crowns' share is reached; crowns may hang over streets, hardly over roofs."""
    wanted, share = rng.uniform(*TREE_SHARE), 0.0
    for x, y in occupancy.some_lawn(rng):
        if share >= wanted:
            break
        radius = float(
            rng.choice([rng.uniform(1.5, 2.2), rng.uniform(2.0, 3.2), rng.uniform(3.0, 4.5)], p=[0.3, 0.45, 0.25])
        )
        window = occupancy.window(x, y, radius)
        mask = np.hypot(occupancy.x[:, window[1]] - x, occupancy.y[window[0]] - y) <= radius
        under, area = occupancy.what[window][mask], mask.sum()
        crowded = (occupancy.crown[window] & mask).sum() > 0.3 * area
        hides = (under == HOUSE).sum() > 0.08 * area or (under == OBSTACLE).sum() > 0.03 * area
        if crowded or hides or np.isin(under, (STREET, PAVED)).sum() > 0.4 * area:
            continue
        conifer = bool(rng.random() < 0.2)
        height = (4.0 + (2.1 if conifer else 1.5) * radius) * rng.uniform(0.9, 1.15)
        lobes = tuple(
            (float(a), float(p)) for a, p in zip(rng.normal(0, 0.05, 6), rng.uniform(0, 6.28, 6), strict=True)
        )
        town.trees.append(Tree(x, y, radius, float(height), conifer, float(rng.normal()), lobes))
        share += occupancy.visible(window, mask & ~occupancy.crown[window])
        occupancy.crown[window] |= mask


def _park_cars(town: Town, occupancy: Occupancy, slots: list[Box], rng: np.random.Generator) -> None:
    """Take parking places at random until the cars' share is reached; those under a crown stay empty."""
    wanted, share = rng.uniform(*CAR_SHARE), 0.0
    paints = Draws(GOLDEN_RATIO, rng)
    for i in rng.permutation(len(slots)):
        if share >= wanted:
            break
        box = slots[i]
        window, mask = occupancy.box(box)
        covered = (occupancy.crown[window] & mask).sum()
        if covered > 0.25 * mask.sum() or not occupancy.free(box, (STREET, PAVED)):
            continue
        town.cars.append(Car(box, float(rng.uniform(1.42, 1.75)), paints.next()))
        share += occupancy.visible(window, mask & ~occupancy.crown[window])
        occupancy.fill(box, OBSTACLE)
