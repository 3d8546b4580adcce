"""Station 7, bench: runs of several sides in turn, so that whatever slows the machine down slows all of them."""

from __future__ import annotations

import gc
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

Measure = Callable[[], float]
"""One run of one side: what it took, in whatever unit its values have."""


@dataclass(frozen=True)
class Runs:
    """The values of one side's runs, in the order they were made; at least one."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle value, or the mean of the two middle ones."""
        return statistics.median(self.values)

    @property
    def low(self) -> float:
        """The smallest value."""
        return min(self.values)

    @property
    def high(self) -> float:
        """The largest value."""
        return max(self.values)

    def rates(self, amount: float) -> Runs:
        """Units per second, of values that are the seconds that ``amount`` units took."""
        return Runs(tuple(amount / seconds for seconds in self.values))


def stopwatch(
    work: Callable[[], object],
    *,
    before: Callable[[], object] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Measure:
    """A measure of the seconds that ``work`` takes; ``before`` is called before each run and not counted."""

    def measure() -> float:
        if before is not None:
            before()
        with collector_at_rest():
            began = clock()
            work()
            return clock() - began

    return measure


@contextmanager
def collector_at_rest() -> Iterator[None]:
    """Garbage is collected now and not within the block, where it would fall on whichever side happens to run."""
    gc.collect()
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def say(line: str) -> None:
    """A line on standard error: results alone go to standard output."""
    print(line, file=sys.stderr, flush=True)


def interleave(
    measures: Mapping[str, Measure], repeats: int, *, warm_up: bool = True, say: Callable[[str], object] = say
) -> dict[str, Runs]:
    """Run each side once to warm up, uncounted, and then all of them in turn, ``repeats`` times.

    Each round begins with the next side, so that none always follows the same other.
    """
    assert repeats >= 1, repeats
    names = list(measures)
    if warm_up:
        for name in names:
            say(f"  warm-up: {name}: {measures[name]():.4g}")
    values: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(repeats):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            values[name].append(measures[name]())
            say(f"  run {turn + 1} of {repeats}: {name}: {values[name][-1]:.4g}")
    return {name: Runs(tuple(seen)) for name, seen in values.items()}
