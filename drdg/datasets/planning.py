"""Station 1, archives: draws the plan of a generated town.

Sizes are what European suburbs have (houses 8-13 m, cars 4.5 m, crowns 3-9 m), and both domains draw from the same
distribution of plans: only what a plan looks like differs between them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np

from drdg.datasets.occupancy import HEDGE, HOUSE, LAWN, OBSTACLE, PAVED, STREET, Draws, Occupancy
from drdg.datasets.town import (
    MAIN_SPACING_M,
    MARGIN_M,
    ROAD_HALF_WIDTH_M,
    SIDEWALK_M,
    Box,
    Car,
    Clutter,
    ClutterKind,
    Hedge,
    Plot,
    Roof,
    RoofShape,
    Streets,
    Surface,
    Town,
    Tree,
    distance_to,
    street_masks,
)

CROSS_SPACING_M = (52.0, 68.0)

# Shares of the orthophoto that a town's objects are filled up to, drawn once per town from these ranges.
BUILDING_SHARE = (0.215, 0.25)
TREE_SHARE = (0.135, 0.175)
CAR_SHARE = (0.026, 0.036)
CLUTTER_SHARE = (0.030, 0.046)
IMPERVIOUS_SHARE = (0.27, 0.31)

# The step whose multiples spread most evenly over [0, 1).
GOLDEN_RATIO = (5**0.5 - 1) / 2


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
