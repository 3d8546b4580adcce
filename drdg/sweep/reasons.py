"""Station 6, sweep: why a cell has no scores, by the notes of all jobs that lead to it, other rows' among them.

Asked by the sweep's last job, when no other is alive, so that a note that says ``running`` is one of a lost job.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from drdg.sweep.notes import Note, read_note
from drdg.sweep.spec import ROW_STAGES, SHARDS

DONE, FAILED, MISSING = "done", "failed", "missing"


def reason_for(sweep: Mapping[str, Any], cell: Mapping[str, Any], folder: Path) -> tuple[str, str]:
    """What became of a cell of ``sweep.json``, ``done``, ``failed`` or ``missing``, and the sentence that says why.

    Of several culprits, those that failed are blamed before those that were lost, and these before those that never
    ran; and of each kind the first.
    """
    jobs = sweep["jobs"]
    notes = {key: read_note(folder / "jobs" / key) for key in [*cell["jobs"], cell["evaluate"]]}
    if _is_done(jobs, notes, cell["evaluate"]):
        return DONE, ""
    culprits = _culprits(jobs, notes, cell["evaluate"])
    # What was said of other settings says nothing.
    said = {key: note for key in culprits if (note := notes[key]) is not None and note.digest == jobs[key]["digest"]}
    for words in (("failed",), ("running", "again"), ("done",)):
        for key, note in said.items():
            if note.said in words:
                state = FAILED if note.said == "failed" else MISSING
                return state, f"{called(key, jobs[key]['stage'])} {_end_of(note)}"
    return MISSING, f"{called(culprits[0], jobs[culprits[0]]['stage'])} has not run"


def _end_of(note: Note) -> str:
    """How a job without an outcome ended."""
    if note.said == "failed":
        return f"failed: {note.error or 'it did not say why'}"
    if note.said == "done":
        return f"was done, but its outcome {note.result} is gone"
    place = ", ".join([f"job {note.job_id}"] * bool(note.job_id) + [f"on {note.host}"] * bool(note.host))
    log = f"; its log is {note.log}" if note.log else ""
    return f"ended without a word{f' ({place})' if place else ''}{log}"


def called(key: str, stage: str) -> str:
    """A job in words: ``stage gan of row dualgan``, ``stage shards``."""
    if stage == SHARDS or stage not in ROW_STAGES:
        return f"stage {stage}"
    return f"stage {stage} of row {key.split('/')[-2]}"


def _culprits(jobs: Mapping[str, Any], notes: Mapping[str, Note | None], key: str) -> list[str]:
    """The jobs without an outcome that ``key`` needs, by way of such only, first to last, itself the last."""
    found: list[str] = []

    def visit(key: str) -> None:
        if key in found or _is_done(jobs, notes, key):
            return
        for need in jobs[key]["needs"]:
            visit(need)
        found.append(key)

    visit(key)
    return found


def _is_done(jobs: Mapping[str, Any], notes: Mapping[str, Note | None], key: str) -> bool:
    note = notes[key]
    return note is not None and note.is_done(jobs[key]["digest"])
