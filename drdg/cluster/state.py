"""Station 6, cluster: what a scheduler says of a job, and where it keeps what the job prints."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Alive = Literal["waiting", "running", "ended"]
LOGS = "logs"
COMPLETED, CANCELLED, FAILED, KILLED, BLOCKED = "COMPLETED", "CANCELLED", "FAILED", "KILLED", "BLOCKED"
"""How jobs end, in Slurm's words where it has one: ``KILLED`` died and could not say why, ``BLOCKED`` was never begun,
as a job that it needs has failed.
"""


@dataclass(frozen=True)
class SchedulerState:
    """Where a job is. What it has done is in its note."""

    state: Alive
    reason: str = ""
    """Why it waits; of an ended one how it ended."""
    job_id: str = ""
    log: str = ""
    """The file that holds what it printed; it may not be there yet."""
    digest: str = ""
    """Of the job as it was handed in (``JobSpec.digest``)."""


def say(words: str) -> None:
    """Tell the person at the command one line."""
    print(words, file=sys.stderr, flush=True)


def logs_of(folder: Path, token: str) -> Path:
    """Where submitit keeps what it needs for the jobs that were handed in as ``token``, and what they print.

    Each has its own, as numbers of processes, and of jobs of a cluster that was set up anew, come again: a job
    would find what was meant for an earlier one.
    """
    return folder / LOGS / token
