"""Station 6, stages: the last job of a sweep: what became of each cell, told to MLflow, and the report from there.

A cell's run in MLflow says what is so now, whatever was so before: a cell that was scored with other settings, or whose
error was mended, is settled anew each time.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from drdg.comparison.store_report import write_report
from drdg.report import flat_scores
from drdg.stages.cell import KEPT, SPOOL
from drdg.sweep.asked import SMOKE
from drdg.sweep.notes import read_note
from drdg.sweep.reasons import MISSING, reason_for
from drdg.sweep.record import current_uri
from drdg.sweep.spec import JobSpec
from drdg.tracking import Tracking, register_best, sync
from drdg.tracking.models import SEGMENTOR
from drdg.tracking.query import SweepRecord, open_sweep

DONE = "done"
CEILING = "oracle"


def report(spec: JobSpec) -> Path:
    """Settle every cell, write the report into the sweep's folder ``report`` and to MLflow; return its first page.

    Raises ``ValueError`` when the store cannot be reached: what it was to get waits in the spool.
    """
    return settle_and_report(spec.sweep)


def settle_and_report(sweep: Mapping[str, Any]) -> Path:
    """As :func:`report`, of the sweep that ``sweep.json`` describes."""
    folder = Path(sweep["folder"])
    uri = current_uri(folder, sweep["uri"])  # the store may have moved since, and a spec knows no password
    tracking = Tracking(uri, sweep["experiment"], folder)
    sync(folder / SPOOL, tracking)
    states = {cell["key"]: settle(sweep, cell, tracking) for cell in sweep["cells"]}
    record = open_sweep(uri, sweep["experiment"], sweep["run_id"], folder)
    out = folder / "report"
    write_report(record, out)
    if not record.name.endswith(SMOKE):  # whose models nobody wants
        for direction in sweep["directions"]:
            try:
                register(record, direction, tracking)
            except ValueError as error:  # the report is there all the same
                print(f"warning: no model of {direction} is registered as the best: {error}", file=sys.stderr)
    failed = [key for key, state in states.items() if state != DONE]
    tracking.settle(
        sweep["run_id"],
        "FAILED" if failed else "FINISHED",
        tags={"drdg.error": f"no scores for {', '.join(failed)}"} if failed else {},
        remove_tags=() if failed else ("drdg.error",),
        metrics={"sweep/cells": len(states), "sweep/cells_done": len(states) - len(failed)},
        artifacts={out: "report"},
    )
    return out / "index.html"


def settle(sweep: Mapping[str, Any], cell: Mapping[str, Any], tracking: Tracking) -> str:
    """Tell MLflow what became of a cell, and return its state: ``done``, ``failed`` or ``missing``."""
    folder = Path(sweep["folder"])
    metrics = metrics_of(folder, cell)
    if metrics is None:
        state, reason = reason_for(sweep, cell, folder)
        if state == DONE:
            state, reason = (
                MISSING,
                "its scores are gone; remove what is left in the evaluation's folder",
            )
        tags = {"drdg.state": state, "drdg.error": reason, "drdg.result": ""}
        tracking.settle(cell["run_id"], "FAILED", tags=tags, void="target/")
        return state
    # As the evaluation has written it down: the notes of earlier stages may be those of other settings by now.
    chain = json.loads((metrics.parent / KEPT).read_bytes())["stages"]
    tags = {"drdg.state": DONE, "drdg.result": cell["digest"]}
    tags |= {f"drdg.stage_digest.{stage}": known_by for stage, known_by in chain.items()}
    tracking.settle(
        cell["run_id"],
        "FINISHED",
        tags=tags,
        remove_tags=("drdg.error",),
        metrics=flat_scores(json.loads(metrics.read_bytes())),
        void="target/",
        artifacts={metrics: None},
    )
    return DONE


def metrics_of(folder: Path, cell: Mapping[str, Any]) -> Path | None:
    """The file of a cell's present scores; None where it has none."""
    note = read_note(folder / "jobs" / cell["evaluate"])
    if note is None or not note.is_done(cell["digest"]):
        return None
    path = Path(note.result) / "metrics.json"
    return path if path.is_file() and (path.parent / KEPT).is_file() else None


def register(record: SweepRecord, direction: str, tracking: Tracking) -> None:
    """Register the best segmentor of a direction, of those that learned from no target labels, as its alias ``best``.

    Only present scores compete: those of other settings are of another experiment. Raises ``ValueError`` when the store
    does not have the best one.
    """
    scored = [
        (cell.metrics["miou"], record.stage_run(cell, "segment"), cell)
        for cell in record.cells
        if cell.direction == direction and cell.row != CEILING and cell.metrics is not None
    ]
    if not scored:
        return
    score, run_id, best = max(scored, key=lambda entry: entry[0])
    if run_id is None:
        raise ValueError(f"the run in which the segmentor of {best.key} was trained is not in the store")
    name = f"drdg-{direction}-segmentor"
    register_best(tracking, name, run_id, SEGMENTOR, score, best.stage_digests["segment"])
