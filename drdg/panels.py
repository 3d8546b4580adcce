"""Station 7, pictures: pictures beside the table, in the manner of the paper's Fig. 3, and curves of the losses.

Functions take arrays, colours and names, so they need no other station. Class maps keep the archive's own palette, with
a legend; heights and curves use colours that people with colour-blindness can tell apart. Figures are drawn without
pyplot, so nothing depends on a display and nothing is kept between calls.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from drdg.files import whole_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Palette = Sequence[tuple[int, int, int]]

DPI = 150
PICTURE_INCHES = 2.6
# A picture of 2.6 inches at 150 dpi shows 390 pixels; twice that survives zooming into the page.
SHOWN_PIXELS = 800
HEIGHTS = "cividis"  # even in brightness, and the same to every kind of colour vision
VOID_COLOUR = (110, 110, 110)  # grey is in no class palette of ISPRS
INK, ACCENT = "#222222", "#0072B2"  # the blue of Okabe and Ito's palette
TITLE_POINTS, SMALL_POINTS = 9, 7


@dataclass(frozen=True)
class TranslatedTile:
    """A source tile beside its translation; the translation has the size of a target tile."""

    image: np.ndarray
    """uint8 (H, W, 3)."""
    dsm: np.ndarray | None
    """Heights in metres, (H, W), NaN where unknown."""
    label: np.ndarray | None
    """Class ids, (H, W); what is no class is shown as void."""
    translated: np.ndarray
    """uint8 (h, w, 3)."""
    predicted_dsm: np.ndarray | None = None
    """Heights that the generator predicts for the translated tile, (h, w), in metres or in the networks' units."""


def target_panel(
    path: Path,
    image: np.ndarray,
    dsm: np.ndarray | None,
    label: np.ndarray | None,
    predictions: Mapping[str, np.ndarray],
    classes: Sequence[str],
    palette: Palette,
    *,
    title: str = "",
    gsd_m: float | None = None,
    across: int | None = None,
) -> None:
    """Draw one TOP: image, DSM, label and each row's prediction, as a PNG.

    ``image``: uint8 (H, W, 3). ``dsm``: metres, (H, W), or None. ``label`` and ``predictions`` (by row name): class
    ids, (H, W). ``palette``: one colour per class. ``gsd_m``: metres per pixel, for a scale bar. ``across``: how many
    pictures stand side by side, where neither one line nor two halves are wanted.
    """
    pictures = 1 + (dsm is not None) + (label is not None) + len(predictions)
    columns = across or (pictures if pictures <= 5 else -(-pictures // 2))
    lines = -(-pictures // columns)
    figure, grid = _canvas(lines, columns, image.shape[0] / image.shape[1], title)
    axes = iter(grid.ravel())
    first = show_image(next(axes), image, "image")
    if gsd_m is not None:
        scale_bar(first, image.shape[1], gsd_m)
    if dsm is not None:
        show_heights(next(axes), dsm, "DSM", "m")
    maps = ([] if label is None else [("label", label)]) + list(predictions.items())
    for name, ids in maps:
        show_classes(next(axes), ids, name, palette)
    for unused in axes:
        unused.set_axis_off()
    legend(figure, classes, palette, void=any(has_void(ids, palette) for _, ids in maps))
    save(figure, path)


def translation_panel(
    path: Path,
    tiles: Sequence[TranslatedTile],
    classes: Sequence[str],
    palette: Palette,
    *,
    title: str = "",
    predicted_unit: str = "",
) -> None:
    """Draw source tiles, one per line: image, DSM, label, translated image and predicted DSM where there is one.

    A layer that no tile has gets no column. ``predicted_unit`` is written at the scale of the predicted heights.
    """
    assert tiles, "nothing to draw"
    columns = ["source"]
    columns += ["DSM"] if any(tile.dsm is not None for tile in tiles) else []
    columns += ["label"] if any(tile.label is not None for tile in tiles) else []
    columns += ["translated"]
    columns += ["predicted DSM"] if any(tile.predicted_dsm is not None for tile in tiles) else []
    figure, grid = _canvas(len(tiles), len(columns), 1.0, title)
    for line, tile in enumerate(tiles):
        for name, axes in zip(columns, grid[line], strict=True):
            heading = name if line == 0 else ""
            heights = tile.dsm if name == "DSM" else tile.predicted_dsm
            if name in ("source", "translated"):
                show_image(axes, tile.image if name == "source" else tile.translated, heading)
            elif name == "label" and tile.label is not None:
                show_classes(axes, tile.label, heading, palette)
            elif name != "label" and heights is not None:
                show_heights(axes, heights, heading, "m" if name == "DSM" else predicted_unit)
            else:
                axes.set_axis_off()
    if "label" in columns:
        labels = [tile.label for tile in tiles if tile.label is not None]
        legend(figure, classes, palette, void=any(has_void(ids, palette) for ids in labels))
    save(figure, path)


def loss_curves(path: Path, history: Mapping[str, Sequence[tuple[int, float]]], *, title: str = "") -> None:
    """Draw each named series of (step, value) in a frame of its own; a long one gets a running mean on top.

    Losses differ in scale by orders of magnitude, so they share the step axis and nothing else. Values that are not
    finite leave gaps.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    assert history, "nothing to draw"
    columns = min(3, len(history))
    lines = -(-len(history) // columns)
    figure = Figure(figsize=(3.2 * columns, 2.1 * lines + (0.3 if title else 0)), dpi=DPI, layout="constrained")
    frames = figure.subplots(lines, columns, squeeze=False, sharex=True).ravel()
    for axes, (name, series) in zip(frames, history.items(), strict=False):
        points = np.array(sorted(series), dtype=np.float64).reshape(-1, 2)
        steps, values = points[:, 0], np.where(np.isfinite(points[:, 1]), points[:, 1], np.nan)
        span = len(values) // 20
        axes.plot(steps, values, color=ACCENT, linewidth=0.8 if span > 1 else 1.4, alpha=0.35 if span > 1 else 1.0)
        if span > 1:
            axes.plot(steps, _running_mean(values, span), color=ACCENT, linewidth=1.6)
        axes.set_title(name, fontsize=TITLE_POINTS, color=INK)
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.grid(alpha=0.25, linewidth=0.5)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=SMALL_POINTS, labelbottom=True)
    for axes in frames[len(history) :]:
        axes.set_axis_off()
    figure.supxlabel("step", fontsize=TITLE_POINTS)
    if title:
        figure.suptitle(title, fontsize=TITLE_POINTS + 2)
    save(figure, path)


def colour(ids: np.ndarray, palette: Palette) -> np.ndarray:
    """Return class ids (H, W) as a picture, uint8 (H, W, 3); ids beyond the palette are void, and grey."""
    table = np.full((256, 3), VOID_COLOUR, dtype=np.uint8)
    table[: len(palette)] = palette
    return table[ids]


def _canvas(lines: int, columns: int, height_by_width: float, title: str) -> tuple[Figure, np.ndarray]:
    from matplotlib.figure import Figure

    # Above a picture its heading, under the last line the legend.
    height = lines * (PICTURE_INCHES * height_by_width + 0.25) + 0.5 + (0.3 if title else 0)
    figure = Figure(figsize=(columns * (PICTURE_INCHES + 0.25), height), dpi=DPI, layout="constrained")
    if title:
        figure.suptitle(title, fontsize=TITLE_POINTS + 2)
    return figure, figure.subplots(lines, columns, squeeze=False)


def show_image(axes: Axes, image: np.ndarray, heading: str) -> Axes:
    """Draw an image, uint8 (H, W, 3), made as small as it will be seen."""
    assert image.dtype == np.uint8, image.dtype
    assert image.ndim == 3, image.shape
    step = max(1, -(-max(image.shape[:2]) // SHOWN_PIXELS))
    height, width = image.shape[0] // step * step, image.shape[1] // step * step
    blocks = image[:height, :width].reshape(height // step, step, width // step, step, 3)
    axes.imshow(blocks.mean(axis=(1, 3)).round().astype(np.uint8), interpolation="antialiased")
    return _frame(axes, heading)


def show_classes(axes: Axes, ids: np.ndarray, heading: str, palette: Palette) -> None:
    """Draw class ids, (H, W), in their colours."""
    step = max(1, -(-max(ids.shape) // SHOWN_PIXELS))  # a class map has no means: every step-th pixel
    axes.imshow(colour(ids[::step, ::step], palette), interpolation="nearest")
    _frame(axes, heading)


def show_heights(axes: Axes, heights: np.ndarray, heading: str, unit: str) -> None:
    """Draw heights, (H, W), NaN where unknown, with their scale beside them."""
    from matplotlib import colormaps

    step = max(1, -(-max(heights.shape) // SHOWN_PIXELS))
    shown = np.ma.masked_invalid(heights[::step, ::step])
    known = shown.compressed()
    # A stray pixel must not take the whole scale, so its ends are percentiles, and its tips say that there is more.
    low, high = np.percentile(known, (0.5, 99.5)) if known.size else (0.0, 1.0)
    if high - low < 1e-6:
        low, high = low - 0.5, high + 0.5
    drawn = axes.imshow(
        shown,
        cmap=colormaps[HEIGHTS].with_extremes(bad=_unit(VOID_COLOUR)),
        vmin=low,
        vmax=high,
        interpolation="nearest",
    )
    tips = [bool(known.size and known.min() < low), bool(known.size and known.max() > high)]
    bar = axes.figure.colorbar(
        drawn,
        cax=axes.inset_axes((1.02, 0.0, 0.04, 1.0)),
        extend={(0, 0): "neither", (1, 0): "min", (0, 1): "max", (1, 1): "both"}[int(tips[0]), int(tips[1])],
    )
    bar.ax.tick_params(labelsize=SMALL_POINTS, length=2, pad=1.5)
    bar.outline.set_visible(False)
    if unit:
        bar.ax.set_title(unit, fontsize=SMALL_POINTS, pad=4, loc="left")
    _frame(axes, heading)


def _frame(axes: Axes, heading: str) -> Axes:
    axes.set_xticks([])
    axes.set_yticks([])
    for side in axes.spines.values():
        side.set(linewidth=0.6, color=INK)  # white classes end where the page begins
    axes.set_title(heading, fontsize=TITLE_POINTS, color=INK)
    return axes


def scale_bar(axes: Axes, width: int, gsd_m: float) -> None:
    """Draw a bar of a round number of metres, about a quarter of the picture wide."""
    from matplotlib.patheffects import withStroke

    wanted = width * gsd_m / 4
    power = 10.0 ** np.floor(np.log10(wanted))
    metres = power * max(factor for factor in (1, 2, 5) if factor * power <= wanted)
    outline = [withStroke(linewidth=3, foreground="black")]
    share = metres / (width * gsd_m)
    axes.plot([0.04, 0.04 + share], [0.05, 0.05], transform=axes.transAxes, color="white", lw=2, path_effects=outline)
    axes.text(
        0.04,
        0.075,
        f"{metres:g} m",
        transform=axes.transAxes,
        color="white",
        fontsize=SMALL_POINTS + 1,
        va="bottom",
        path_effects=outline,
    )


def legend(figure: Figure, classes: Sequence[str], palette: Palette, *, void: bool) -> None:
    """Name the colours of the classes below all pictures."""
    from matplotlib.patches import Patch

    assert len(classes) == len(palette), (classes, palette)
    entries = [*zip(classes, palette, strict=True), *([("void", VOID_COLOUR)] if void else [])]
    patches = [
        Patch(facecolor=_unit(shade), edgecolor=INK, linewidth=0.6, label=name.replace("_", " "))
        for name, shade in entries
    ]
    # About an inch per entry keeps the legend as wide as the pictures.
    columns = max(1, min(len(patches), int(figure.get_figwidth() / 1.15)))
    figure.legend(handles=patches, loc="outside lower center", ncols=columns, frameon=False, fontsize=TITLE_POINTS - 1)


def _unit(shade: tuple[int, int, int]) -> tuple[float, float, float]:
    return shade[0] / 255, shade[1] / 255, shade[2] / 255


def has_void(ids: np.ndarray, palette: Palette) -> bool:
    """Whether some ids, (H, W), are no class."""
    return bool((ids >= len(palette)).any())


def _running_mean(values: np.ndarray, span: int) -> np.ndarray:
    """Return the mean over up to ``span`` values before and at each, without those that are NaN."""
    known = np.isfinite(values)
    sums = np.concatenate([[0.0], np.cumsum(np.where(known, values, 0.0))])
    counts = np.concatenate([[0], np.cumsum(known)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - span, 0)
    with np.errstate(invalid="ignore"):
        return (sums[ends] - sums[starts]) / (counts[ends] - counts[starts])


def save(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG, whole or not at all."""
    with whole_file(path) as file:
        figure.savefig(file, format="png")
