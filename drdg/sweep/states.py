"""Station 6, sweep: what has become of each job, by what it has said itself and what the scheduler knows of it.

Neither knows all: a note outlives the scheduler's memory, and a killed job cannot write that it was killed.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from drdg.sweep.notes import Note, Progress, read_note, read_progress
from drdg.sweep.plan import Sweep
from drdg.sweep.scheduler import ENDED, RUNNING, Scheduled, is_alive
from drdg.sweep.spec import REPORT, ROW_STAGES, JobSpec

# How schedulers say that a job was ended by somebody, and that it was never begun.
CANCELLED_WORD, NEVER_BEGUN_WORD = "CANCEL", "BLOCKED"


class State(str, Enum):
    """What a job is."""

    DONE = "done"
    RUNNING = "running"
    WAITING = "waiting"
    FAILED = "failed"
    """It ended with an error, which it said."""
    BLOCKED = "blocked"
    """Something that it needs has failed."""
    LOST = "lost"
    """Its process ended without a word."""
    CANCELLED = "cancelled"
    NEW = "new"
    """Never started as what it is now."""


UNSUCCESSFUL = (State.FAILED, State.BLOCKED)
STARTED_BY_THEMSELVES = (State.NEW, State.LOST, State.CANCELLED)


@dataclass(frozen=True)
class JobState:
    """What a job is, and what is to be said of it."""

    state: State
    alive: bool
    """Whether the scheduler still has it, as this or an earlier version of itself."""
    about: str = ""
    """Why it waits, what its error was, or how it was lost."""
    log: str = ""
    note: Note | None = None
    progress: Progress | None = None
    """Of a running one."""
    is_outdated: bool = False
    """Whether what the scheduler has of it is of other settings than those that are asked for now, or asked to end."""

    def left_s(self, now: float | None = None) -> float | None:
        """Seconds that a running job still takes, if it has said so."""
        if self.progress is None or self.progress.left_s is None:
            return None
        since = (time.time() if now is None else now) - self.progress.at if self.progress.at else 0.0
        return max(0.0, self.progress.left_s - max(0.0, since))


def state_of(sweep: Sweep, scheduled: Mapping[str, Scheduled]) -> dict[str, JobState]:
    """The state of every job, in the order of the plan."""
    notes = {key: read_note(job.place) for key, job in sweep.jobs.items()}
    # What led to a result that is there is not missed where somebody has removed it to make room.
    unneeded = set(sweep.jobs) - still_needed(sweep, notes)
    states: dict[str, JobState] = {}
    for key, job in sweep.jobs.items():
        note, known = notes[key], scheduled.get(key)
        if key == REPORT:
            states[key] = _of_report(job, note, known)
        elif key in unneeded and not is_done(job, note):
            states[key] = _of_done(job, note, known, "nothing needs it any more")
        else:
            states[key] = _of_stage(job, note, known, states)
    return states


def is_done(job: JobSpec, note: Note | None) -> bool:
    """Whether a job's outcome is there and is of these settings."""
    return note is not None and note.is_done(job.digest)


def still_needed(sweep: Sweep, notes: Mapping[str, Note | None]) -> set[str]:
    """The jobs that must be done for every score and the report: those without an outcome, and what they need."""
    scores = [key for key, job in sweep.jobs.items() if job.stage == ROW_STAGES[-1]]
    found = {key for key in scores if not is_done(sweep.jobs[key], notes[key])}
    ahead = list(found)
    while ahead:
        for need in sweep.jobs[ahead.pop()].needs:
            if need not in found:
                found.add(need)
                if not is_done(sweep.jobs[need], notes[need]):
                    ahead.append(need)
    return found | set(scores) | {REPORT}


def _of_stage(job: JobSpec, note: Note | None, known: Scheduled | None, before: Mapping[str, JobState]) -> JobState:
    alive = is_alive(known)
    if is_done(job, note):
        return _of_done(job, note, known)
    if note is not None and note.digest != job.digest:
        note = None  # of other settings
    if known is not None and alive and known.digest == job.digest:
        if known.state == RUNNING and known.reason.upper().startswith(CANCELLED_WORD):
            return JobState(State.CANCELLED, True, known.reason, _log(note, known), note, is_outdated=True)
        return _of_alive(job, note, known)
    outdated = alive
    if known is not None and (outdated or known.digest != job.digest):
        known = None  # what is known is about other settings
    log = _log(note, known)

    def now(state: State, about: str) -> JobState:
        return JobState(state, outdated, about, log, note, is_outdated=outdated)

    if note is not None and note.said == "failed":
        return now(State.FAILED, note.error or "ended with an error and did not say which")
    if guilty := next((key for key in job.needs if before[key].state in UNSUCCESSFUL), None):
        return now(
            State.BLOCKED, f"{guilty} failed" if before[guilty].state is State.FAILED else f"{guilty} is blocked"
        )
    if known is not None and known.reason.upper().startswith(CANCELLED_WORD):
        return now(State.CANCELLED, known.reason)
    if known is not None and known.reason.upper().startswith(NEVER_BEGUN_WORD):
        return now(State.NEW, "was not begun, as a job before it did not end well")
    if known is not None:
        return now(State.LOST, f"its process ended without a word ({known.reason or 'nobody knows how'})")
    if note is not None and note.said == "done":
        return now(State.NEW, f"its outcome {note.result} is gone")
    if note is not None:
        where = f" on {note.host}" if note.host else ""
        return now(State.LOST, f"its process{where} ended without a word, and no scheduler knows of it any more")
    return now(State.NEW, "an earlier one with other settings is still there" if outdated else "")


def _of_done(job: JobSpec, note: Note | None, known: Scheduled | None, about: str = "") -> JobState:
    """One whose outcome is there. One of other settings that is alive would put its own in the place of that."""
    alive = is_alive(known)
    outdated = alive and known is not None and known.digest != job.digest
    return JobState(State.DONE, alive, about, _log(note, known), note, is_outdated=outdated)


def _of_alive(job: JobSpec, note: Note | None, known: Scheduled) -> JobState:
    log = known.log or (note.log if note is not None else "")
    if known.state != RUNNING:
        about = known.reason
        if note is not None and note.said in ("again", "running"):
            about = f"was interrupted and continues ({about})" if about else "was interrupted and continues"
        return JobState(State.WAITING, True, about, log, note)
    if note is not None and note.said == "failed" and note.job_id == known.job_id:
        return JobState(State.FAILED, True, note.error, log, note)  # its process is about to end
    progress = read_progress(job.place) if note is not None and note.said == "running" else None
    return JobState(State.RUNNING, True, "" if note is not None else "starts", log, note, progress)


def _of_report(job: JobSpec, note: Note | None, known: Scheduled | None) -> JobState:
    """The report comes after all it needs whatever became of them, so that nothing blocks it.

    Each start that hands anything in gives it another digest, so that one that is done has seen all there is.
    """
    return _of_stage(job, note, known, {key: JobState(State.DONE, False) for key in job.needs})


def _log(note: Note | None, known: Scheduled | None) -> str:
    return (note.log if note is not None else "") or (known.log if known is not None and known.state == ENDED else "")


def to_submit(sweep: Sweep, states: Mapping[str, JobState], *, retry_failed: bool) -> list[JobSpec]:
    """The jobs that a start of the command hands in, in the order of their needs.

    None of them is alive as it is wanted, but for those that wait for a lost start of a job that is started anew, and
    for the report, which is to come after whatever else there is. That needs another digest then
    (:func:`drdg.sweep.record.renewed`). The scheduler ends what it has of these first.
    """
    fresh = (*STARTED_BY_THEMSELVES, *(UNSUCCESSFUL if retry_failed else ()))
    chosen: dict[str, JobSpec] = {}
    for key, job in sweep.jobs.items():
        now = states[key]
        waits_in_vain = now.state is State.WAITING and any(need in chosen for need in job.needs)
        if (now.state in fresh and (not now.alive or now.is_outdated)) or waits_in_vain or (key == REPORT and chosen):
            chosen[key] = job
    return list(chosen.values())


def to_end(states: Mapping[str, JobState], chosen: Iterable[JobSpec]) -> list[str]:
    """The keys of what a start of the command ends before: of other settings, and nothing takes its place.

    It would put its own outcome in the place of the one that is there, or its own error.
    """
    replaced = {job.key for job in chosen}
    return [key for key, now in states.items() if now.is_outdated and key not in replaced]


def forgotten(sweep: Sweep, scheduled: Mapping[str, Scheduled]) -> list[str]:
    """The keys of jobs that are alive and that the plan does not have, so that nobody would look after them."""
    return [key for key, known in scheduled.items() if is_alive(known) and key not in sweep.jobs]


def is_at_rest(states: Mapping[str, JobState]) -> bool:
    """Whether no job waits or runs any more."""
    return not any(now.alive for now in states.values())


def is_complete(states: Mapping[str, JobState]) -> bool:
    """Whether every job is done, the report with them."""
    return all(now.state is State.DONE for now in states.values())
