"""Station 6, doctor: how far the nodes' clocks are apart, by messages to and fro."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from drdg.doctor.answers import Rank, milliseconds, named
from drdg.doctor.context import Context
from drdg.doctor.finding import Finding, ok, warning

CHECK = "clocks"
ROUNDS = 8
# What lies between a log's lines of two nodes, or a file's time and now, is meant to be told by seconds.
APART_S = 1.0


@dataclass(frozen=True)
class Offset:
    """How far a node's clock is ahead of rank 0's, in seconds, and by how much that may be wrong."""

    who: Rank
    ahead_s: float
    within_s: float


def probe(context: Context) -> dict[str, Any]:
    """The time of this node's clock, in seconds since 1970."""
    return {"time_s": time.time()}


def measure(who: Rank, ask: Callable[[], float | None], now: Callable[[], float] = time.time) -> Offset | None:
    """The offset of the clock that ``ask`` reads elsewhere; None when it is not answered.

    The answer was read at some time between question and answer, so the shortest of some rounds knows it to within
    half its length (Cristian 1989).
    """
    best: Offset | None = None
    for _ in range(ROUNDS):
        sent = now()
        theirs = ask()
        came = now()
        if theirs is None:
            return best
        offset = Offset(who, theirs - (sent + came) / 2, (came - sent) / 2)
        if best is None or offset.within_s < best.within_s:
            best = offset
    return best


def judge(offsets: Sequence[Offset]) -> list[Finding]:
    """Whether all clocks show the same time to a second."""
    if not offsets:
        return []
    worst = max(offsets, key=lambda offset: abs(offset.ahead_s))
    figures = {"offset_s": worst.ahead_s, "uncertainty_s": worst.within_s}
    side = "ahead of" if worst.ahead_s > 0 else "behind"
    apart = f"{milliseconds(abs(worst.ahead_s))} (to {milliseconds(worst.within_s)}) {side} rank 0"
    if abs(worst.ahead_s) - worst.within_s > APART_S:
        cure = "synchronise the nodes' clocks (chrony, ntpd): files of the future look new, and logs do not line up"
        return [warning(CHECK, f"the clock of {named([worst.who])} is {apart}", cure, **figures)]
    return [ok(CHECK, f"farthest off: {named([worst.who])}, {apart}", **figures)]
