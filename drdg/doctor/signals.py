"""Station 6, doctor: whether the signals by which a scheduler asks a training to stop reach it while it computes."""

from __future__ import annotations

import hashlib
import os
import signal
import threading
import time
from collections.abc import Sequence
from types import FrameType
from typing import Any

from drdg.doctor.answers import Answer, groups, listed, milliseconds, named
from drdg.doctor.context import Context
from drdg.doctor.finding import Finding, bad, ok, warning

CHECK = "signals"
# Those that training listens to (drdg/training/preemption.py), without Ctrl-C's.
ASKED = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM)
LATE_S = 1.0
WAIT_S = 3.0
LOOK_S = 0.005
# Hashing a block that is not tiny lets other threads run, as torch's computations and collectives do.
BLOCK = bytes(1 << 24)


def probe(context: Context) -> dict[str, Any]:
    """By signal: whether this process was started with it ignored or blocked, and the seconds it takes to come.

    To be called in the main thread, which alone runs handlers; another computes meanwhile.
    """
    blocked = {int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, set())}
    ended = threading.Event()
    busy = threading.Thread(target=_compute, args=(ended,), daemon=True)
    busy.start()
    try:
        return {
            number.name: {
                "ignored": signal.getsignal(number) == signal.SIG_IGN,
                "blocked": int(number) in blocked,
                "seconds": _deliver(number, min(WAIT_S, context.timeout / len(ASKED))),
            }
            for number in ASKED
        }
    finally:
        ended.set()
        busy.join()


def judge(answers: Sequence[Answer]) -> list[Finding]:
    """Whether each signal came to each rank within a second."""
    found = []
    for state, ranks in groups(answers, lambda value: _state(value, "blocked")).items():
        if state:
            cure = "start the job from a shell or program that does not block signals (sigprocmask)"
            found.append(bad(CHECK, f"{listed(state)} blocked since before the start of {named(ranks)}", cure))
    for lost, ranks in groups(answers, _lost).items():
        if lost:
            cure = "see what in the job's start keeps signals from Python: a stop for preemption would be missed"
            found.append(bad(CHECK, f"{listed(lost)} not there after {LATE_S:g} s for {named(ranks)}", cure))
    for state, ranks in groups(answers, lambda value: _state(value, "ignored")).items():
        if state:
            cure = (
                "remove trap '' from the batch script or the shell that starts this: until training listens, a word to "
                "stop is lost"
            )
            found.append(warning(CHECK, f"{listed(state)} ignored by what started {named(ranks)}", cure))
    if found:
        return found
    times = [float(value["seconds"]) for answer in answers for value in answer.value.values()]
    names = listed([number.name for number in ASKED])
    return [ok(CHECK, f"{names} come within {milliseconds(max(times))} while computing", slowest_s=max(times))]


def _deliver(number: signal.Signals, wait_s: float) -> float | None:
    """Seconds until a handler has run for the signal that this process sends itself; None if it does not."""
    came: list[float] = []

    def note(_: int, frame: FrameType | None) -> None:
        came.append(time.perf_counter())

    before = signal.signal(number, note)
    sent = time.perf_counter()
    os.kill(os.getpid(), number)
    while not came and time.perf_counter() - sent < wait_s:
        time.sleep(LOOK_S)
    if came:  # else it may come yet, and must then not end this process
        signal.signal(number, signal.SIG_DFL if before is None else before)
    return came[0] - sent if came else None


def _compute(ended: threading.Event) -> None:
    while not ended.is_set():
        hashlib.sha256(BLOCK).digest()


def _state(value: Any, what: str) -> tuple[str, ...]:
    return tuple(name for name, state in value.items() if state[what])


def _lost(value: Any) -> tuple[str, ...]:
    return tuple(
        name
        for name, state in value.items()
        if not state["blocked"] and (state["seconds"] is None or state["seconds"] > LATE_S)
    )
