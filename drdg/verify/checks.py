"""Station 2, checks: whether one sample is what its folder says its samples are.

Each check yields what is wrong, in a few words, and never raises, however damaged the sample is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from drdg.datasets.base import VOID
from drdg.tiles import ground
from drdg.tiles.dsm import LARGEST_STEP, STEP_M, STEPS_PER_M
from drdg.tiles.windows import Window, transform_of
from drdg.verify.forms import Domain, Meta, TopFacts
from drdg.verify.tally import Tally

# Heights are stored as the nearest step; the rest is for the arithmetic.
HEIGHT_SLACK_M = STEP_M / 2 + 1e-6
# Of a pixel: what two ways of computing the same coordinates may differ by.
PLACE_SLACK = 1e-6


@dataclass(frozen=True)
class Rules:
    """What all samples of a folder are to be: its ``domain``, and its TOPs by id."""

    domain: Domain
    tops: Mapping[str, TopFacts]


def check_sample(
    rules: Rules, meta: Meta, arrays: Mapping[str, np.ndarray], planned: tuple[str, Window] | None, tally: Tally
) -> Iterator[str]:
    """Yield what is wrong with one sample, and count it in ``tally``.

    ``arrays`` are by the name of their member; ``planned`` says which window of which TOP it is to be, if that is
    known.
    """
    top = rules.tops.get(meta.top)
    corners = meta.window or meta.source_window
    if top is None or corners is None:
        yield f"its TOP {meta.top!r} is none of the folder's" if top is None else "it does not say its window"
        return
    window = Window(*corners)
    tally.windows[meta.top, window] += 1
    if planned is not None and planned != (meta.top, window):
        yield f"it is {window} of TOP {meta.top} but the plan has {planned[1]} of TOP {planned[0]}"
    yield from _check_place(rules.domain, meta, top, window)
    tally.georeferenced += meta.gsd_m is not None
    tally.with_crs += meta.crs is not None
    wanted = _layers(rules.domain, top, window)
    if arrays.keys() != wanted.keys():
        yield f"it has {_names(arrays)} but is to have {_names(wanted)}"
    for name, array in arrays.items():
        if name in wanted and (array.shape, array.dtype.str) != wanted[name]:
            shape, dtype = wanted[name]
            yield f"its {name} is {array.dtype.str} {array.shape} instead of {dtype} {shape}"
            continue
        if name == "label.npy":
            yield from _check_label(rules.domain, array, tally)
        if name == "dsm.npy":
            yield from _check_heights("DSM", array, meta.dsm_offset_m, meta.dsm_step_m, top, meta.top, tally)
        if name == "ground.npy":
            yield from _check_heights("ground", array, meta.ground_offset_m, meta.ground_step_m, top, meta.top, None)
            yield from _check_cells(meta, top, window)


def _layers(domain: Domain, top: TopFacts, window: Window) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and dtype of each array that a sample is to have."""
    side = domain.tile
    layers: dict[str, tuple[tuple[int, ...], str]] = {"image.npy": ((side, side, 3), "|u1")}
    if domain.dsm:
        layers["dsm.npy"] = ((side, side), "<u2")
    if domain.dsm and top.gsd_m is not None:
        layers["ground.npy"] = (_patch(top, window).ground_m.shape, "<u2")
    if domain.label:
        layers["label.npy"] = ((side, side), "|u1")
    return layers


def _patch(top: TopFacts, window: Window) -> ground.GroundPatch:
    """The ground cells of a window, without their heights."""
    assert top.gsd_m is not None
    cell = max(1, round(ground.CELL_M / top.gsd_m))
    cells = np.broadcast_to(np.float32(0), (-(-top.height // cell), -(-top.width // cell)))
    return ground.crop(cells, cell, window)


def _check_place(domain: Domain, meta: Meta, top: TopFacts, window: Window) -> Iterator[str]:
    """The window lies in its TOP, and the georeference is the TOP's at that window."""
    if window.rows.stop > top.height or window.cols.stop > top.width or window.height != window.width:
        yield f"its window {window} is none of a TOP of {top.height} x {top.width}"
    if meta.window is not None and window.height != domain.tile:
        yield f"its window has a side of {window.height} pixels instead of {domain.tile}"
    growth = window.height / domain.tile  # 1, but of a translated sample, whose pixels are larger or smaller
    a, b, x, d, e, y = transform_of(window, top.transform)
    expected = (a * growth, b * growth, x, d * growth, e * growth, y)
    slack = PLACE_SLACK * max(abs(a) + abs(b), abs(d) + abs(e))
    if any(abs(here - there) > slack for here, there in zip(meta.transform, expected, strict=True)):
        yield f"its transform {list(meta.transform)} is not its window's, {list(expected)}"
    if meta.crs != top.crs:
        yield f"its CRS is {meta.crs} but its TOP's {top.crs}"
    gsd_m = None if top.gsd_m is None else top.gsd_m * growth
    if (meta.gsd_m is None) != (gsd_m is None) or (gsd_m and not math.isclose(meta.gsd_m or 0, gsd_m)):
        yield f"its GSD is {meta.gsd_m} m but its window's {gsd_m} m"


def _check_label(domain: Domain, label: np.ndarray, tally: Tally) -> Iterator[str]:
    pixels = np.bincount(label.ravel(), minlength=256)
    tally.label_pixels += pixels
    strange = np.flatnonzero(pixels[len(domain.classes) : VOID]) + len(domain.classes)
    if strange.size:
        yield (
            f"its label has {pixels[strange].sum()} pixels of id {strange[0]}{' and others' * (strange.size > 1)}, "
            f"but there are {len(domain.classes)} classes"
        )


def _check_heights(
    what: str,
    steps: np.ndarray,
    offset_m: float | None,
    step_m: float | None,
    top: TopFacts,
    name: str,
    tally: Tally | None,
) -> Iterator[str]:
    if offset_m is None or step_m != STEP_M:
        yield f"its {what} has an offset of {offset_m} m and a step of {step_m} m, which is to be {STEP_M} m"
        return
    if steps.size == 0:
        return
    missing = np.count_nonzero(steps > LARGEST_STEP)
    if missing:
        yield f"its {what} has {missing} pixels without a height"
        return
    low, high = (offset_m + int(step) / STEPS_PER_M for step in (steps.min(), steps.max()))
    if tally is not None:
        tally.see_heights(name, low, high)
    if top.dsm_range_m is not None and not (
        top.dsm_range_m[0] - HEIGHT_SLACK_M <= low and high <= top.dsm_range_m[1] + HEIGHT_SLACK_M
    ):
        yield (
            f"its {what} spans {low:.2f} to {high:.2f} m but TOP {name} "
            f"{top.dsm_range_m[0]:.2f} to {top.dsm_range_m[1]:.2f} m"
        )


def _check_cells(meta: Meta, top: TopFacts, window: Window) -> Iterator[str]:
    if top.gsd_m is None:
        return
    patch = _patch(top, window)
    if (meta.ground_cell_px, meta.ground_origin_px) != (patch.cell_px, patch.origin_px):
        yield (
            f"its ground has cells of {meta.ground_cell_px} px from {meta.ground_origin_px} "
            f"instead of {patch.cell_px} px from {patch.origin_px}"
        )


def _names(members: Mapping[str, object]) -> str:
    return ", ".join(sorted(members)) or "no arrays"
