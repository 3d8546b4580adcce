"""Station 7, comparison: a sweep as it is told: for each direction the tables, the differences, and what is missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from drdg.comparison.runs import ALIKE, Outcome
from drdg.comparison.significance import Contrast, contrasts
from drdg.comparison.table import TABLES, Comparison, in_order, tabulate
from drdg.comparison.write import title_of
from drdg.report import KEYS, RowResult
from drdg.tracking.query import CellRecord, SweepRecord

PARTS = (("table1", "Table I, methods", "main"), ("table2", "Table II, ablation", "ablation"))
OTHERS = ("others", "Other rows")


@dataclass(frozen=True)
class Part:
    """One table."""

    name: str
    """Of its files."""
    title: str
    comparison: Comparison


@dataclass(frozen=True)
class Chapter:
    """One direction of a sweep."""

    direction: str
    cells: tuple[CellRecord, ...]
    outcomes: tuple[Outcome, ...]
    """What became of each cell, in their order."""
    parts: tuple[Part, ...]
    contrasts: tuple[Contrast, ...]

    @property
    def title(self) -> str:
        """The direction as a heading."""
        return title_of(self.direction)

    @property
    def whole(self) -> Comparison:
        """All rows that the sweep has, in one table."""
        return tabulate(self.outcomes, self.rows, self.direction)

    @property
    def rows(self) -> list[str]:
        """The rows that the sweep has, in the order of the tables."""
        return in_order({outcome.result.name for outcome in self.outcomes})

    @property
    def missing(self) -> list[tuple[str, str]]:
        """Each cell without scores, and why."""
        return [
            (cell.key, outcome.result.problem)
            for cell, outcome in zip(self.cells, self.outcomes, strict=True)
            if outcome.result.problem is not None
        ]

    def shown(self, cell: CellRecord) -> bool:
        """Whether a cell's scores are in the tables."""
        return self.outcomes[self.cells.index(cell)].result.metrics is not None


def chapters(record: SweepRecord) -> list[Chapter]:
    """The directions of a sweep, in its order."""
    return [_chapter(record, direction) for direction in record.directions]


def _chapter(record: SweepRecord, direction: str) -> Chapter:
    cells = tuple(cell for cell in record.cells if cell.direction == direction)
    outcomes = tuple(_alike([_outcome(cell) for cell in cells]))
    in_tables = {row for rows in TABLES.values() for row in rows}
    others = in_order({cell.row for cell in cells} - in_tables)
    parts = [Part(name, title, tabulate(outcomes, TABLES[table], direction)) for name, title, table in PARTS]
    if others:
        parts.append(Part(*OTHERS, tabulate(outcomes, others, direction)))
    return Chapter(direction, cells, outcomes, tuple(parts), tuple(contrasts(outcomes)))


def _outcome(cell: CellRecord) -> Outcome:
    """A cell as the tables take it; scores that lack something become its problem."""
    folder = Path(cell.direction, f"seed{cell.seed}")
    if cell.metrics is None:
        problem = cell.problem or "its scores are not in the store"
        return Outcome(folder, RowResult(cell.row, cell.seed, None, problem.rstrip(".")))
    lacking = [key for key in KEYS if key not in cell.metrics]
    if lacking:
        problem = f"its metrics.json has no {', '.join(lacking)}; evaluate the row again"
        return Outcome(folder, RowResult(cell.row, cell.seed, None, problem))
    return Outcome(folder, RowResult(cell.row, cell.seed, cell.metrics))


def _alike(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """The outcomes, those that were scored otherwise than most with that as their problem.

    Folders of runs are refused then; a sweep's report must come about whatever its cells have become.
    """
    scored = [outcome for outcome in outcomes if outcome.result.metrics is not None]
    if not scored:
        return list(outcomes)
    manners = [tuple(repr(outcome.result.scores.get(key)) for key in ALIKE) for outcome in scored]
    usual = max(manners, key=manners.count)
    model = scored[manners.index(usual)]
    found = []
    for outcome in outcomes:
        other = [key for key in ALIKE if outcome.result.metrics and _differs(outcome, model, key)]
        if other:
            problem = f"it was scored with another {' and '.join(other)} than {model.place}, so it is not compared"
            outcome = replace(outcome, result=RowResult(outcome.result.name, outcome.result.seed, None, problem))
        found.append(outcome)
    return found


def _differs(one: Outcome, other: Outcome, key: str) -> bool:
    return bool(one.result.scores.get(key) != other.result.scores.get(key))
