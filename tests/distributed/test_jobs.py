"""The desk that hands out jobs, with threads for ranks: it ends, and rightly, whatever their number and failures."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

mpi4py = pytest.importorskip("mpi4py")
# Only MPI's constants are wanted here; what it does is tested in processes of its own (test_mpi.py).
mpi4py.rc.initialize = False

from mpi4py import MPI  # noqa: E402

from drdg.distributed.mpi import MpiCrew  # noqa: E402


class World:
    """What threads that play ranks share."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.lock = threading.Lock()
        self.letters: dict[tuple[int, int], list[tuple[int, np.ndarray]]] = defaultdict(list)
        self.met: Counter[int] = Counter()
        self.barrier = threading.Barrier(size, timeout=60)
        self.table: list[Any] = [None] * size


class Communicator:
    """As much of ``MPI.Intracomm`` as a crew uses, for one thread."""

    def __init__(self, world: World, rank: int) -> None:
        self.world, self.rank, self.size = world, rank, world.size
        self.meetings = 0

    def Send(self, buffer: np.ndarray, rank: int, tag: int) -> None:
        with self.world.lock:
            self.world.letters[rank, tag].append((self.rank, buffer.copy()))

    def Iprobe(self, source: int, tag: int, status: Any) -> bool:
        with self.world.lock:
            letters = self.world.letters[self.rank, tag]
            if letters:
                status.Set_source(letters[0][0])
            return bool(letters)

    def Recv(self, buffer: np.ndarray, source: int, tag: int) -> None:
        assert self._take(buffer, source, tag)

    def Irecv(self, buffer: np.ndarray, source: int, tag: int) -> Request:
        return Request(lambda: self._take(buffer, source, tag))

    def _take(self, buffer: np.ndarray, source: int, tag: int) -> bool:
        with self.world.lock:
            letters = self.world.letters[self.rank, tag]
            for place, (sender, content) in enumerate(letters):
                if sender == source:
                    buffer[:] = content
                    del letters[place]
                    return True
        return False

    def Ibarrier(self) -> Request:
        self.meetings += 1
        meeting = self.meetings
        with self.world.lock:
            self.world.met[meeting] += 1
        return Request(lambda: self.world.met[meeting] == self.size)

    def allgather(self, value: Any) -> list[Any]:
        self.world.table[self.rank] = value
        self.world.barrier.wait()
        table = list(self.world.table)
        self.world.barrier.wait()
        return table

    def bcast(self, value: Any, root: int = 0) -> Any:
        return self.allgather(value)[root]

    def Allreduce(self, array: np.ndarray, reduced: np.ndarray, operation: MPI.Op) -> None:
        functions = [(MPI.SUM, np.sum), (MPI.MIN, np.min), (MPI.MAX, np.max)]
        (function,) = [function for meant, function in functions if meant == operation]
        reduced[...] = function(np.stack(self.allgather(array)), axis=0)

    def Split_type(self, kind: int) -> Communicator:
        return self

    def Free(self) -> None:
        """Nothing is held."""


class Request:
    def __init__(self, test: Callable[[], bool]) -> None:
        self.Test = test


def play(size: int, part: Callable[[MpiCrew], Any]) -> list[Any]:
    """What ``part`` returns or raises on each of ``size`` ranks."""
    world = World(size)

    def rank(number: int) -> Any:
        crew = MpiCrew(Communicator(world, number), quiet=True)  # type: ignore[arg-type]
        try:
            return part(crew)
        except Exception as error:
            return error

    with ThreadPoolExecutor(size) as threads:
        ended = list(threads.map(rank, range(size)))
    assert not any(world.letters.values()), "a message was never received"
    return ended


@settings(max_examples=60)
@given(
    size=st.integers(1, 6),
    jobs=st.lists(st.integers(0, 99), unique=True, max_size=30),
    polls=st.integers(0, 3),
)
def test_every_job_is_done_once(size: int, jobs: list[int], polls: int) -> None:
    def part(crew: MpiCrew) -> list[int]:
        done = []

        def work(job: int) -> None:
            for _ in range(polls):
                crew.poll()
            done.append(job)

        crew.run(jobs if crew.rank == 0 else [], work, "jobs")
        return done

    assert sorted(chain.from_iterable(play(size, part))) == sorted(jobs)


@settings(max_examples=60)
@given(size=st.integers(1, 6), number=st.integers(1, 30), failing=st.sets(st.integers(0, 29), min_size=1))
def test_after_errors_all_end_and_the_lowest_ranks_counts(size: int, number: int, failing: set[int]) -> None:
    begun: list[list[int]] = [[] for _ in range(size)]

    def part(crew: MpiCrew) -> None:
        def work(job: int) -> None:
            begun[crew.rank].append(job)
            if job in failing:
                raise ValueError(f"job {job}")

        crew.run(range(number), work, "jobs")

    ended = play(size, part)
    every = list(chain.from_iterable(begun))
    assert len(every) == len(set(every))
    failed = [rank for rank in range(size) if failing & set(begun[rank])]
    if not failed:
        assert ended == [None] * size
        assert sorted(every) == list(range(number))
        return
    # A rank begins nothing after its own error.
    assert all(begun[rank][-1] in failing and not failing & set(begun[rank][:-1]) for rank in failed)
    own = [rank for rank in range(size) if isinstance(ended[rank], ValueError)]
    assert own == failed[:1]
    assert str(ended[own[0]]) == f"job {begun[own[0]][-1]}"
    assert all(isinstance(error, Exception) for error in ended)


@settings(max_examples=20)
@given(size=st.integers(1, 5))
def test_values_are_agreed_on(size: int) -> None:
    def part(crew: MpiCrew) -> list[Any]:
        array = np.array([crew.rank, 1])
        reduced = [crew.total(array), crew.lowest(array), crew.highest(array)]
        return [crew.shared(lambda: crew.rank), crew.gather(crew.rank), *(values.tolist() for values in reduced)]

    last = size - 1
    wanted = [0, list(range(size)), [size * last // 2, size], [0, 1], [last, 1]]
    assert play(size, part) == [wanted] * size


@pytest.mark.parametrize("size", [1, 3])
def test_the_last_word_is_the_error_as_it_ends_the_rank_it_happened_on(size: int) -> None:
    def part(crew: MpiCrew) -> Any:
        def fail() -> None:
            raise OSError("a")

        try:
            crew.shared(fail)
        except OSError:
            return crew.last_word(ValueError("in other words"))
        except Exception as ended:
            assert crew.has_failed
            return crew.last_word(ended)

    first, *others = play(size, part)
    assert first is None
    assert [(type(word), str(word), word.said_elsewhere) for word in others] == [
        (ValueError, "in other words", True) for _ in others
    ]


def test_an_error_that_cannot_travel_sends_its_words() -> None:
    class Own(ValueError):
        pass

    def part(crew: MpiCrew) -> Any:
        def work(job: int) -> None:
            raise Own("here")

        try:
            crew.run([1], work, "jobs")
        except Exception as error:
            return crew.last_word(error)

    words = play(2, part)
    (word,) = [word for word in words if word is not None]
    assert type(word) is ValueError
    assert str(word) == "here"


def test_cores_that_ranks_share_are_parted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(9)), raising=False)
    assert play(1, lambda crew: crew.cores) == [9]
    assert play(2, lambda crew: crew.cores) == [4, 4]
    assert play(3, lambda crew: crew.cores) == [3, 3, 3]
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0})
    assert play(2, lambda crew: crew.cores) == [1, 1]
