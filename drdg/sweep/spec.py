"""Station 6, sweep: one job, with all that it must be told, so that it depends on no file that may change under it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

REPORT = "report"
SHARDS = "shards"
ROW_STAGES = ("gan", "translate", "segment", "evaluate")


@dataclass(frozen=True)
class JobSpec:
    """One job of a sweep. Plain values only, so that it can be pickled, and written as JSON by ``asdict``."""

    key: str
    """``DIRECTION/shards``, ``DIRECTION/seedN/ROW/STAGE`` or ``report``."""
    stage: str
    """``shards``, one of ``ROW_STAGES``, or ``report``."""
    digest: str
    """Names all that decides the outcome: the stage's settings, its inputs, and the digests of the jobs it needs."""
    folder: str
    """The sweep's, absolute."""
    needs: tuple[str, ...] = ()
    """Keys of the jobs that must be done before; all but the report's must have succeeded."""
    config: dict[str, Any] = field(default_factory=dict)
    """The resolved configuration (``Config.model_dump(mode="json")``) of the run of this direction and seed."""
    rows: tuple[str, ...] = ()
    """Of ``shards``: the rows that need them. Of a stage: its row alone. Of the report: all."""
    parent_run_id: str = ""
    """The MLflow run that this job's run is begun under: the cell's, or the sweep's for shards and report."""
    sweep: dict[str, Any] = field(default_factory=dict)
    """Of the report alone: what ``sweep.json`` holds."""

    @property
    def place(self) -> Path:
        """The job's own folder, for its note, its progress and its lock."""
        return Path(self.folder, "jobs", self.key)

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)
