"""Station 6, sweep: what a sweep asks of whatever runs its jobs (``drdg.cluster`` has three of them)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Protocol

from drdg.config import SweepConfig
from drdg.sweep.spec import JobSpec

WAITING, RUNNING, ENDED = "waiting", "running", "ended"


class Scheduled(Protocol):
    """What a scheduler knows of the last start of a job."""

    @property
    def state(self) -> str:
        """``waiting``, ``running`` or ``ended``."""
        ...

    @property
    def reason(self) -> str:
        """Why it waits, or how it ended."""
        ...

    @property
    def job_id(self) -> str:
        """The scheduler's number of it."""
        ...

    @property
    def log(self) -> str:
        """The file that holds what it prints."""
        ...

    @property
    def digest(self) -> str:
        """That of the job (``JobSpec.digest``) it was started as."""
        ...


class Executor(Protocol):
    """Runs the jobs of one sweep."""

    def submit(self, jobs: list[JobSpec]) -> None:
        """Start jobs, which are in the order of their needs, each after those of its needs that are not done."""
        ...

    def states(self) -> Mapping[str, Scheduled]:
        """What is known of every job that was ever submitted, by its key."""
        ...

    def cancel(self, keys: Iterable[str]) -> int:
        """End the jobs of these keys and return how many there were."""
        ...

    def describe(self, jobs: list[JobSpec]) -> str:
        """What ``submit`` would do."""
        ...


OpenExecutor = Callable[[str, Path, SweepConfig], Executor]


def is_alive(scheduled: Scheduled | None) -> bool:
    """Whether a job waits or runs."""
    return scheduled is not None and scheduled.state in (WAITING, RUNNING)
