"""Station 7, comparison: the table on the terminal, as Markdown and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from drdg.comparison.remarks import order_differences, remarks
from drdg.comparison.table import MEANS, Column, Comparison, Line, is_best
from drdg.report import MEAN, OVERALL

LABEL_WIDTH, SCORE_WIDTH = len("Baseline, rescaled"), len("53.26 ±12.34")
GAP = 3  # a terminal column's border and margins
NONE = "–"


def as_json(comparison: Comparison) -> dict[str, Any]:
    """The table as data, in percent: ``rows.<name>.<score>`` with ``mean``, ``sd`` (null for one seed), ``values``."""
    kept = ("direction", "protocol", "split", "tops", "classes", "absent", "definition")
    return {
        **{key: comparison.scoring.get(key) for key in kept},
        "rows": {line.row: _row_as_json(comparison, line) for line in comparison.lines},
        "not_run": list(comparison.not_run),
        "missing": [
            {"row": outcome.result.name, "seed": outcome.result.seed, "folder": str(outcome.folder)}
            | {"problem": outcome.result.problem}
            for outcome in comparison.missing
        ],
        "order_differences": order_differences(comparison),
        "remarks": remarks(comparison),
    }


def markdown(comparison: Comparison, title: str) -> str:
    """The table as Markdown: means, IoU of each class, F1 of each class."""
    text = [f"# {title}", ""]
    for heading, columns in sections(comparison):
        shown = facets(comparison, columns)
        heads = [column.heading if facet == "ours" else facet for column, facet in shown]
        text += [f"| {heading}, percent | seeds | " + " | ".join(heads) + " |"]
        text += ["|---|" + "---:|" * (len(shown) + 1)]
        for line in comparison.lines:
            cells = [_markdown_cell(comparison, line, column, facet) for column, facet in shown]
            text.append(f"| {line.label} | {count(comparison, line)} | " + " | ".join(cells) + " |")
        text.append("")
    return "\n".join([*text, *_markdown_seeds(comparison), *(f"- {remark}" for remark in remarks(comparison)), ""])


def _markdown_seeds(comparison: Comparison) -> list[str]:
    """What each run scored, and which have no scores."""
    text = ["| each seed, percent | seed | " + " | ".join(column.heading for column in MEANS) + " |"]
    text.append("|---|" + "---:|" * (len(MEANS) + 1))
    for label, seed, scores, problem in each_seed(comparison):
        cells = [NONE if score is None else f"{score:.2f}" for score in scores]
        cells = cells if problem is None else [f"missing: {_one_line(problem)}", *[""] * (len(MEANS) - 1)]
        text.append(f"| {label} | {NONE if seed is None else seed} | " + " | ".join(cells) + " |")
    return [*text, ""]


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|")


def each_seed(comparison: Comparison) -> list[tuple[str, int | None, list[float | None], str | None]]:
    """Every run of the table: its row's label, its seed, its scores of ``MEANS``, and why it has none.

    A row that nobody asked for is there without a seed.
    """
    found: list[tuple[str, int | None, list[float | None], str | None]] = []
    for line in comparison.lines:
        lost = {out.result.seed: out.result.problem for out in comparison.missing if out.result.name == line.row}
        scored = {outcome.result.seed: outcome.result for outcome in line.outcomes}
        for seed in sorted({*lost, *scored}):
            if seed in scored:
                scores = [scored[seed].score(column.measure, column.line) for column in MEANS]
                found.append((line.label, seed, scores, None))
            else:
                found.append((line.label, seed, [None] * len(MEANS), lost[seed]))
        if not lost and not scored:
            found.append((line.label, None, [None] * len(MEANS), "not run"))
    return found


def print_tables(comparison: Comparison, title: str, console: Console, *, only_means: bool = False) -> None:
    """Print the table, rows down, as many scores across as the terminal has room for, what is printed below ours.

    ``only_means``: without the classes and all that is to be said.
    """
    room = max(1, (console.width - LABEL_WIDTH - len("seeds") - 2 * GAP - 1) // (SCORE_WIDTH + GAP))
    below = "; below: printed" if comparison.published else ""
    for heading, columns in sections(comparison)[: 1 if only_means else None]:
        for first in range(0, len(columns), room):
            shown = columns[first : first + room]
            table = Table(title=f"{title}: {heading}, percent{below}", title_style="bold", header_style="bold")
            table.add_column("", max_width=LABEL_WIDTH)
            table.add_column("seeds", justify="right")
            for column in shown:
                table.add_column(column.heading, justify="right", width=SCORE_WIDTH)
            for line in comparison.lines:
                cells = [_terminal_cell(comparison, line, column) for column in shown]
                table.add_row(Text(line.label), count(comparison, line), *cells)
            console.print(table)
    for remark in [] if only_means else remarks(comparison):
        console.print(Text(remark))


def sections(comparison: Comparison) -> list[tuple[str, Sequence[Column]]]:
    """The parts of the table: a heading and its scores."""
    return [
        ("means over classes", MEANS),
        ("IoU of each class", comparison.columns("iou")),
        ("F1 of each class", comparison.columns("f1")),
    ]


def ours(line: Line, column: Column) -> str:
    """Mean and spread as they are shown."""
    mean, sd = line.mean(column), line.sd(column)
    return NONE if mean is None else f"{mean:.2f}" + ("" if sd is None else f" ±{sd:.2f}")


def printed(line: Line, column: Column) -> str:
    """The printed number as it is shown, with a question mark where it could not be verified; empty for none."""
    found = line.in_print(column)
    return "" if found is None else f"{found[0]:.2f}" + ("" if found[1].table.verified else "?")


def _row_as_json(comparison: Comparison, line: Line) -> dict[str, Any]:
    def score(column: Column) -> dict[str, Any]:
        found = line.in_print(column)
        values = {"mean": line.mean(column), "sd": line.sd(column), "values": line.values(column)}
        if found is None:
            return {**values, "printed": None, "difference": None}
        place = {"value": found[0], "source": found[1].table.source, "verified": found[1].table.verified}
        return {**values, "printed": place, "difference": line.difference(column)}

    means = {(MEAN, "iou"): "miou", (MEAN, "f1"): "mean_f1", (OVERALL, "iou"): "oa"}
    return {
        "label": line.label,
        "seeds": [outcome.result.seed for outcome in line.outcomes],
        "folders": [str(outcome.folder) for outcome in line.outcomes],
        **{means[column.line, column.measure]: score(column) for column in MEANS},
        "iou": {column.line: score(column) for column in comparison.columns("iou")},
        "f1": {column.line: score(column) for column in comparison.columns("f1")},
    }


FACETS = ("ours", "printed", "difference")


def facets(comparison: Comparison, columns: Sequence[Column]) -> list[tuple[Column, str]]:
    """Each column with what stands in it: ours, and, where any row has it, what is printed and our difference to it."""
    shown = []
    for column in columns:
        is_printed = any(line.in_print(column) for line in comparison.lines)
        is_apart = any(line.difference(column) is not None for line in comparison.lines)
        is_there = dict(zip(FACETS, (True, is_printed, is_apart), strict=True))
        shown += [(column, facet) for facet in FACETS if is_there[facet]]
    return shown


def facet_text(line: Line, column: Column, facet: str) -> str:
    """One of ``FACETS`` as it is shown; empty for nothing."""
    if facet == "ours":
        return ours(line, column)
    if facet == "printed":
        return printed(line, column)
    points = line.difference(column)
    return "" if points is None else f"{points:+.2f}"


def count(comparison: Comparison, line: Line) -> str:
    """How many seeds a row has scores with, and of how many."""
    lost = sum(outcome.result.name == line.row for outcome in comparison.missing)
    scored = len(line.outcomes)
    return "not run" if line.row in comparison.not_run else f"{scored} of {scored + lost}" if lost else str(scored)


def _markdown_cell(comparison: Comparison, line: Line, column: Column, facet: str) -> str:
    text = facet_text(line, column, facet)
    return f"**{text}**" if facet == "ours" and is_best(comparison, line, column) else text


def _terminal_cell(comparison: Comparison, line: Line, column: Column) -> Text:
    text = Text(ours(line, column), style="bold" if is_best(comparison, line, column) else "")
    return text.append(f"\n{below}", style="not bold dim") if (below := printed(line, column)) else text
