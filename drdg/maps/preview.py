"""Station 5, maps: one picture of a map with what makes it a map: title, legend, scale bar, north arrow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from drdg.files import whole_file
from drdg.maps.looks import class_ids, length_text, opened_map, round_length, small
from drdg.maps.measures import north, pixel_m
from drdg.maps.ours import MARK
from drdg.panels import INK, VOID_COLOUR, Palette, colour

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from rasterio import DatasetReader

SIDE_PIXELS = 1600  # of the map in the picture, along its longer side
DPI = 200
MARGIN, HEADING, SIDEBAR = 0.3, 0.55, 2.5  # inches
LEAST_HEIGHT = 4.2  # inches, which the sidebar needs with six classes
LINE, COLUMN = 0.27, 2.0  # inches, of the legend
WIDE = 2.0  # times its height; such a map's legend stands below it
ARROW = 0.7  # inches
NO_DATA = "no data"


def write_preview(map_path: Path, out: Path, classes: Sequence[str], palette: Palette, *, title: str) -> Path:
    """Draw the class map ``map_path`` as the PNG ``out``, from its overviews, and return ``out``.

    North is the true one, lengths are those in the map's middle. Raises ``ValueError`` for what is no class map.
    """
    assert len(classes) == len(palette), (classes, palette)
    from matplotlib.figure import Figure

    with opened_map(map_path) as file:
        ids = class_ids(small(file, SIDE_PIXELS), file.nodata, len(classes))
        placed = not (file.crs is None and file.transform.is_identity)
        x_m, y_m = pixel_m(file.crs, file.transform, file.height, file.width) if placed else (1.0, 1.0)
        lines = list(zip(classes, palette, strict=True))
        if (ids >= len(classes)).any():
            lines.append((NO_DATA, VOID_COLOUR))
        page = _page(*_inches(file.width * x_m, file.height * y_m, ids.shape), len(lines))
        figure = Figure(figsize=page.size, dpi=DPI, facecolor="white")
        figure.text(
            MARGIN / page.size[0], 1 - 0.33 / page.size[1], title, fontsize=14, color=INK, weight="bold", va="center"
        )
        left, bottom, width, height = page.map
        axes = _place(figure, left, bottom, width, height)
        axes.imshow(colour(ids, palette), interpolation="nearest", aspect="auto")
        if placed:
            right, down = north(file.crs, file.transform, file.height, file.width)
            _arrow(figure, *page.arrow, right * x_m, -down * y_m)
        _legend(figure, *page.legend, page.columns, lines)
        _scale_bar(figure, *page.bar, width / (file.width * x_m), "m" if placed else "px")
        left, bottom = page.footnote
        place = (left / page.size[0], bottom / page.size[1])
        figure.text(*place, _footnote(file, x_m), fontsize=6.5, color=INK, va="bottom")
    with whole_file(out) as picture:
        figure.savefig(picture, format="png", metadata={"Comment": MARK})
    return out


def _inches(width_m: float, height_m: float, shape: tuple[int, ...]) -> tuple[float, float]:
    """Width and height of the map in the picture, in its shape on the ground; at least an inch each."""
    longest = max(SIDE_PIXELS / 2, *shape) / DPI
    scale = longest / max(width_m, height_m)
    return max(1.0, width_m * scale), max(1.0, height_m * scale)


@dataclass(frozen=True)
class _Page:
    """Where everything is, in inches from the lower left corner."""

    size: tuple[float, float]
    map: tuple[float, float, float, float]
    """Left, bottom, width, height."""
    arrow: tuple[float, float]
    """Left and top, as of the legend."""
    legend: tuple[float, float]
    columns: int
    """Of the legend."""
    bar: tuple[float, float]
    """Left and bottom, as of the footnote."""
    footnote: tuple[float, float]


def _page(width: float, height: float, lines: int) -> _Page:
    """The page for a map of this size: what explains it stands to its right, or below where it is wide."""
    if width > WIDE * height and width > 2.5 * SIDEBAR:
        columns = max(1, int((width - SIDEBAR - 1.0) / COLUMN))
        below = max(LINE * -(-lines // columns), 0.9)
        bottom = MARGIN + below + 0.25
        left = MARGIN + width - SIDEBAR
        return _Page(
            size=(width + 2 * MARGIN, bottom + height + HEADING),
            map=(MARGIN, bottom, width, height),
            arrow=(left - 1.0, MARGIN + below),
            legend=(MARGIN, MARGIN + below),
            columns=columns,
            bar=(left, MARGIN + below - 0.45),
            footnote=(left, MARGIN),
        )
    top = MARGIN + max(height, LEAST_HEIGHT, 2.6 + LINE * lines)
    left = MARGIN + width + 0.3
    return _Page(
        size=(width + SIDEBAR + 2 * MARGIN, top + HEADING),
        map=(MARGIN, top - height, width, height),
        arrow=(left, top),
        legend=(left, top - 1.1),
        columns=1,
        bar=(left, MARGIN + 0.45),
        footnote=(left, MARGIN),
    )


def _place(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Axes at a place in inches, with a frame and without ticks."""
    across, up = figure.get_size_inches()
    axes = figure.add_axes((left / across, bottom / up, width / across, height / up))
    axes.set_xticks([])
    axes.set_yticks([])
    for side in axes.spines.values():
        side.set(linewidth=0.6, color=INK)
    return axes


def _arrow(figure: Figure, left: float, top: float, right: float, up: float) -> None:
    """An arrow to the north, the way (``right``, ``up``) on the page."""
    axes = _place(figure, left, top - ARROW, ARROW, ARROW)
    axes.set_axis_off()
    axes.set_xlim(-1, 1)
    axes.set_ylim(-1, 1)
    length = math.hypot(right, up)
    ahead = np.array([right, up]) / length
    side = np.array([ahead[1], -ahead[0]])
    tip, foot, notch = 0.52 * ahead, -0.95 * ahead, -0.62 * ahead
    for way, filled in ((1, True), (-1, False)):
        half = np.stack([tip, foot + way * 0.42 * side, notch])
        axes.fill(*half.T, facecolor=INK if filled else "white", edgecolor=INK, linewidth=0.7, joinstyle="round")
    axes.text(0.8 * ahead[0], 0.8 * ahead[1], "N", fontsize=10, weight="bold", color=INK, ha="center", va="center")


def _legend(
    figure: Figure, left: float, top: float, columns: int, lines: Sequence[tuple[str, tuple[int, int, int]]]
) -> None:
    """Colours and their names, down one column after the other."""
    from matplotlib.patches import Rectangle

    rows = -(-len(lines) // columns)
    width, height = COLUMN * columns, LINE * rows
    axes = _place(figure, left, top - height, width, height)
    axes.set_axis_off()
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    for number, (name, shade) in enumerate(lines):
        column, row = divmod(number, rows)
        box = Rectangle((COLUMN * column + 0.01, LINE * row + 0.04), 0.3, LINE - 0.09, linewidth=0.6, edgecolor=INK)
        box.set_facecolor(_unit(shade))
        axes.add_patch(box)
        said = name.replace("_", " ")
        axes.text(COLUMN * column + 0.42, LINE * (row + 0.5), said, fontsize=9, color=INK, va="center")


def _unit(shade: tuple[int, int, int]) -> tuple[float, float, float]:
    return shade[0] / 255, shade[1] / 255, shade[2] / 255


def _scale_bar(figure: Figure, left: float, bottom: float, inches_per_m: float, unit: str) -> None:
    """A bar of a round length in four parts, the first two of half the others' length."""
    from matplotlib.patches import Rectangle

    length = round_length((SIDEBAR - 0.75) / inches_per_m)
    inches = length * inches_per_m
    axes = _place(figure, left, bottom, SIDEBAR - 0.2, 0.42)
    axes.set_axis_off()
    axes.set_xlim(0, SIDEBAR - 0.2)
    axes.set_ylim(0, 0.42)
    for first, last, filled in ((0, 0.25, True), (0.25, 0.5, False), (0.5, 1, True)):
        box = Rectangle((0.03 + first * inches, 0.04), (last - first) * inches, 0.09, linewidth=0.7, edgecolor=INK)
        box.set_facecolor(INK if filled else "white")
        axes.add_patch(box)
    for share in (0, 0.5, 1):
        said = f"{length * share:g}" if share < 1 else f"{length:g} px"
        if unit == "m":
            far = length_text(length)
            said = far if share == 1 else f"{float(far.split()[0]) * share:g}"
        axes.text(0.03 + share * inches, 0.18, said, fontsize=8, color=INK, ha="left" if share == 0 else "center")


def _footnote(file: DatasetReader, x_m: float) -> str:
    """What coordinates the map has, and how large its pixels are."""
    if file.crs is None:
        return "no coordinate system" if file.transform.is_identity else "no coordinate system; taken as metres"
    epsg = file.crs.to_epsg()
    name = f"EPSG:{epsg}" if epsg else "own coordinate system"
    return f"{name}, pixels of {length_text(float(f'{x_m:.3g}'))}"
