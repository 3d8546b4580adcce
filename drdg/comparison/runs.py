"""Station 7, comparison: finished runs, found in their folders, and whether they belong in one table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drdg.report import RowResult

METRICS = Path("evaluate", "metrics.json")  # in a row's folder; what an evaluation leaves
STAGES = ("gan", "translate", "segment", "evaluate")  # the folders of which a row's folder has some
ALIKE = ("direction", "classes", "split", "tops", "definition")  # what must be equal in all of a table


@dataclass(frozen=True)
class Outcome:
    """What one run made of one row: its scores, or why there are none."""

    folder: Path
    """The run's."""
    result: RowResult

    @property
    def place(self) -> str:
        """Which row of which run, in words."""
        return f"row {self.result.name} of {self.folder}"


def collect(folders: Sequence[Path]) -> list[Outcome]:
    """The outcome of every row of every run in ``folders``.

    Raises ``ValueError`` for a folder that is no run's or has no scores yet, for a row that two runs have with one
    seed, and for scores that were computed differently.
    """
    outcomes = [outcome for folder in folders for outcome in read_run(folder)]
    refuse_repeated(outcomes)
    refuse_unlike(outcomes)
    return outcomes


def read_run(folder: Path) -> list[Outcome]:
    """The outcome of every row that a run began or was to have."""
    report = read_object(folder / "report.json")
    reported, missing = report.get("rows", {}), report.get("missing", {})
    begun = [path.parent.name for stage in STAGES for path in sorted(folder.glob(f"*/{stage}")) if path.is_dir()]
    names = list(dict.fromkeys([*reported, *missing, *begun]))
    if not names:
        raise ValueError(f"{folder}: is no folder of a run; name one that launch/pipeline.py has written, as runs/demo")
    said = [read_object(folder / name / METRICS).get("seed") for name in names]
    said += [scores.get("seed") for scores in reported.values()]
    seed = next((value for value in said if value is not None), None)
    if seed is None:
        raise ValueError(f"{folder}: none of its rows has scores yet; finish the run, or leave it out")
    return [Outcome(folder, read_row(folder, name, int(seed), missing.get(name))) for name in names]


def read_row(folder: Path, name: str, seed: int, reason: str | None) -> RowResult:
    """One row's scores, or ``reason`` or how far it came, where it has none."""
    path = folder / name / METRICS
    if path.is_file():
        return RowResult.read(name, seed, path)
    begun = [stage for stage in STAGES if (folder / name / stage).is_dir()]
    return RowResult(name, seed, None, reason or f"it was not evaluated; the last stage begun is {begun[-1]}")


def read_object(path: Path) -> dict[str, Any]:
    """What a JSON file holds; nothing, where there is none or it is damaged, which reading a row then says."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def refuse_repeated(outcomes: Sequence[Outcome]) -> None:
    """Raise ``ValueError`` where two runs have a row with one seed: the same number twice would narrow the spread."""
    seen: dict[tuple[str, int], Outcome] = {}
    for outcome in outcomes:
        if outcome.result.metrics is None:
            continue
        key = (outcome.result.name, outcome.result.seed)
        if key in seen:
            raise ValueError(
                f"{seen[key].folder} and {outcome.folder} both have row {key[0]} with seed {key[1]}; "
                "give runs of different seeds"
            )
        seen[key] = outcome


def refuse_unlike(outcomes: Sequence[Outcome]) -> None:
    """Raise ``ValueError`` where two rows were scored differently."""
    scored = [outcome for outcome in outcomes if outcome.result.metrics is not None]
    for outcome in scored[1:]:
        for key in ALIKE:
            if outcome.result.scores.get(key) != scored[0].result.scores.get(key):
                raise ValueError(
                    f"{scored[0].place} and {outcome.place} cannot stand in one table, as they were scored with "
                    f"another {key}; evaluate both with one configuration"
                )
