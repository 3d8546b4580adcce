"""Station 7, comparison: the tables for a spreadsheet: one line for each number, and one for each that is missing."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence

from drdg.comparison.chapters import Chapter, Part
from drdg.comparison.significance import Contrast
from drdg.comparison.table import MEANS, Column, Comparison, Line
from drdg.report import MEAN

SCORES = (
    *("direction", "table", "row", "label", "kind", "seed", "seeds", "measure", "class", "percent", "sd"),
    *("printed", "printed_source", "printed_verified", "difference", "problem"),
)
"""``kind``: ``seed`` for what one run scored, ``mean`` for the mean over the seeds, which ``seeds`` counts, ``missing``
for a run without scores, ``not run`` for a row that nobody asked for."""
CONTRASTS = ("direction", "reference", "other", "seeds", "tops", "difference", "low", "high", "p", "reason")


def scores(part: Part, chapter: Chapter) -> str:
    """One of the tables, tidy."""
    comparison = part.comparison
    plain = {"direction": chapter.direction, "table": part.name}
    found = []
    for line in comparison.lines:
        own = {**plain, "row": line.row, "label": line.label}
        found += [{**own, **entry} for entry in _line(comparison, line)]
    return _written(SCORES, found)


def contrasts(found: Sequence[Contrast], chapter: Chapter) -> str:
    """The differences between rows."""
    lines = [
        {
            "direction": chapter.direction,
            "reference": contrast.reference,
            "other": contrast.other,
            "seeds": " ".join(map(str, contrast.seeds)),
            "tops": " ".join(contrast.tops),
            "difference": contrast.points,
            "low": contrast.low,
            "high": contrast.high,
            "p": contrast.p,
            "reason": contrast.reason,
        }
        for contrast in found
    ]
    return _written(CONTRASTS, lines)


def _line(comparison: Comparison, line: Line) -> Iterable[Mapping[str, object]]:
    for column in [*MEANS, *comparison.columns("iou"), *comparison.columns("f1")]:
        name = _measure(column)
        for seed, score in line.by_seed(column).items():
            yield {**name, "kind": "seed", "seed": seed, "percent": score}
        mean, found = line.mean(column), line.in_print(column)
        if mean is None and found is None:
            continue
        values = {"kind": "mean", "seeds": len(line.values(column)), "percent": mean, "sd": line.sd(column)}
        if found is not None:
            place = {"printed_source": found[1].table.source, "printed_verified": found[1].table.verified}
            values |= {"printed": found[0], **place, "difference": line.difference(column)}
        yield {**name, **values}
    for outcome in comparison.missing:
        if outcome.result.name == line.row:
            yield {"kind": "missing", "seed": outcome.result.seed, "problem": outcome.result.problem}
    if line.row in comparison.not_run:
        yield {"kind": "not run", "problem": "not run"}


def _measure(column: Column) -> dict[str, str]:
    mean = {"iou": "miou", "f1": "mean_f1"}[column.measure]
    if column in MEANS:
        return {"measure": mean if column.line == MEAN else "oa", "class": ""}
    return {"measure": column.measure, "class": column.line}


def _written(names: Sequence[str], lines: Iterable[Mapping[str, object]]) -> str:
    file = io.StringIO()
    writer = csv.DictWriter(file, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return file.getvalue()
