"""Station 6, cluster: what each process of a job runs, wherever it is, and the note that it leaves.

It holds nothing that changes: every stage continues from its own checkpoints, so a job that begins again is the same
job begun once more.
"""

from __future__ import annotations

import importlib
import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drdg.cluster.locks import Held, hold
from drdg.cluster.requeue import Requeue, Start
from drdg.progress import tell
from drdg.sweep.notes import PROGRESS, Note, Said, read_note, write_note
from drdg.sweep.spec import JobSpec

if TYPE_CHECKING:
    from submitit.core.utils import DelayedSubmission

RUN_JOB = "drdg.stages.cell:run_job"
LOCK = "lock"
POLL_S = 0.5
# ``status`` of errors after which the same job, begun again, gets further: it was asked to stop and has saved
# (drdg.training.preemption), or has lost a rank after it had saved something (drdg.distributed.lost).
GETS_FURTHER = (75, 76)


@dataclass(frozen=True)
class Work:
    """Run a job by the function of this dotted name, in this folder, and note what became of it."""

    function: str = RUN_JOB
    folder: str = field(default_factory=os.getcwd)

    def __call__(self, spec: JobSpec) -> None:
        """Take part in the job as the process that submitit says this is."""
        self.run(spec, Start.of_environment())

    def checkpoint(self, spec: JobSpec) -> DelayedSubmission:
        """What submitit is to run when the job begins again."""
        from submitit.core.utils import DelayedSubmission

        return DelayedSubmission(self, spec)

    def run(self, spec: JobSpec, start: Start) -> None:
        """Take part in the job; raise what its function raises, once it is noted."""
        os.chdir(self.folder)
        run_job = find(self.function)
        if start.rank:
            _follow(spec, start, run_job)
        else:
            _Lead(spec, start).run(run_job)


def find(name: str) -> Callable[[JobSpec], Any]:
    """The function of a dotted name, as ``drdg.stages.cell:run_job``."""
    module, _, function = name.partition(":")
    found: Callable[[JobSpec], Any] = getattr(importlib.import_module(module), function)
    return found


def sentence(error: BaseException) -> str:
    """What an error says, in one line; those that are meant for people without their type."""
    said = " ".join(str(error).split("\n", 1)[0].split())
    if isinstance(error, OSError) and error.errno is not None:
        return f"{error.filename or 'a file'}: {error.strerror}"
    if said and isinstance(error, ValueError | OSError | FloatingPointError):
        return said
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def is_again(error: BaseException) -> bool:
    """Whether a job that has ended so continues where it was when it is begun again."""
    return isinstance(error, KeyboardInterrupt) or getattr(error, "status", None) in GETS_FURTHER


class _Lead:
    """Rank 0: it alone holds the job and writes its note."""

    def __init__(self, spec: JobSpec, start: Start):
        self.spec, self.start = spec, start
        self.requeue = Requeue(start, self.note_again)
        self.held: Held | None = None
        self.began = time.time()

    def run(self, run_job: Callable[[JobSpec], Any]) -> None:
        self.requeue.listen()
        # A node that was cut off may still be at it, and a second one at the same would damage what it writes.
        self.held = hold(self.spec.place / LOCK, lambda who: _print(f"waits for {who}, which is still at this job"))
        try:
            before = read_note(self.spec.place)
            if before is not None and before.is_done(self.spec.digest):
                _print(f"{self.spec.key} is done already")
                return
            if before is not None and before.digest == self.spec.digest and before.said != "failed":
                self.began = before.began
            self._run(run_job)
        finally:
            self.held.release()

    def _run(self, run_job: Callable[[JobSpec], Any]) -> None:
        progress = self.spec.place / PROGRESS
        progress.unlink(missing_ok=True)
        self.note("running")
        _print(f"{self.spec.key}, job {self.start.job_id}, start {self.start.restarts + 1}")
        try:
            with tell(progress):
                outcome = run_job(self.spec)
            self.requeue.over()
            self.note("done", stage_digest=outcome.stage_digest, result=str(outcome.result))
        except BaseException as error:
            self._ended_by(error)
            raise

    def _ended_by(self, error: BaseException) -> None:
        if self.requeue.is_leaving:
            return  # the note says so
        if not is_again(error):
            self.requeue.over()
            with suppress(OSError):  # a full disk may be why
                self.note("failed", error=sentence(error))
            return
        _print(sentence(error))
        self.note_again()
        if self.start.cluster == "slurm":  # on this machine who starts the jobs looks at the note
            self.requeue.go()
        if self.start.cluster != "debug":  # there the person sees the error itself
            self.requeue.leave(getattr(error, "status", None) or GETS_FURTHER[0])

    def note_again(self) -> None:
        """Unless another start of the job holds it, whose note it is then."""
        if self.held is not None:
            self.note("again")

    def note(self, said: Said, **more: Any) -> None:
        here: dict[str, Any] = {"job_id": self.start.job_id, "restarts": self.start.restarts, "log": self.start.log}
        write_note(
            self.spec.place,
            Note(said, self.spec.digest, self.began, time.time(), host=socket.gethostname(), **here, **more),
        )


def _follow(spec: JobSpec, start: Start, run_job: Callable[[JobSpec], Any]) -> None:
    """Another rank: it begins when rank 0 has the job, as until then an earlier start may still be at it."""
    Requeue(start, lambda: None).listen()
    while (said := _said_by_lead(spec, start)) is None:
        time.sleep(POLL_S)
    if said == "done":
        return
    if said != "running":
        raise ChildProcessError(f"rank 0 of {spec.key} has ended already; its log says why")
    try:
        run_job(spec)
    except KeyboardInterrupt as error:
        if getattr(error, "status", None) != 0:
            raise
    # A launcher may kill the others some time after the first process has ended, and at once if that ended badly; rank
    # 0 may still be writing.
    while _said_by_lead(spec, start) == "running":
        time.sleep(POLL_S)


def _said_by_lead(spec: JobSpec, start: Start) -> Said | None:
    """What rank 0 has said of this start of the job; None where it has not yet."""
    note = read_note(spec.place)
    if note is None or note.is_done(spec.digest):
        return None if note is None else "done"
    return note.said if (note.job_id, note.restarts) == (start.job_id, start.restarts) else None


def _print(words: str) -> None:
    print(f"drdg: {words}", flush=True)


def place_of(folder: Path, key: str) -> Path:
    """A job's own folder in a sweep's."""
    return JobSpec(key=key, stage="", digest="", folder=str(folder)).place
