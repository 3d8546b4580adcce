"""Station 6, sweep: what a job writes down of itself, in its own folder, for whoever looks at the sweep.

A note is written whole by the job alone. It says what the job did, not what became of its process: a job whose note
says ``running`` may have been killed, which only the scheduler knows.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from drdg.files import write_json

NOTE, PROGRESS = "note.json", "progress.json"
Said = Literal["running", "again", "done", "failed"]


@dataclass(frozen=True)
class Note:
    """What a job has said last."""

    said: Said
    """``again``: it was interrupted, has saved, and waits to continue."""
    digest: str
    """The job's (``JobSpec.digest``)."""
    began: float
    """Seconds since 1970, of its first start."""
    at: float
    """When this was written."""
    job_id: str = ""
    """The scheduler's, of the start that wrote this."""
    host: str = ""
    restarts: int = 0
    log: str = ""
    """The file that holds what it printed."""
    error: str = ""
    """Its last line, of a failed one."""
    stage_digest: str = ""
    """Of a done stage of a row: its MLflow run's tag ``drdg.digest``."""
    result: str = ""
    """Of a done job: the folder that holds its outcome; without it, it is not done any more."""

    def is_done(self, digest: str) -> bool:
        """Whether the job of this digest is done and what it made is still there."""
        return self.said == "done" and self.digest == digest and Path(self.result).exists()


@dataclass(frozen=True)
class Progress:
    """How far a running job is."""

    done: int
    total: int
    left_s: float | None
    """Seconds that it still takes, by its pace so far."""
    what: str = ""
    at: float = 0.0


def write_note(place: Path, note: Note) -> None:
    """Write a job's note into its folder, whole."""
    write_json(place / NOTE, asdict(note))


def read_note(place: Path) -> Note | None:
    """A job's note; None where there is none or it cannot be read."""
    values = _read(place / NOTE)
    try:
        return None if values is None else Note(**values)
    except TypeError:  # of another version
        return None


def read_progress(place: Path) -> Progress | None:
    """How far a job is, by what it wrote last (``drdg.progress.tell``)."""
    values = _read(place / PROGRESS)
    try:
        return None if values is None else Progress(**values)
    except TypeError:
        return None


def _read(path: Path) -> dict[str, Any] | None:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return values if isinstance(values, dict) else None
