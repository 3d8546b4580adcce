"""Station 7, report: what is shown. One table of all rows (paper, Table I), on the terminal, as JSON and as Markdown.

A row without scores is named with its reason wherever the table appears; it is never left out. Pictures: ``panels.py``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from drdg.files import write_json, write_text

# What ``metrics.json`` of an evaluation must hold for a row to be shown.
KEYS = ("split", "tops", "classes", "iou", "f1", "miou", "mean_f1", "oa", "absent", "definition")
MEAN, OVERALL = "mean", "overall accuracy"
VALUE_WIDTH = len("100.0 +12.3")  # a score and its difference to the first row
GAP = 3  # a terminal column's border and margins


@dataclass(frozen=True)
class RowResult:
    """One row of the table: its scores as evaluation wrote them, or why there are none."""

    name: str
    seed: int
    metrics: Mapping[str, Any] | None
    """Content of the row's ``metrics.json``; scores in percent by class name."""
    problem: str | None = None
    """Why ``metrics`` is None."""

    def __post_init__(self) -> None:
        assert (self.metrics is None) != (self.problem is None), "a row has either scores or a reason for having none"

    @classmethod
    def read(cls, name: str, seed: int, path: Path) -> RowResult:
        """Return the row scored in ``path`` (a ``metrics.json``); a file that cannot be used becomes its problem."""
        try:
            metrics = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            return cls(name, seed, None, f"{path}: {error.strerror or error}")
        except ValueError:
            return cls(name, seed, None, f"{path} is not JSON; evaluate the row again")
        missing = [key for key in KEYS if not isinstance(metrics, dict) or key not in metrics]
        if missing:
            return cls(name, seed, None, f"{path} has no {', '.join(missing)}; evaluate the row again")
        return cls(name, seed, metrics)

    @property
    def scores(self) -> Mapping[str, Any]:
        """The scores of a row that has some."""
        assert self.metrics is not None, self.name
        return self.metrics

    def score(self, measure: str, line: str) -> float | None:
        """Return IoU or F1 (``iou``, ``f1``) of a class, of the ``mean``, or the ``overall accuracy``, in percent."""
        assert measure in ("iou", "f1"), measure
        if self.metrics is None:
            return None
        if line == MEAN:
            return float(self.metrics["miou" if measure == "iou" else "mean_f1"])
        if line == OVERALL:
            return float(self.metrics["oa"]) if measure == "iou" else None
        value = self.metrics[measure].get(line)
        return None if value is None else float(value)


def write_report(
    rows: Sequence[RowResult],
    directory: Path,
    seconds: float,
    *,
    title: str = "DRDG",
    notes: Sequence[str] = (),
    console: Console | None = None,
) -> dict[str, Any]:
    """Print the table and write ``report.json`` and ``report.md`` to ``directory``; return what the JSON holds.

    ``seconds``: how long the run took. ``notes``: sentences shown beside the numbers. The first row is the one that
    others are compared with. Raises ``ValueError`` when rows were scored over different classes, TOPs or by different
    definitions, as their numbers then do not belong in one table.
    """
    assert rows, "a report has rows"
    assert len({row.name for row in rows}) == len(rows), "a row's name is its key"
    _refuse_unlike(rows)
    report = summarise(rows, seconds, notes)
    write_text(directory / "report.md", markdown(rows, title, seconds, notes))
    write_json(directory / "report.json", report)
    print_tables(rows, title, notes, console or Console())
    return report


def summarise(rows: Sequence[RowResult], seconds: float, notes: Sequence[str] = ()) -> dict[str, Any]:
    """Return the report as data: ``rows.<name>`` with the scores in percent, ``missing.<name>`` with the reason."""
    there = _scored(rows)
    kept = ("split", "tops", "miou", "mean_f1", "oa", "iou", "f1", "absent")
    return {
        "seconds": round(seconds, 1),
        "definition": there[0].scores["definition"] if there else None,
        "notes": list(notes),
        "classes": _classes(rows),
        "rows": {
            row.name: {"seed": row.seed} | {key: row.metrics[key] for key in kept} for row in there if row.metrics
        },
        "missing": {row.name: row.problem for row in rows if row.metrics is None},
    }


def markdown(rows: Sequence[RowResult], title: str, seconds: float, notes: Sequence[str] = ()) -> str:
    """Return the report as Markdown: one table of IoU and one of F1, rows down and classes across."""
    text = [f"# {title}", ""]
    classes = _classes(rows)
    if classes:
        text += _markdown_table(rows, "iou", [*classes, MEAN, OVERALL], "IoU")
        text += _markdown_table(rows, "f1", [*classes, MEAN], "F1")
    text += [f"- {remark}" for remark in _remarks(rows, notes)]
    return "\n".join([*text, f"- The run took {seconds:.0f} s.", ""])


def print_tables(rows: Sequence[RowResult], title: str, notes: Sequence[str], console: Console) -> None:
    """Print IoU and F1 of every class, classes down and as many rows across as the terminal has room for."""
    there, lines = _scored(rows), [*_classes(rows), MEAN, OVERALL]
    row_width = max(VALUE_WIDTH, *(len(row.name) for row in rows)) + VALUE_WIDTH + 2 * GAP
    room = max(1, (console.width - max(map(len, lines)) - GAP - 1) // row_width)
    for start in range(0, len(there), room):
        shown = there[start : start + room]
        table = Table(title=title, title_style="bold", header_style="bold")
        table.add_column("percent")
        for row in shown:
            table.add_column(Text(f"{row.name}\nIoU"), justify="right", no_wrap=True)
            table.add_column(Text("\nF1"), justify="right", no_wrap=True)
        for line in lines:
            cells = [_printed(rows, row, measure, line) for row in shown for measure in ("iou", "f1")]
            table.add_row(Text(line.replace("_", " ")), *cells, end_section=line == lines[-3])
        console.print(table)
    for remark in _remarks(rows, notes):
        console.print(Text(remark))


def _printed(rows: Sequence[RowResult], row: RowResult, measure: str, line: str) -> Text:
    value, _, difference = _cell(rows, row, measure, line).partition(" ")
    text = Text(value, style="bold" if _is_best(rows, row, measure, line) else "")
    return text.append(f" {difference}", style="not bold dim") if difference else text


def _markdown_table(rows: Sequence[RowResult], measure: str, lines: Sequence[str], heading: str) -> list[str]:
    text = [
        f"| {heading}, percent | " + " | ".join(line.replace("_", " ").replace("|", r"\|") for line in lines) + " |",
        "|---" * (len(lines) + 1) + "|",
    ]
    for row in rows:
        cells = [_cell(rows, row, measure, line) for line in lines]
        bold = [_is_best(rows, row, measure, line) for line in lines]
        text.append(
            f"| {row.name} | " + " | ".join(f"**{c}**" if b else c for c, b in zip(cells, bold, strict=True)) + " |"
        )
    return [*text, ""]


def _cell(rows: Sequence[RowResult], row: RowResult, measure: str, line: str) -> str:
    value, first = row.score(measure, line), rows[0].score(measure, line)
    if value is None:
        return "" if measure == "f1" and line == OVERALL else "–"
    return f"{value:.1f}" if row is rows[0] or first is None else f"{value:.1f} {value - first:+.1f}"


def _is_best(rows: Sequence[RowResult], row: RowResult, measure: str, line: str) -> bool:
    """Whether the row's shown value is the highest of several; equal shown values are equally best."""
    values = [round(value, 1) for other in rows if (value := other.score(measure, line)) is not None]
    own = row.score(measure, line)
    return own is not None and len(values) > 1 and round(own, 1) == max(values)


def _remarks(rows: Sequence[RowResult], notes: Sequence[str]) -> list[str]:
    there = _scored(rows)
    remarks = [f"No scores for {row.name} (seed {row.seed}): {row.problem}." for row in rows if row.metrics is None]
    if len(there) > 1 and there[0] is rows[0]:
        remarks.append(f"After each value, its difference to {rows[0].name} in points; the best of a line is bold.")
    if there:
        scores, seeds = there[0].scores, sorted({row.seed for row in there})
        seed = f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
        remarks.append(f"Split {scores['split']}, TOPs {', '.join(map(str, scores['tops']))}; {seed}.")
        if scores["absent"]:
            remarks.append(f"Absent from the labels, so without scores: {', '.join(scores['absent'])}.")
        remarks.append(str(scores["definition"]))
    return [*remarks, *notes]


def _scored(rows: Sequence[RowResult]) -> list[RowResult]:
    return [row for row in rows if row.metrics is not None]


def _classes(rows: Sequence[RowResult]) -> list[str]:
    return [str(name) for row in _scored(rows)[:1] for name in row.scores["classes"]]


def _refuse_unlike(rows: Sequence[RowResult]) -> None:
    there = _scored(rows)
    for row in there[1:]:
        for key in ("classes", "split", "tops", "definition"):
            if row.scores[key] != there[0].scores[key]:
                raise ValueError(
                    f"rows {there[0].name} and {row.name} cannot stand in one table, as they were scored with another "
                    f"{key}; evaluate both with one configuration"
                )


def flat_scores(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Scores under the names that every run has in MLflow."""
    scores = {f"target/{name}_percent": metrics[name] for name in ("miou", "mean_f1", "oa")}
    for kind in ("iou", "f1"):
        scores |= {f"target/{kind}_percent/{name}": value for name, value in metrics[kind].items()}
    return scores
