"""Station 7, comparison: mean and spread of each row over its seeds, in the paper's order, beside printed numbers."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from drdg.comparison.runs import Outcome
from drdg.published import Measure, Published, published_for
from drdg.report import MEAN, OVERALL

# How each row is called where a reader compares, in the order of the paper's two tables, the ceiling last. What is made
# after a description whose numbers were not published is no reproduction, and says so by "-style".
LABELS = {
    "baseline": "Baseline",
    "baseline_rescaled": "Baseline, rescaled",
    "cyclegan": "CycleGAN",
    "benjdira": "Benjdira-style",
    "adaptsegnet": "AdaptSegNet",
    "dualgan": "DualGAN",
    "mucss": "MUCSS-style",
    "rdg": "RDG",
    "rdg_adv1": "RDG, λ_adv 1",
    "rdg_osa": "RDG with OSA",
    "drdg_wo_dsl": "DRDG w/o DSL",
    "drdg_wo_dccl": "DRDG w/o DCCL",
    "drdg": "DRDG",
    "drdg_osa": "DRDG with OSA",
    "oracle": "Oracle (learns from target labels)",
}
CEILING = "oracle"
# The rows of the paper's two tables.
TABLES = {
    "main": ("baseline", "benjdira", "adaptsegnet", "mucss", "rdg", "drdg"),
    "ablation": ("rdg", "drdg_wo_dsl", "drdg_wo_dccl", "drdg"),
}


@dataclass(frozen=True)
class Column:
    """One score of the table."""

    measure: Measure
    line: str
    """A class, or ``MEAN`` or ``OVERALL`` of drdg.report."""
    heading: str


MEANS = (Column("iou", MEAN, "mIoU"), Column("f1", MEAN, "mean F1"), Column("iou", OVERALL, "OA"))


@dataclass(frozen=True)
class Line:
    """One row of the table over its seeds; none where it failed with each."""

    row: str
    outcomes: tuple[Outcome, ...]
    """The runs that have scores, by seed."""
    printed: tuple[Published, ...]
    """What is printed of it in this direction, the preferred table first."""

    @property
    def label(self) -> str:
        """Its name for readers."""
        return LABELS.get(self.row, self.row)

    def values(self, column: Column) -> list[float]:
        """Its score with each seed, in percent; empty for a class without a score."""
        scores = [outcome.result.score(column.measure, column.line) for outcome in self.outcomes]
        return [score for score in scores if score is not None]

    def by_seed(self, column: Column) -> dict[int, float]:
        """Its score with each seed that has one, in percent."""
        found = {outcome.result.seed: outcome.result.score(column.measure, column.line) for outcome in self.outcomes}
        return {seed: score for seed, score in found.items() if score is not None}

    def mean(self, column: Column) -> float | None:
        """The mean over the seeds."""
        values = self.values(column)
        return statistics.fmean(values) if values else None

    def sd(self, column: Column) -> float | None:
        """The sample standard deviation over the seeds (n - 1 below the sum), which takes two."""
        values = self.values(column)
        return statistics.stdev(values) if len(values) > 1 else None

    def difference(self, column: Column) -> float | None:
        """How much more the mean is than what is printed, in points."""
        mean, found = self.mean(column), self.in_print(column)
        return None if mean is None or found is None else mean - found[0]

    def in_print(self, column: Column) -> tuple[float, Published] | None:
        """The printed score and its place, from the most preferred table that has it."""
        if column.line == OVERALL:
            return None
        for entry in self.printed:
            score = entry.score(column.measure, None if column.line == MEAN else column.line)
            if score is not None:
                return score, entry
        return None


@dataclass(frozen=True)
class Comparison:
    """The whole table."""

    lines: tuple[Line, ...]
    missing: tuple[Outcome, ...]
    """Rows that a run has no scores for."""
    scoring: Mapping[str, Any]
    """How all of it was scored: direction, split, tops, classes, absent, protocol and definition."""
    published: tuple[Published, ...]
    """All that is printed about this direction."""
    not_run: tuple[str, ...] = ()
    """Rows that have a line though nobody asked for a run of them."""

    def columns(self, measure: Measure) -> list[Column]:
        """One column for each class that has scores."""
        absent = self.scoring.get("absent", ())
        there = [str(name) for name in self.scoring.get("classes", ()) if name not in absent]
        return [Column(measure, name, name.replace("_", " ")) for name in there]


def compare(outcomes: Sequence[Outcome], table: str | None = None) -> Comparison:
    """Put the outcomes of :func:`drdg.comparison.runs.collect` into one table; ``table``: only rows of that of TABLES.

    Raises ``ValueError`` when none of them has scores.
    """
    kept = [outcome for outcome in outcomes if table is None or outcome.result.name in TABLES[table]]
    scored = [outcome for outcome in kept if outcome.result.metrics is not None]
    if not scored:
        wanted = "" if table is None else f" of the {table} table ({', '.join(TABLES[table])})"
        raise ValueError(f"no run has scores of a row{wanted}; give runs that do")
    scoring = scored[0].result.scores
    entries = published_for(str(scoring.get("direction")))
    if table is not None:
        entries = tuple(entry for entry in entries if entry.row in TABLES[table])
    lines = _lines(scored, {outcome.result.name for outcome in kept}, entries)
    missing = tuple(outcome for outcome in kept if outcome.result.metrics is None)
    return Comparison(lines, missing, scoring, entries)


def tabulate(outcomes: Sequence[Outcome], rows: Sequence[str], direction: str) -> Comparison:
    """Put the outcomes of ``rows`` into one table that has a line for each of them, whether or not there is any."""
    kept = [outcome for outcome in outcomes if outcome.result.name in rows]
    scored = [outcome for outcome in kept if outcome.result.metrics is not None]
    # A table without scores of its own is scored as the direction's others are, for the classes' columns.
    elsewhere = [outcome.result.metrics for outcome in outcomes if outcome.result.metrics is not None]
    scoring = {**(elsewhere[0] if elsewhere else {}), "direction": direction}
    entries = tuple(entry for entry in published_for(direction) if entry.row in rows)
    missing = tuple(outcome for outcome in kept if outcome.result.metrics is None)
    begun = {outcome.result.name for outcome in kept}
    not_run = tuple(row for row in in_order(rows) if row not in begun)
    return Comparison(_lines(scored, set(rows), entries), missing, scoring, entries, not_run)


def _lines(scored: Sequence[Outcome], names: set[str], entries: Sequence[Published]) -> tuple[Line, ...]:
    lines = []
    for name in in_order(names):
        own = sorted((outcome for outcome in scored if outcome.result.name == name), key=lambda o: o.result.seed)
        lines.append(Line(name, tuple(own), tuple(entry for entry in entries if entry.row == name)))
    return tuple(lines)


def best(comparison: Comparison, column: Column) -> float | None:
    """The highest mean of a column as it is shown, where several rows have one; the ceiling does not compete."""
    means = [mean for line in comparison.lines if line.row != CEILING and (mean := line.mean(column)) is not None]
    return round(max(means), 2) if len(means) > 1 else None


def is_best(comparison: Comparison, line: Line, column: Column) -> bool:
    """Whether a row's mean, as it is shown, is the best of its column."""
    mean = line.mean(column)
    return line.row != CEILING and mean is not None and round(mean, 2) == best(comparison, column)


def in_order(names: Iterable[str]) -> list[str]:
    """Rows as they stand in a table."""
    return sorted(names, key=_place)


def _place(name: str) -> tuple[int, str]:
    """Where a row stands: as in the paper; then what is not known here, by name; then the ceiling."""
    known = list(LABELS)
    return (len(known), name) if name not in LABELS else (known.index(name) + (2 if name == CEILING else 0), name)
