"""Station 2, threads: jobs done ahead by threads, their results in order.

What the jobs here do, copying, hashing, decoding and compressing, runs without the interpreter's lock, so they need no
processes.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from itertools import islice
from typing import TypeVar

T = TypeVar("T")

# Results that are finished or under way for each thread while the caller works on another.
AHEAD = 2
THREAD_NAME = "drdg"
IDLE_S = 0.02


def in_order(jobs: Iterable[Callable[[], T]], workers: int) -> Iterator[T]:
    """The results of ``jobs``, in their order, worked off ahead by ``workers`` threads; 0: in the caller's thread.

    ``jobs`` itself is iterated in the caller's thread, a bounded number of jobs ahead. An exception comes at its job's
    place and ends the iteration. When the iterator is closed or dropped, jobs that were not begun are never begun.
    """
    if workers == 0:
        for job in jobs:
            yield job()
        return
    remaining = iter(jobs)
    pool = ThreadPoolExecutor(workers, thread_name_prefix=THREAD_NAME)
    try:
        ahead = deque(pool.submit(job) for job in islice(remaining, AHEAD * workers))
        while ahead:
            ahead.extend(pool.submit(job) for job in islice(remaining, 1))
            # No name is given to what is yielded: it would keep the result, and with it its buffers, from being freed.
            yield ahead.popleft().result()
    finally:
        # Not waited for: this may run in one of the pool's own threads, by way of the garbage collector.
        pool.shutdown(wait=False, cancel_futures=True)


def at_once(jobs: Sequence[Iterator[None]], workers: int, poll: Callable[[], None]) -> None:
    """Take all the steps of all ``jobs``, of ``workers`` jobs at a time, and call ``poll`` in this thread meanwhile.

    With one worker this thread takes the steps. After an error no job takes another step; when none is at one any more,
    the error of the first that failed is raised.
    """
    if workers == 1:
        for job in jobs:
            for _ in job:
                poll()
        return
    ended = threading.Event()

    def take_steps(job: Iterator[None]) -> None:
        try:
            for _ in job:
                if ended.is_set():
                    return
        except BaseException:
            ended.set()
            raise

    with ThreadPoolExecutor(workers, thread_name_prefix=THREAD_NAME) as pool:
        running = [pool.submit(take_steps, job) for job in jobs]
        try:
            while wait(running, timeout=IDLE_S).not_done:
                poll()
        finally:
            ended.set()
    for taken in running:
        taken.result()


def usable_cores() -> int:
    """How many cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
