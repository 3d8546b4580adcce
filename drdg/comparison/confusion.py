"""Station 7, comparison: what each row takes for what: confusion matrices, in percent of the truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from drdg.comparison.runs import Outcome
from drdg.comparison.table import LABELS, in_order
from drdg.panels import DPI, INK, SMALL_POINTS, TITLE_POINTS, save

MOST_ACROSS = 4
SHADES = "Blues"  # one hue from white to dark, which every kind of colour vision orders


def read_matrices(outcomes: Sequence[Outcome]) -> dict[str, np.ndarray]:
    """The matrix of each row over the seeds that have one, int64 (classes, classes), truth along rows."""
    found: dict[str, np.ndarray] = {}
    for row in in_order({outcome.result.name for outcome in outcomes}):
        own = [outcome.result.metrics for outcome in outcomes if outcome.result.name == row]
        matrices = [np.array(scores["confusion"], dtype=np.int64) for scores in own if scores and "confusion" in scores]
        if matrices:
            found[row] = np.sum(matrices, axis=0)
    return found


def in_percent(matrix: np.ndarray) -> np.ndarray:
    """A matrix in percent of each row's sum, NaN for a class that does not occur."""
    sums = matrix.sum(axis=1, keepdims=True)
    return np.divide(100.0 * matrix, sums, out=np.full(matrix.shape, np.nan), where=sums > 0)


def draw_matrices(matrices: Mapping[str, np.ndarray], classes: Sequence[str], path: Path, title: str) -> None:
    """Draw one matrix for each row, as a PNG."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    assert matrices, "nothing to draw"
    down = -(-len(matrices) // MOST_ACROSS)
    across = -(-len(matrices) // down)
    side = 0.45 * len(classes)
    figure = Figure(figsize=(across * (side + 0.25) + 1.4, down * (side + 0.3) + 1.9), dpi=DPI, layout="constrained")
    frames = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True)
    names = [name.replace("_", " ") for name in classes]
    shades = colormaps[SHADES].with_extremes(bad="#DDDDDD")
    for axes, (row, matrix) in zip(frames.ravel(), matrices.items(), strict=False):
        shares = in_percent(matrix)
        axes.imshow(np.ma.masked_invalid(shares), cmap=shades, vmin=0, vmax=100)
        for (truth, called), share in np.ndenumerate(shares):
            if np.isfinite(share):
                shade = "white" if share > 55 else INK
                axes.text(called, truth, f"{share:.0f}", ha="center", va="center", color=shade, fontsize=SMALL_POINTS)
        axes.set_title(LABELS.get(row, row), fontsize=TITLE_POINTS, color=INK)
        axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(names)), names)
        axes.tick_params(labelsize=SMALL_POINTS, length=0)
    for place, axes in enumerate(frames.ravel()):
        if place >= len(matrices):
            axes.set_axis_off()
        elif place + across >= len(matrices):  # nothing below it, so its own names are needed
            axes.tick_params(labelbottom=True)
    figure.supxlabel("predicted", fontsize=TITLE_POINTS)
    figure.supylabel("truth", fontsize=TITLE_POINTS)
    figure.suptitle(title, fontsize=TITLE_POINTS + 2, color=INK)
    save(figure, path)
