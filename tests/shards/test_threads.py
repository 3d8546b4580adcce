from __future__ import annotations

import gc
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from drdg.shards.threads import AHEAD, THREAD_NAME, at_once, in_order

PATIENCE_S = 60


def our_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith(THREAD_NAME)]


@pytest.fixture(autouse=True)
def _no_thread_stays() -> Iterator[None]:
    assert our_threads() == []
    yield
    gc.collect()
    for thread in our_threads():
        thread.join(PATIENCE_S)
    assert our_threads() == []


class Jobs:
    """Numbered jobs that note what has begun, and wait where they are told to."""

    def __init__(self, count: int | None = None, waits: dict[int, threading.Event] | None = None, bad: int = -1):
        self.count, self.waits, self.bad = count, waits or {}, bad
        self.asked = 0
        self.asked_in: set[int] = set()
        self.done_in: set[int] = set()

    def __iter__(self) -> Iterator[Callable[[], int]]:
        while self.asked != self.count:
            self.asked_in.add(threading.get_ident())
            self.asked += 1
            yield partial(self.work, self.asked - 1)

    def work(self, number: int) -> int:
        if number in self.waits:
            assert self.waits[number].wait(PATIENCE_S)
        self.done_in.add(threading.get_ident())
        if number == self.bad:
            raise ValueError(f"job {number}")
        return number


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("count", [0, 1, 50])
def test_results_come_in_the_order_of_their_jobs(workers: int, count: int) -> None:
    jobs = Jobs(count)
    assert list(in_order(jobs, workers)) == list(range(count))
    here = threading.get_ident()
    assert jobs.asked_in <= {here}
    assert (here in jobs.done_in) == (workers == 0 and count > 0)


def test_one_that_takes_long_is_waited_for_while_others_go_on() -> None:
    slow, other = threading.Event(), threading.Event()
    jobs = Jobs(10, waits={0: slow, 3: other})
    results = in_order(jobs, 2)
    threading.Timer(0.05, slow.set).start()
    assert next(results) == 0
    assert [next(results), next(results)] == [1, 2]
    other.set()
    assert list(results) == list(range(3, 10))


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_only_so_many_are_ahead(workers: int) -> None:
    jobs = Jobs()
    results = in_order(jobs, workers)
    assert jobs.asked == 0  # nothing is read before something is asked for
    for taken in range(1, 20):
        next(results)
        assert jobs.asked == taken + AHEAD * workers
    results.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_an_error_comes_at_its_place_and_is_the_end(workers: int) -> None:
    jobs = Jobs(bad=5)
    results = in_order(jobs, workers)
    assert [next(results) for _ in range(5)] == list(range(5))
    with pytest.raises(ValueError, match="job 5"):
        next(results)
    assert list(results) == []
    assert jobs.asked <= 6 + AHEAD * workers


@pytest.mark.parametrize("how", ["close", "drop", "never begun"])
def test_who_stops_early_leaves_nothing_running(how: str) -> None:
    wait = threading.Event()
    jobs = Jobs(waits=dict.fromkeys(range(3, 100), wait))
    results = in_order(jobs, 2)
    if how != "never begun":
        assert [next(results) for _ in range(3)] == [0, 1, 2]
    began = jobs.asked
    if how == "close":
        results.close()  # type: ignore[attr-defined]
    del results
    gc.collect()
    wait.set()
    for thread in our_threads():
        thread.join(PATIENCE_S)
    assert our_threads() == []
    assert jobs.asked == began


INTERRUPTED = """
import itertools, time
from functools import partial
from drdg.shards.threads import in_order
print("ready", flush=True)
for _ in in_order((partial(time.sleep, 0.01) for _ in itertools.count()), 2):
    print("item", flush=True)
"""


def test_an_interruption_from_the_keyboard_ends_the_process() -> None:
    process = subprocess.Popen([sys.executable, "-c", INTERRUPTED], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    while process.stdout.readline() != b"item\n":
        time.sleep(0)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == -signal.SIGINT
    assert b"KeyboardInterrupt" in said


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_all_steps_are_taken(workers: int) -> None:
    taken, polls = [], []

    def job(number: int) -> Iterator[None]:
        for step in range(4):
            taken.append((number, step))
            yield

    at_once([job(number) for number in range(3)], workers, lambda: polls.append(threading.current_thread()))
    assert sorted(taken) == [(number, step) for number in range(3) for step in range(4)]
    assert set(polls) <= {threading.current_thread()}


def test_this_thread_polls_while_others_work() -> None:
    polled = threading.Event()

    def job() -> Iterator[None]:
        assert polled.wait(PATIENCE_S)
        yield

    at_once([job(), job(), job()], 2, polled.set)
    assert polled.is_set()


@pytest.mark.parametrize("workers", [1, 2])
def test_after_an_error_no_job_goes_on(workers: int) -> None:
    polls = iter(range(3))

    def endless() -> Iterator[None]:
        while True:
            time.sleep(0.001)
            yield

    def failing() -> Iterator[None]:
        yield
        raise ValueError("first")

    with pytest.raises(ValueError, match="first"):
        at_once([failing(), endless()], workers, lambda: None)
    with pytest.raises(StopIteration):  # and so it is when the polling fails, or is interrupted
        at_once([endless(), endless()], workers, lambda: next(polls) and None)
