"""Station 1, archives: a generated town as rasters: height, class and reflectance, each pixel's highest thing winning.

Every object is drawn into its own small window: height, label and reflectance are written together wherever the object
is the highest so far, which is why the three always agree (a true orthophoto sees the highest surface, no walls).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from drdg.datasets.base import CLASSES
from drdg.datasets.look import BANDS, Look, Spectrum
from drdg.datasets.town import (
    MARGIN_M,
    ROAD_HALF_WIDTH_M,
    Box,
    Car,
    Clutter,
    Roof,
    Town,
    Tree,
    distance_to,
    street_masks,
)

Floats = NDArray[np.float32]
Region = tuple[slice, slice]

CLUTTER, IMPERVIOUS, CAR, TREE, LOW_VEGETATION, BUILDING = (
    CLASSES.index(name) for name in ("clutter", "impervious_surface", "car", "tree", "low_vegetation", "building")
)

KERB_M = 0.10
DASH_M, DASH_WIDTH_M = 3.0, 0.14
TILE_COURSE_M = 0.34  # a course of roof tiles
SLAB_M, JOINT_M = 0.6, 0.05
# Lowest edge of a crown: a branch below this would be seen as low vegetation.
CROWN_FLOOR_M = 2.3


@dataclass
class Relief:
    """A town on a pixel grid with margin, (H, W) each; metres, class ids, and reflectance (4, H, W) as R, G, B, IR."""

    gsd_m: float
    margin: int
    ground: Floats
    height: Floats
    label: NDArray[np.uint8]
    reflectance: Floats


def survey(town: Town, look: Look, origin_m: tuple[float, float], side: int, rng: np.random.Generator) -> Relief:
    """Draw ``town`` on ``side`` x ``side`` pixels of ``look.gsd_m`` and a margin.

    ``origin_m`` is the upper left corner's place in the whole city, which the terrain is a function of.
    """
    canvas = _Canvas(look, origin_m, side, rng)
    canvas.draw_ground(town)
    for clutter in town.clutter:
        canvas.draw_clutter(clutter)
    for hedge in town.hedges:
        canvas.draw_hedge(hedge.box, hedge.height_m, hedge.tone)
    for car in town.cars:
        canvas.draw_car(car)
    for roof in town.roofs:
        canvas.draw_roof(roof)
    for tree in town.trees:
        canvas.draw_tree(tree)
    return canvas.relief


def noise(shape: tuple[int, int], scale_px: float, rng: np.random.Generator) -> Floats:
    """Smooth Gaussian noise of unit variance whose bumps are ``scale_px`` wide, made coarse and enlarged."""
    factor = max(int(scale_px / 2), 1)
    small = tuple(-(-size // factor) + 2 for size in shape)
    field = ndimage.gaussian_filter(rng.standard_normal(small, dtype=np.float32), scale_px / factor / 2, truncate=3.0)
    field /= field.std()
    if factor == 1:
        return field[: shape[0], : shape[1]]
    rows, columns = ((np.arange(size) / factor).astype(np.float32) for size in shape)
    return _enlarge(_enlarge(field, rows).T, columns).T


def _enlarge(field: Floats, at: Floats) -> Floats:
    """Rows of ``field`` at fractional places, linearly between neighbours."""
    below = at.astype(np.intp)
    part = (at - below)[:, None]
    return field[below] * (1 - part) + field[below + 1] * part


class _Canvas:
    """The rasters while they are drawn."""

    def __init__(self, look: Look, origin_m: tuple[float, float], side: int, rng: np.random.Generator) -> None:
        self.look, self.rng = look, rng
        self.gsd = look.gsd_m
        margin = round(MARGIN_M / self.gsd)
        size = side + 2 * margin
        axis = ((np.arange(size, dtype=np.float32) + 0.5) - margin) * np.float32(self.gsd)
        self.x, self.y = axis[None, :], axis[:, None]
        self.margin, self.size = margin, size
        ground = look.terrain.height(self.x + origin_m[0], self.y + origin_m[1]).astype(np.float32)
        self.relief = Relief(
            gsd_m=self.gsd,
            margin=margin,
            ground=ground,
            height=ground.copy(),
            label=np.full((size, size), LOW_VEGETATION, dtype=np.uint8),
            reflectance=np.empty((len(BANDS), size, size), dtype=np.float32),
        )
        shape = (size, size)
        self.grain = noise(shape, max(0.08 / self.gsd, 1.0), rng)
        self.clumps = noise(shape, 0.35 / self.gsd, rng)
        self.patches = noise(shape, 1.6 / self.gsd, rng)
        self.swathes = noise(shape, 7.0 / self.gsd, rng)

    # -------------------------------------------------------------------------------------------------- writing rasters

    def region(self, x: float, y: float, reach: float) -> Region:
        """Rows and columns within ``reach`` metres of a point; empty when it lies outside."""

        def span(at: float) -> slice:
            first = int((at - reach) / self.gsd) + self.margin - 1
            last = int((at + reach) / self.gsd) + self.margin + 2
            return slice(min(max(first, 0), self.size), min(max(last, 0), self.size))

        return span(y), span(x)

    def local(self, box: Box) -> tuple[Region, Floats, Floats]:
        """Region of a rectangle and its pixels' coordinates along and across its axis, from its centre."""
        region = self.region(box.x, box.y, box.reach)
        dx, dy = self.x[:, region[1]] - np.float32(box.x), self.y[region[0]] - np.float32(box.y)
        cosine, sine = np.float32(np.cos(box.angle)), np.float32(np.sin(box.angle))
        return region, dx * cosine + dy * sine, dy * cosine - dx * sine

    def base(self, x: float, y: float) -> float:
        """Ground height under a point in metres."""
        row = int(np.clip(y / self.gsd + self.margin, 0, self.size - 1))
        column = int(np.clip(x / self.gsd + self.margin, 0, self.size - 1))
        return float(self.relief.ground[row, column])

    def paint(
        self, region: Region, mask: NDArray[np.bool_], colour: Spectrum | Floats, texture: Floats | float = 1.0
    ) -> None:
        """Give ``mask`` a reflectance; ``texture`` multiplies it."""
        for band, value in enumerate(colour):
            np.copyto(self.relief.reflectance[band][region], np.asarray(value * texture, np.float32), where=mask)

    def put(
        self,
        region: Region,
        mask: NDArray[np.bool_],
        height: Floats,
        label: int,
        colour: Spectrum | Floats,
        texture: Floats | float = 1.0,
    ) -> NDArray[np.bool_]:
        """Draw what is higher than all so far; returns where that was."""
        seen = mask & (height > self.relief.height[region])
        np.copyto(self.relief.height[region], height, where=seen)
        self.relief.label[region][seen] = label
        self.paint(region, seen, colour, texture)
        return seen

    # ----------------------------------------------------------------------------------------------------------- ground

    def draw_ground(self, town: Town) -> None:
        """Lawns and yards, then streets over them."""
        whole = (slice(None), slice(None))
        everywhere = np.ones((self.size, self.size), dtype=bool)
        self.paint(whole, everywhere, self.lawn(whole, 0.0), self.lawn_texture(whole))
        for surface in town.surfaces:
            region, along, across = self.local(surface.box)
            mask = (np.abs(along) <= surface.box.length / 2) & (np.abs(across) <= surface.box.width / 2)
            if surface.kind == "lawn":
                self.paint(region, mask, self.lawn(region, surface.tone), self.lawn_texture(region))
                continue
            texture = self.sealed_texture(region, surface.tone)
            if surface.kind == "slabs":
                texture = texture * self.joints(along, across, SLAB_M)
            self.paint(region, mask, self.look.slabs if surface.kind == "slabs" else self.look.asphalt, texture)
            self.relief.label[region][mask] = IMPERVIOUS
        self.draw_streets(town)

    def lawn(self, region: Region, tone: float) -> Floats:
        """Grass between lush and dry, drier in patches, (4, h, w)."""
        dry = self.look.dryness + 0.10 * tone + 0.13 * self.swathes[region] + 0.07 * self.patches[region]
        dry = np.clip(dry, 0, 1)[None]
        lush, straw = (np.asarray(c, np.float32)[:, None, None] for c in (self.look.lawn_lush, self.look.lawn_dry))
        return lush + (straw - lush) * dry

    def lawn_texture(self, region: Region) -> Floats:
        """Blades, tufts and wear."""
        return np.clip(1 + 0.13 * self.grain[region] + 0.07 * self.clumps[region], 0.3, 2)

    def sealed_texture(self, region: Region, tone: float) -> Floats:
        """Aggregate, stains and age."""
        grain, stains = 0.045 * self.grain[region], 0.05 * self.patches[region] + 0.03 * self.swathes[region]
        return np.clip(1 + 0.10 * tone + grain + stains, 0.3, 2)

    def draw_streets(self, town: Town) -> None:
        """Carriageways with dashes and mended strips, and raised sidewalks with joints."""
        whole = (slice(None), slice(None))
        u, v = town.streets.from_plane(self.x, self.y)
        du, dv = distance_to(town.streets.mains, u), distance_to(town.streets.crosses, v)
        road, walk = street_masks(du, dv)
        middle = np.minimum(du, dv)
        texture = self.sealed_texture(whole, 0.0)
        mended = (self.swathes > 0.9) & (middle > 0.9)
        wheel = np.float32(0.05) * np.maximum(1 - np.abs(middle - np.float32(1.0)) / np.float32(0.6), 0)
        self.paint(
            whole, road, self.look.asphalt, texture * np.where(mended, np.float32(0.82), np.float32(1)) * (1 + wheel)
        )
        clear = ROAD_HALF_WIDTH_M + 1.5
        dashes = ((du < DASH_WIDTH_M / 2) & (np.mod(v, 2 * DASH_M) < DASH_M) & (dv > clear)) | (
            (dv < DASH_WIDTH_M / 2) & (np.mod(u, 2 * DASH_M) < DASH_M) & (du > clear)
        )
        stop = (np.abs(dv - clear) < 0.2) & (du < ROAD_HALF_WIDTH_M - 0.2) & (du > 0.15)
        self.paint(whole, road & (dashes | stop), self.look.marking, 1 + 0.1 * self.clumps)
        self.paint(whole, walk, self.look.slabs, texture * self.joints(u, v, 2 * SLAB_M))
        self.relief.label[road | walk] = IMPERVIOUS
        self.relief.height[walk] += np.float32(KERB_M)

    def joints(self, along: Floats, across: Floats, every_m: float) -> Floats:
        """Dark joints between slabs; thinner than a pixel they darken it by their share of it."""
        width = np.float32(max(JOINT_M, self.gsd))
        joint = (np.mod(along, np.float32(every_m)) < width) | (np.mod(across, np.float32(every_m)) < width)
        return np.where(joint, np.float32(1 - 0.15 * JOINT_M / width), np.float32(1))

    # ---------------------------------------------------------------------------------------------------------- objects

    def draw_hedge(self, box: Box, height_m: float, tone: float) -> None:
        """A hedge: low vegetation with an uneven top."""
        region, along, across = self.local(box)
        ragged = 0.08 * self.clumps[region]
        mask = (np.abs(along) <= box.length / 2) & (np.abs(across) + ragged <= box.width / 2)
        top = self.relief.ground[region] + np.float32(height_m) + 0.08 * self.clumps[region]
        self.put(region, mask, top, LOW_VEGETATION, self.look.hedge, self.leaf_texture(region, tone))

    def leaf_texture(self, region: Region, tone: float) -> Floats:
        """Bright leaves and dark gaps."""
        return np.clip(1 + 0.10 * tone + 0.16 * self.grain[region] + 0.16 * self.clumps[region], 0.25, 2.2)

    def draw_tree(self, tree: Tree) -> None:
        """A dome (or a conifer's cone) with a lobed, ragged outline and lumps on it."""
        reach = 1.3 * tree.radius_m
        region = self.region(tree.x, tree.y, reach)
        dx, dy = self.x[:, region[1]] - np.float32(tree.x), self.y[region[0]] - np.float32(tree.y)
        bearing, distance = np.arctan2(dy, dx), np.hypot(dx, dy)
        outline = np.ones_like(distance)
        for order, (amplitude, phase) in enumerate(tree.lobes, start=2):
            outline += np.float32(amplitude) * np.cos(order * bearing + np.float32(phase))
        r = (distance + 0.14 * self.clumps[region] + 0.05 * self.grain[region]) / (tree.radius_m * outline)
        mask = (r < 1) & (distance < reach)
        r = np.clip(r, 0, 1)
        drop = r if tree.conifer else r * r
        depth = min((1.5 if tree.conifer else 1.1) * tree.radius_m, tree.height_m - CROWN_FLOOR_M - 0.6)
        lumps = np.clip(0.22 * self.clumps[region] + 0.2 * self.patches[region], -0.5, 0.8)
        height = np.float32(self.base(tree.x, tree.y) + tree.height_m) - np.float32(depth) * drop + lumps
        height = np.maximum(height, self.relief.ground[region] + np.float32(CROWN_FLOOR_M))
        colour = self.look.conifer if tree.conifer else self.look.crown
        self.put(region, mask, height, TREE, colour, self.leaf_texture(region, tree.tone) * (1.08 - 0.25 * drop))

    def draw_roof(self, roof: Roof) -> None:
        """A flat roof with a parapet, or one with slopes and courses of tiles; then what is painted on it."""
        box = roof.box
        region, along, across = self.local(box)
        half_length, half_width = box.length / 2, box.width / 2
        to_side, to_end = half_width - np.abs(across), half_length - np.abs(along)
        mask = (to_side >= 0) & (to_end >= 0)
        base = np.float32(self.base(box.x, box.y) + roof.eaves_m)
        inwards = np.minimum(to_side, to_end) if roof.shape == "hip" else to_side
        if roof.shape == "flat":
            colour = self.look.flat_roofs.pick(roof.pick)
            edge = np.minimum(to_side, to_end) < 0.28
            height = base + np.where(edge & (half_width > 1), np.float32(0.25), np.float32(0))
            texture = 1 + 0.06 * roof.tone + 0.06 * self.grain[region] + 0.06 * self.patches[region]
            texture = texture * np.where(edge, np.float32(1.15), np.float32(1))
        else:
            colour = self.look.roofs.pick(roof.pick)
            height = base + np.float32(roof.slope) * np.maximum(inwards, 0)
            course = np.cos(inwards * np.float32(2 * np.pi / TILE_COURSE_M))
            texture = 1 + 0.08 * roof.tone + 0.05 * course + 0.035 * self.grain[region] + 0.05 * self.patches[region]
            ridge = (half_width - inwards < 0.14) & (mask)
            texture = texture * np.where(ridge, np.float32(0.85), np.float32(1))
        seen = self.put(region, mask, height, BUILDING, colour, np.clip(texture, 0.4, 1.8))
        for patch, kind in roof.patches:
            _, along, across = self.local_in(patch, region)
            inside = seen & (np.abs(along) <= patch.length / 2) & (np.abs(across) <= patch.width / 2)
            if kind:
                self.paint(region, inside, self.look.skylight)
            else:
                frame = (np.mod(along, 1.0) < 0.06) | (np.mod(across, 1.65) < 0.06)
                self.paint(region, inside, self.look.solar_panel, np.where(frame, np.float32(2.2), np.float32(1)))

    def local_in(self, box: Box, region: Region) -> tuple[Region, Floats, Floats]:
        """As :meth:`local`, in a region given."""
        dx, dy = self.x[:, region[1]] - np.float32(box.x), self.y[region[0]] - np.float32(box.y)
        cosine, sine = np.float32(np.cos(box.angle)), np.float32(np.sin(box.angle))
        return region, dx * cosine + dy * sine, dy * cosine - dx * sine

    def draw_car(self, car: Car) -> None:
        """A body with rounded corners, a cabin, and glass around the cabin's roof."""
        box = car.box
        region, along, across = self.local(box)
        a, b = np.abs(along) / (box.length / 2), np.abs(across) / (box.width / 2)
        mask = a**6 + b**6 <= 1
        # the cabin sits a little behind the middle; its roof is shorter and narrower than its foot
        cabin = np.maximum(np.abs(along + 0.05 * box.length) / (0.32 * box.length), b / 0.92)
        roof = np.maximum(np.abs(along + 0.07 * box.length) / (0.20 * box.length), b / 0.74)
        rise = np.clip((1 - cabin) / 0.3, 0, 1) * np.float32(car.height_m - 1.08)
        height = self.relief.ground[region] + np.float32(1.08) + rise
        glass = (cabin < 1) & (roof >= 1) & ~((b > 0.74) & (np.mod(along, 1.1) < 0.12))
        shine = 1 + 0.12 * (1 - b) - 0.15 * (a > 0.93)
        seen = self.put(region, mask, height, CAR, self.look.car_paints.pick(car.pick), shine.astype(np.float32))
        self.paint(region, seen & glass, self.look.glass)

    def draw_clutter(self, clutter: Clutter) -> None:
        """A pool with its rim, a ribbed container, a heap, or a lined court."""
        box = clutter.box
        region, along, across = self.local(box)
        to_side, to_end = box.width / 2 - np.abs(across), box.length / 2 - np.abs(along)
        inwards = np.minimum(to_side, to_end)
        mask = inwards >= 0
        ground = self.relief.ground[region]
        if clutter.kind == "container":
            ribs = 1 + 0.10 * np.sign(np.cos(along * np.float32(2 * np.pi / 0.4))) + 0.04 * self.patches[region]
            top = np.broadcast_to(np.float32(self.base(box.x, box.y) + clutter.height_m), mask.shape)
            self.put(region, mask, top, CLUTTER, self.look.containers.pick(clutter.pick), ribs)
            return
        if clutter.kind == "heap":
            r = np.hypot(along, across) / (box.length / 2) + 0.06 * self.patches[region]
            top = ground + np.float32(clutter.height_m) * (1 - r * r) + 0.06 * self.clumps[region]
            texture = np.clip(1 + 0.12 * self.clumps[region] + 0.10 * self.grain[region], 0.4, 1.8)
            self.put(
                region, r < 1, np.maximum(top, ground + 0.05), CLUTTER, self.look.heaps.pick(clutter.pick), texture
            )
            return
        if clutter.kind == "pool":
            ripple = 1 + 0.08 * self.clumps[region] + 0.04 * self.grain[region]
            self.paint(region, mask, self.look.water, ripple)
            self.paint(region, mask & (inwards < 0.35), self.look.slabs, 1.15)
            np.copyto(self.relief.height[region], ground + np.float32(clutter.height_m), where=mask & (inwards >= 0.35))
        else:
            self.paint(region, mask, self.look.courts.pick(clutter.pick), 1 + 0.03 * self.grain[region])
            line = (np.abs(inwards - 0.5) < 0.06) | ((np.abs(along) < 0.06) & (inwards > 0.5))
            self.paint(region, mask & line, self.look.marking)
        self.relief.label[region][mask] = CLUTTER
