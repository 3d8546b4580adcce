"""Station 3, jobs: numbers handed out by MPI's rank 0, which works itself, to whichever rank is free for the next.

Rank 0 answers when it polls, between two small steps of its own job, so there is no thread beside the work. Every other
rank asks for its next job before it begins one, so that it does not wait for that answer.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from mpi4py import MPI

# What the work may raise for what a user did; all else is a mistake of ours.
EXPECTED = (ValueError, FloatingPointError, OSError)
NEWS, ANSWER = 1, 2  # tags: to rank 0, from rank 0
ASKING, DONE, FAILED = 0, 1, 2  # what there is to tell rank 0
NO_JOB = -1
SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 20e-6, 2e-3


def wait(is_ready: Callable[[], bool]) -> None:
    """Wait without keeping the core busy, as MPI's own waiting would: another rank may be at work on it."""
    pause = SHORTEST_PAUSE_S
    while not is_ready():
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE_S)


class Desk:
    """Where rank 0 hands out ``jobs`` and hears what became of them.

    ``error`` is the one that a job of its own has ended with; after any rank's error nothing is handed out.
    """

    def __init__(self, comm: MPI.Intracomm, jobs: Sequence[int]) -> None:
        from mpi4py import MPI

        self.error: Exception | None = None
        self._comm = comm
        self._any_rank, self._status = MPI.ANY_SOURCE, MPI.Status()
        self._word = np.empty(1, np.int64)
        self._left = deque(jobs)
        self._done = 0
        # Per rank: jobs that it holds. Then the ranks with a question, and those not yet told that there is no more.
        self._held = [0] * comm.size
        self._asking: set[int] = set()
        self._unaware = set(range(1, comm.size))

    def work_through(self, work: Callable[[int], None]) -> Iterator[None]:
        """Do jobs and answer until all are done on all ranks; yield once for each that is done."""
        shown = 0
        while self._left or self._unaware or any(self._held):
            if not self.serve():
                if self._left:
                    self._do(self._take(), work)
                else:
                    wait(self.serve)
            while shown < self._done:
                shown += 1
                yield

    def serve(self) -> bool:
        """Hear and answer what other ranks have said, and say whether there was anything."""
        heard = False
        while self._comm.Iprobe(self._any_rank, NEWS, self._status):
            rank = self._status.Get_source()
            self._comm.Recv(self._word, rank, NEWS)
            self._hear(rank, int(self._word[0]))
            heard = True
        if heard:
            self._answer()
        return heard

    def _take(self) -> int:
        job = self._left.popleft()
        if not self._left:
            self._answer()
        return job

    def _do(self, job: int, work: Callable[[int], None]) -> None:
        try:
            work(job)
            self._done += 1
        except EXPECTED as error:
            self.error = error
            self._left.clear()
            self._answer()

    def _hear(self, rank: int, news: int) -> None:
        if news == ASKING:
            self._asking.add(rank)
        elif news == DONE:
            self._held[rank] -= 1
            self._done += 1
        else:
            # It takes no job any more, nor does the one that it may have been given ahead.
            self._held[rank] = 0
            self._unaware.discard(rank)
            self._left.clear()

    def _answer(self) -> None:
        for rank in sorted(self._asking):
            if not self._left:
                self._tell(rank, NO_JOB)
                self._unaware.discard(rank)
            # Near the end a rank gets its next job when it is free, lest it keep one from a rank that is faster.
            elif not self._held[rank] or len(self._left) > self._comm.size:
                self._held[rank] += 1
                self._tell(rank, self._left.popleft())

    def _tell(self, rank: int, job: int) -> None:
        self._asking.discard(rank)
        # Does not block: whoever asks is ready to receive.
        self._comm.Send(np.array([job], np.int64), rank, ANSWER)


def work_for(comm: MPI.Intracomm, work: Callable[[int], None]) -> Exception | None:
    """The part of every rank but 0: do what rank 0's desk gives, until there is no more or the work raises."""
    answer = np.empty(1, np.int64)

    def tell(news: int) -> None:
        comm.Send(np.array([news], np.int64), 0, NEWS)

    def ask() -> Callable[[], bool]:
        receiving = comm.Irecv(answer, 0, ANSWER)
        tell(ASKING)
        return receiving.Test

    answered = ask()
    while True:
        wait(answered)
        job = int(answer[0])
        if job == NO_JOB:
            return None
        answered = ask()
        try:
            work(job)
        except EXPECTED as error:
            tell(FAILED)
            wait(answered)
            return error
        tell(DONE)
