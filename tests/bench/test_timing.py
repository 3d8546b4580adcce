"""The harness, by clocks that the tests move."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator

import pytest

from drdg.bench.timing import Runs, collector_at_rest, interleave, stopwatch


class Clock:
    """A clock that only moves when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def taking(self, *seconds: float) -> Callable[[], None]:
        """Work that takes these seconds, one after the other on each call."""
        left: Iterator[float] = iter(seconds)

        def work() -> None:
            self.now += next(left)

        return work


def test_median_and_spread() -> None:
    odd, even = Runs((3.0, 1.0, 9.0)), Runs((4.0, 1.0, 2.0, 100.0))
    assert (odd.median, odd.low, odd.high) == (3, 1, 9)
    assert (even.median, even.low, even.high) == (3, 1, 100)


def test_rates_are_amount_over_seconds() -> None:
    rates = Runs((2.0, 4.0, 8.0)).rates(16)
    assert rates.values == (8, 4, 2)
    assert rates.median == 4


def test_a_stopwatch_counts_the_work_and_not_what_comes_before() -> None:
    clock = Clock()
    measure = stopwatch(clock.taking(2, 3), before=clock.taking(50, 70), clock=clock)
    assert [measure(), measure()] == [2, 3]
    assert clock.now == 100 + 50 + 2 + 70 + 3


def test_no_garbage_is_collected_while_the_stopwatch_runs() -> None:
    states: list[bool] = []
    stopwatch(lambda: states.append(gc.isenabled()), before=lambda: states.append(gc.isenabled()))()
    assert states == [True, False]
    assert gc.isenabled()


def test_the_collector_is_left_as_it_was() -> None:
    with pytest.raises(RuntimeError), collector_at_rest():
        raise RuntimeError
    assert gc.isenabled()
    gc.disable()
    try:
        with collector_at_rest():
            assert not gc.isenabled()
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_sides_run_in_turn_and_each_round_begins_with_the_next() -> None:
    order: list[str] = []
    said: list[str] = []

    def side(name: str) -> Callable[[], float]:
        return lambda: float(order.append(name) or len(order))

    runs = interleave({name: side(name) for name in "abc"}, 4, say=said.append)
    assert "".join(order) == "abc" + "abc" + "bca" + "cab" + "abc"
    assert {name: seen.values for name, seen in runs.items()} == {
        "a": (4, 9, 11, 13),
        "b": (5, 7, 12, 14),
        "c": (6, 8, 10, 15),
    }
    assert len(said) == len(order)


def test_a_slow_first_run_is_not_counted_unless_asked_for() -> None:
    clock = Clock()
    cold = [90.0, 1.0, 1.0, 90.0, 1.0]
    measure = stopwatch(clock.taking(*cold), clock=clock)
    assert interleave({"side": measure}, 2, say=lambda line: None)["side"].values == (1, 1)
    assert interleave({"side": measure}, 2, warm_up=False, say=lambda line: None)["side"].values == (90, 1)
