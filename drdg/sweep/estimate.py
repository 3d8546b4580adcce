"""Station 6, sweep: how long it still takes, by how long jobs of each kind have taken so far."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping

from drdg.sweep.plan import Sweep
from drdg.sweep.spec import REPORT
from drdg.sweep.states import JobState, State

AHEAD = (State.WAITING, State.NEW, State.RUNNING)
MINUTE, HOUR, DAY = 60, 3600, 86400


def seconds_left(sweep: Sweep, states: Mapping[str, JobState], now: float | None = None) -> float | None:
    """Seconds until the last job that waits or runs has ended; None where no job of its kind tells how long it takes.

    As many jobs are taken to run at a time as run now, and no job to begin before all that it needs have ended.
    """
    now = time.time() if now is None else now
    usual = _usual_seconds(sweep, states, now)
    ahead = {key: state for key, state in states.items() if state.state in AHEAD and state.alive and key != REPORT}
    if any(sweep.jobs[key].stage not in usual and state.left_s(now) is None for key, state in ahead.items()):
        return None
    total, ends = 0.0, dict[str, float]()
    for key, state in ahead.items():
        said = state.left_s(now) if state.state is State.RUNNING else None
        lasts = usual[sweep.jobs[key].stage] if said is None else said
        total += lasts
        ends[key] = lasts + max((ends.get(need, 0.0) for need in sweep.jobs[key].needs), default=0.0)
    running = sum(state.state is State.RUNNING for state in ahead.values())
    return max([total / max(1, running), *ends.values()])


def _usual_seconds(sweep: Sweep, states: Mapping[str, JobState], now: float) -> dict[str, float]:
    """By stage, what its jobs have taken on average, or what running ones say that they will have taken."""
    took: dict[str, list[float]] = {}
    for key, state in states.items():
        note, left = state.note, state.left_s(now)
        if note is None:
            continue
        if state.state is State.DONE:
            took.setdefault(sweep.jobs[key].stage, []).append(max(0.0, note.at - note.began))
        elif state.state is State.RUNNING and left is not None:
            took.setdefault(sweep.jobs[key].stage, []).append(max(0.0, now - note.began) + left)
    return {stage: statistics.fmean(seconds) for stage, seconds in took.items()}


def duration(seconds: float) -> str:
    """A time in its two largest units: ``45s``, ``12m``, ``3h05m``, ``2d04h``."""
    seconds = max(0, math.ceil(seconds))
    if seconds < MINUTE:
        return f"{seconds}s"
    if seconds < HOUR:
        return f"{seconds // MINUTE}m"
    if seconds < DAY:
        return f"{seconds // HOUR}h{seconds % HOUR // MINUTE:02d}m"
    return f"{seconds // DAY}d{seconds % DAY // HOUR:02d}h"
