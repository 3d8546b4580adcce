"""Station 6, cluster: the one way in which a job is queued again, submitit's, and when it is right.

A job that is asked to stop while it trains saves first (``drdg.training.preemption``) and raises; while it does
anything else, whose pieces are whole or not there, it ends at once. Both come to :meth:`Requeue.go`. What Slurm has
ended itself, because it was cancelled or because Slurm queues it again, is left alone.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any, NoReturn

# Set by the batch script (``slurm.py``): how often Slurm has begun this job again.
START = "DRDG_START"
ASKING = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
TRIES, PAUSE_S, PATIENCE_S = 6, 10.0, 60.0
KILLED_BY_TERM = 128 + signal.SIGTERM


@dataclass(frozen=True)
class Start:
    """This start of a job, as its scheduler has it."""

    cluster: str
    """``slurm``, ``local`` or ``debug``."""
    job_id: str = ""
    rank: int = 0
    restarts: int = 0
    log: str = ""

    @classmethod
    def of_environment(cls) -> Start:
        """What submitit knows of this process."""
        import submitit

        here = submitit.JobEnvironment()
        again = int(os.environ.get(START) or 0) if here.name() == "slurm" else 0
        return cls(here.name(), here.job_id, here.global_rank, again, str(here.paths.stdout))


class Requeue:
    """What signals that ask this process to stop come to, from when it ``listens`` until all is ``over``.

    ``note_again`` is called before the job is left to another start.
    """

    def __init__(self, start: Start, note_again: Callable[[], None]):
        self.is_leaving = False
        """Whether the error that is on its way up only ends this start of the job."""
        self._start, self._note_again = start, note_again
        self._is_over = False
        self._submitits: Any = None

    def listen(self) -> None:
        """Take the signals from submitit, whose own answer is kept for when it is wanted."""
        if self._start.cluster == "debug":
            return  # the person's own process
        self._submitits = signal.getsignal(signal.SIGUSR2)
        for number in ASKING:
            signal.signal(number, self._asked)

    def over(self) -> None:
        """The job is done or has failed: it is not begun again any more, whoever asks."""
        self._is_over = True

    def _asked(self, number: int, frame: FrameType | None) -> None:
        if self._is_over or self.is_leaving:
            return
        name = signal.Signals(number).name
        if self._start.rank:
            print(f"drdg: {name}; rank 0 answers it", flush=True)
            return
        print(f"drdg: {name}; what is whole so far is kept", flush=True)
        self._note_again()
        if self._start.cluster == "slurm" or number == signal.SIGUSR2:
            self.go()
        self.leave(KILLED_BY_TERM)

    def leave(self, status: int) -> NoReturn:
        """End this start of the job."""
        self.is_leaving = True
        raise SystemExit(status)

    def go(self) -> None:
        """Queue the job again, by ending this process, or return if that is not right or did not succeed."""
        if self._start.rank or not callable(self._submitits):
            return
        self.is_leaving = True
        for number in ASKING:
            # Slurm's answer to a requeue is to ask all of the job's processes to end, scontrol among them, which has
            # yet to hear that it was done and inherits this.
            signal.signal(number, signal.SIG_IGN)
        if self._start.cluster == "slurm":
            self._by_slurm()
        else:
            self._submitits(signal.SIGUSR2, None)

    def _by_slurm(self) -> None:
        for attempt in range(1, TRIES + 1):
            try:
                if not self._is_ours():
                    return
                self._submitits(signal.SIGUSR2, None)  # raises SystemExit when all went well
            except (OSError, subprocess.SubprocessError) as error:
                print(f"drdg: the job cannot be queued again (try {attempt}): {error}", flush=True)
            time.sleep(PAUSE_S)

    def _is_ours(self) -> bool:
        """Not when Slurm ends the job, as it was cancelled or as Slurm queues it again itself; nor when it has begun
        elsewhere since, because this node was cut off and did not know.
        """
        command = ["scontrol", "show", "job", "--oneliner", self._start.job_id]
        shown = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=True).stdout.split()
        ours = "JobState=RUNNING" in shown and f"Restarts={self._start.restarts}" in shown
        if not ours:
            print("drdg: Slurm ends this start itself; it is not queued again from here", flush=True)
        return ours
