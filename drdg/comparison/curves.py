"""Station 7, comparison: how trainings went: each loss over the steps, a line for each row, a band for its seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from drdg.comparison.chapters import Chapter
from drdg.comparison.colours import looks
from drdg.comparison.table import LABELS, in_order
from drdg.panels import DPI, INK, SMALL_POINTS, TITLE_POINTS, _running_mean, save
from drdg.tracking.query import SweepRecord

TRAINED = ("gan", "segment")
# What is logged beside losses: how fast it goes, and the rates by which it learns.
NO_LOSS = ("_per_s", "_percent", "_bytes", "_mb", "_gb", "/learning_rate")
ACROSS = 3
INFINITE = 1e300  # databases hold infinity as the largest number there is
SMOOTH = 20  # a line is the running mean over this part of its points, as single batches scatter

Series = Sequence[tuple[int, float]]
Curves = dict[str, dict[str, list[Series]]]
"""By metric, by row: one series for each seed."""


@dataclass(frozen=True)
class Band:
    """A row's seeds together: at each step their mean, the least and the greatest."""

    steps: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    seeds: int


def read_curves(record: SweepRecord, chapter: Chapter, stage: str) -> Curves:
    """The losses that the runs of ``stage`` have kept of the results that the tables show."""
    found: Curves = {}
    for cell in chapter.cells:
        run = record.stage_run(cell, stage) if chapter.shown(cell) else None
        if run is None:
            continue
        for name in record.metric_names(run):
            if name.startswith(f"{stage}/") and not name.endswith(NO_LOSS):
                series = record.history(run, name)
                if len(series) > 1:
                    found.setdefault(name, {}).setdefault(cell.row, []).append(series)
    return found


def band(series: Sequence[Series]) -> Band:
    """Several seeds' series as one, each smoothed first; at each step those count that have reached it."""
    smooth = []
    for one in series:
        points = np.array(sorted(one), dtype=np.float64).reshape(-1, 2)
        values = np.where(np.abs(points[:, 1]) < INFINITE, points[:, 1], np.nan)
        span = len(values) // SMOOTH
        smooth.append((points[:, 0], _running_mean(values, span) if span > 1 else values))
    steps = np.unique(np.concatenate([own for own, _ in smooth]))
    rows = np.full((len(smooth), len(steps)), np.nan)
    for row, (own, values) in zip(rows, smooth, strict=True):
        # Seeds that logged at other steps are read off between their own, and never beyond.
        row[:] = np.interp(steps, own, values, left=np.nan, right=np.nan)
    known = np.isfinite(rows)
    count = known.sum(axis=0)
    mean = np.where(count > 0, np.where(known, rows, 0).sum(axis=0) / np.maximum(count, 1), np.nan)
    low = np.where(count > 0, np.where(known, rows, np.inf).min(axis=0), np.nan)
    high = np.where(count > 0, np.where(known, rows, -np.inf).max(axis=0), np.nan)
    return Band(steps, mean, low, high, len(series))


def draw_curves(
    curves: Mapping[str, Mapping[str, Sequence[Series]]], path: Path, title: str, among: Sequence[str] = ()
) -> None:
    """Draw each metric in a frame of its own, with a line for each row, as a PNG.

    A row looks as it does ``among`` these, so that it looks alike in pictures of different rows.

    Losses differ in scale by orders of magnitude, and methods weigh them differently, so frames do not compare.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator

    assert curves, "nothing to draw"
    rows = in_order({row for by_row in curves.values() for row in by_row})
    look = looks([*rows, *among])
    alpha = 0.2 if len(rows) <= 3 else 0.1  # many bands on each other must not hide the lines
    across = min(ACROSS, len(curves))
    down = -(-len(curves) // across)
    width = max(3.4 * across, 6.0)  # the title and the legend need some, however few curves there are
    per_line = int(width / 1.5)
    height = 2.3 * down + 0.6 + 0.2 * -(-len(rows) // per_line)
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    frames = figure.subplots(down, across, squeeze=False).ravel()
    for axes, (name, by_row) in zip(frames, sorted(curves.items()), strict=False):
        for row in in_order(by_row):
            found = band(by_row[row])
            style = look[row]
            axes.plot(found.steps, found.mean, color=style.colour, linestyle=style.dash, linewidth=1.4)
            if found.seeds > 1:
                axes.fill_between(found.steps, found.low, found.high, color=style.colour, alpha=alpha, linewidth=0)
        axes.set_title(name.partition("/")[2], fontsize=TITLE_POINTS, color=INK)
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.grid(alpha=0.25, linewidth=0.5)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=SMALL_POINTS)
    for place, axes in enumerate(frames):
        if place >= len(curves):
            axes.set_axis_off()
        elif place + across >= len(curves):  # nothing below it
            axes.set_xlabel("iteration", fontsize=SMALL_POINTS + 1)
    figure.suptitle(title, fontsize=TITLE_POINTS + 2, color=INK)
    entries = [
        Line2D([], [], color=look[row].colour, linestyle=look[row].dash, label=LABELS.get(row, row)) for row in rows
    ]
    figure.legend(
        handles=entries,
        loc="outside lower center",
        ncols=min(len(entries), per_line),
        frameon=False,
        fontsize=TITLE_POINTS - 1,
    )
    save(figure, path)
