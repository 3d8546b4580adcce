"""Station 6, cluster: a sweep's jobs in this process, one after the other, for looking at what goes wrong."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from drdg.cluster.executors import refuse_others
from drdg.cluster.machine import changed_environment, own
from drdg.cluster.orders import read_orders
from drdg.cluster.requeue import Start
from drdg.cluster.state import BLOCKED, CANCELLED, COMPLETED, FAILED, SchedulerState, say
from drdg.cluster.work import RUN_JOB, Work, sentence
from drdg.config.sweep import SweepConfig
from drdg.sweep.spec import REPORT, JobSpec


@dataclass
class DebugSweep:
    """The executor in this process. ``submit`` returns when all is done that can be."""

    folder: Path
    settings: SweepConfig
    function: str = RUN_JOB
    kind: str = "debug"
    _states: dict[str, SchedulerState] = field(default_factory=dict)

    def submit(self, jobs: Sequence[JobSpec]) -> None:
        """See ``drdg.sweep.scheduler.Executor``. Ctrl-C ends it: the job saves, and the rest is not begun.

        Raises ``ValueError`` where jobs of the sweep are alive in another executor.
        """
        refuse_others(read_orders(self.folder), self.kind, self.settings)
        wanted = {job.key for job in jobs}
        with changed_environment(own(os.environ)):
            for job in jobs:
                missing = [
                    need
                    for need in job.needs
                    if need in wanted and (need not in self._states or self._states[need].reason != COMPLETED)
                ]
                if missing and job.stage != REPORT:
                    self._put(job, f"{BLOCKED}: needs {missing[0]}")
                else:
                    self._run(job)

    def _run(self, job: JobSpec) -> None:
        start = Start("debug", job_id=f"debug-{os.getpid()}")
        try:
            Work(self.function).run(job, start)
        except KeyboardInterrupt:
            self._put(job, CANCELLED)
            raise
        except (Exception, SystemExit) as error:
            say(f"{job.key}: {sentence(error)}")
            self._put(job, FAILED)
        else:
            self._put(job, COMPLETED)

    def _put(self, job: JobSpec, reason: str) -> None:
        self._states[job.key] = SchedulerState("ended", reason, digest=job.digest)

    def states(self) -> dict[str, SchedulerState]:
        """See ``drdg.sweep.scheduler.Executor``."""
        return dict(self._states)

    def cancel(self, keys: Iterable[str]) -> int:
        """See ``drdg.sweep.scheduler.Executor``: nothing is alive but what this very process does."""
        return 0

    def describe(self, jobs: Sequence[JobSpec]) -> str:
        """See ``drdg.sweep.scheduler.Executor``."""
        return "In this process, one after the other:\n" + "".join(f"{job.key}\n" for job in jobs)
