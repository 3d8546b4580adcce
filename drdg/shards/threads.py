"""Station 2, threads: jobs done ahead by threads, their results in order.

What the jobs here do, copying, hashing, decoding and compressing, runs without the interpreter's lock, so they need no
processes.
"""

from __future__ import annotations

import os
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


def at_once(jobs: Sequence[Callable[[], None]], workers: int, idle: Callable[[], None]) -> None:
    """Run all ``jobs``, ``workers`` at a time, and call ``idle`` in this thread every now and then meanwhile.

    Returns when none is running any more; then raises what the first of them that failed has raised.
    """
    with ThreadPoolExecutor(workers, thread_name_prefix=THREAD_NAME) as pool:
        running = [pool.submit(job) for job in jobs]
        while wait(running, timeout=IDLE_S).not_done:
            idle()
    for job in running:
        job.result()


def usable_cores() -> int:
    """How many cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
