"""Station 7, comparison: the table on the terminal, as Markdown and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from drdg.comparison.remarks import order_differences, remarks
from drdg.comparison.table import CEILING, MEANS, Column, Comparison, Line, best
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
        shown = [(column, is_printed) for column in columns for is_printed in _kinds(comparison, column)]
        heads = ["printed" if is_printed else column.heading for column, is_printed in shown]
        text += [f"| {heading}, percent | seeds | " + " | ".join(heads) + " |"]
        text += ["|---|" + "---:|" * (len(shown) + 1)]
        for line in comparison.lines:
            cells = [_markdown_cell(comparison, line, column, is_printed) for column, is_printed in shown]
            text.append(f"| {line.label} | {len(line.outcomes)} | " + " | ".join(cells) + " |")
        text.append("")
    return "\n".join([*text, *(f"- {remark}" for remark in remarks(comparison)), ""])


def print_tables(comparison: Comparison, title: str, console: Console) -> None:
    """Print the table, rows down, as many scores across as the terminal has room for, what is printed below ours."""
    room = max(1, (console.width - LABEL_WIDTH - len("seeds") - 2 * GAP - 1) // (SCORE_WIDTH + GAP))
    below = "; below: printed" if comparison.published else ""
    for heading, columns in sections(comparison):
        for first in range(0, len(columns), room):
            shown = columns[first : first + room]
            table = Table(title=f"{title}: {heading}, percent{below}", title_style="bold", header_style="bold")
            table.add_column("", max_width=LABEL_WIDTH)
            table.add_column("seeds", justify="right")
            for column in shown:
                table.add_column(column.heading, justify="right", width=SCORE_WIDTH)
            for line in comparison.lines:
                cells = [_terminal_cell(comparison, line, column) for column in shown]
                table.add_row(Text(line.label), str(len(line.outcomes)), *cells)
            console.print(table)
    for remark in remarks(comparison):
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
            return {**values, "printed": None}
        place = {"value": found[0], "source": found[1].table.source, "verified": found[1].table.verified}
        return {**values, "printed": place}

    means = {(MEAN, "iou"): "miou", (MEAN, "f1"): "mean_f1", (OVERALL, "iou"): "oa"}
    return {
        "label": line.label,
        "seeds": [outcome.result.seed for outcome in line.outcomes],
        "folders": [str(outcome.folder) for outcome in line.outcomes],
        **{means[column.line, column.measure]: score(column) for column in MEANS},
        "iou": {column.line: score(column) for column in comparison.columns("iou")},
        "f1": {column.line: score(column) for column in comparison.columns("f1")},
    }


def _kinds(comparison: Comparison, column: Column) -> tuple[bool, ...]:
    """Ours, and print where any row has some."""
    return (False, True) if any(line.in_print(column) for line in comparison.lines) else (False,)


def _is_best(comparison: Comparison, line: Line, column: Column) -> bool:
    mean = line.mean(column)
    return line.row != CEILING and mean is not None and round(mean, 2) == best(comparison, column)


def _markdown_cell(comparison: Comparison, line: Line, column: Column, is_printed: bool) -> str:
    if is_printed:
        return printed(line, column)
    text = ours(line, column)
    return f"**{text}**" if _is_best(comparison, line, column) else text


def _terminal_cell(comparison: Comparison, line: Line, column: Column) -> Text:
    text = Text(ours(line, column), style="bold" if _is_best(comparison, line, column) else "")
    return text.append(f"\n{below}", style="not bold dim") if (below := printed(line, column)) else text
