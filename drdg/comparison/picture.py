"""Station 7, comparison: the means as bars with the spread of their seeds, beside marks for what is printed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from drdg.comparison.table import CEILING, MEANS, Column, Comparison
from drdg.panels import ACCENT, DPI, INK, SMALL_POINTS, TITLE_POINTS, save

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHOWN = MEANS[:2]  # mIoU and mean F1, which papers print
PRINTED = "#D55E00"  # the vermilion of Okabe and Ito's palette, which goes with its blue
CEILING_COLOUR = "#B0B0B0"
BAR = 0.68  # of the room that a row has
ROOM = 9  # points of a score that a written number takes


def draw(comparison: Comparison, path: Path, title: str, columns: Sequence[Column] = SHOWN, across: int = 2) -> None:
    """Draw the table's rows as bars of each of ``columns``, in percent, ``across`` of them side by side, as a PNG."""
    from matplotlib.figure import Figure

    assert columns, "nothing to draw"
    lines, across = comparison.lines, min(across, len(columns))
    down = -(-len(columns) // across)
    height = 1.0 + down * (0.3 + 0.3 * len(lines))
    figure = Figure(figsize=(1.6 + 4.0 * across, height), dpi=DPI, layout="constrained")
    frames = figure.subplots(down, across, sharey=True, squeeze=False)
    for axes, column in zip(frames.ravel(), columns, strict=False):
        draw_bars(axes, comparison, column)
    for axes in frames.ravel()[len(columns) :]:
        axes.set_axis_off()
    for first in frames[:, 0]:
        first.set_yticks(range(len(lines)), [line.label.replace(" (", "\n(") for line in lines])
    frames[0, 0].invert_yaxis()
    figure.suptitle(title, fontsize=TITLE_POINTS + 2, color=INK)
    add_legend(figure, comparison, columns)
    save(figure, path)


def draw_bars(axes: Axes, comparison: Comparison, column: Column) -> None:
    """Draw one score of every row: a bar with its number, its spread, and a diamond with its number for print."""
    furthest = 0.0
    for place, line in enumerate(comparison.lines):
        mean, sd, found = line.mean(column), line.sd(column), line.in_print(column)
        end = max((mean or 0) + (sd or 0), found[0] if found else 0)  # of all marks of this line
        furthest = max(furthest, end)
        if mean is None:
            beside = 1.5 if found is None else end + 1.8 + ROOM
            furthest = max(furthest, beside + ROOM)
            write_number(axes, beside, place, "not run" if line.row in comparison.not_run else "no scores", INK)
        else:
            is_ceiling = line.row == CEILING
            axes.barh(place, mean, BAR, color=CEILING_COLOUR if is_ceiling else ACCENT)
            # In its bar where nothing else is, or after everything else.
            inside = found[0] + 2.5 if found is not None and found[0] < ROOM + 1.5 else 1.5
            fits = mean - (sd or 0) >= inside + ROOM - 1.5
            beside = end + 1.8 + (ROOM if found else 0)
            furthest = max(furthest, 0 if fits else beside)
            shade = "white" if fits and not is_ceiling else INK
            write_number(axes, inside if fits else beside, place, f"{mean:.1f}", shade)
            if sd is not None:
                axes.errorbar(mean, place, xerr=sd, color=INK, capsize=3, linewidth=1.2, zorder=3)
        if found is not None:
            fill = PRINTED if found[1].table.verified else "white"
            axes.plot(found[0], place, "D", color=fill, markeredgecolor=PRINTED, markersize=5, zorder=5)
            write_number(axes, end + 1.8, place, f"{found[0]:.1f}", PRINTED)
    axes.set_title(f"{column.heading}, percent", fontsize=TITLE_POINTS, color=INK)
    axes.set_xlim(0, min(110, furthest + ROOM))
    axes.set_ylim(-0.6, len(comparison.lines) - 0.4)
    axes.grid(axis="x", alpha=0.25, linewidth=0.5)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=SMALL_POINTS + 1)
    axes.tick_params(axis="y", length=0)


def write_number(axes: Axes, across: float, place: int, text: str, shade: str) -> None:
    """Write in a row's line, from ``across`` on."""
    axes.text(across, place, text, va="center", fontsize=SMALL_POINTS + 1, color=shade)


def add_legend(figure: Figure, comparison: Comparison, columns: Sequence[Column]) -> None:
    """Name what occurs below all frames."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    found = [place for line in comparison.lines for column in columns if (place := line.in_print(column))]
    entries: list[Artist] = [Patch(facecolor=ACCENT, label="ours, mean over seeds")]
    if any(line.row == CEILING for line in comparison.lines):
        entries.append(Patch(facecolor=CEILING_COLOUR, label="ceiling: learns from target labels"))
    if any(len(line.outcomes) > 1 for line in comparison.lines):
        entries.append(Line2D([], [], color=INK, marker="|", markersize=7, label="± standard deviation over seeds"))
    for verified, label in ((True, "printed"), (False, "printed, not verified")):
        if any(place.table.verified == verified for _, place in found):
            fill = PRINTED if verified else "white"
            entries.append(
                Line2D([], [], marker="D", linestyle="none", color=fill, markeredgecolor=PRINTED, label=label)
            )
    figure.legend(
        handles=entries, loc="outside lower center", ncols=len(entries), frameon=False, fontsize=TITLE_POINTS - 1
    )
