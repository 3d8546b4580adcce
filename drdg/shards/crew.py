"""Station 2, crew: the processes that share one piece of work, and the one process that has it for itself.

``drdg.distributed.mpi`` has the crew of an MPI program; what follows a crew's rules gives the same result with any.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import numpy as np

from drdg.progress import progress
from drdg.shards.threads import usable_cores

T = TypeVar("T")


class Crew(Protocol):
    """All processes call the same methods in the same order; an error on one is raised on all."""

    @property
    def rank(self) -> int:
        """Number of this process."""
        ...

    @property
    def size(self) -> int:
        """Number of processes."""
        ...

    @property
    def cores(self) -> int:
        """Cores that this process has for itself."""
        ...

    def shared(self, function: Callable[[], T]) -> T:
        """What ``function`` gives on rank 0, on every rank."""
        ...

    def run(self, jobs: Sequence[int], work: Callable[[int], None], what: str, done: int = 0) -> None:
        """Call ``work`` once for each of ``jobs``, each on the rank that is free for it; return when all are done.

        ``work`` calls :meth:`poll` between its small steps. ``what`` and the number of those ``done`` before are for
        the progress shown.
        """
        ...

    def poll(self) -> None:
        """Answer other ranks that ask for a job; costs microseconds."""
        ...

    def gather(self, value: T) -> list[T]:
        """The value of each rank, on every rank."""
        ...

    def total(self, array: np.ndarray) -> np.ndarray:
        """The sum over ranks, int64 or float64, of an array of the same shape on each."""
        ...

    def lowest(self, array: np.ndarray) -> np.ndarray:
        """The minimum over ranks of each element."""
        ...

    def highest(self, array: np.ndarray) -> np.ndarray:
        """The maximum over ranks of each element."""
        ...


class Alone:
    """The crew of one process."""

    rank = 0
    size = 1

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self.cores = usable_cores()

    def shared(self, function: Callable[[], T]) -> T:
        """See :class:`Crew`."""
        return function()

    def run(self, jobs: Sequence[int], work: Callable[[int], None], what: str, done: int = 0) -> None:
        """See :class:`Crew`."""
        for job in progress(jobs, what, total=done + len(jobs), start=done, quiet=self.quiet):
            work(job)

    def poll(self) -> None:
        """See :class:`Crew`."""

    def gather(self, value: T) -> list[T]:
        """See :class:`Crew`."""
        return [value]

    def total(self, array: np.ndarray) -> np.ndarray:
        """See :class:`Crew`."""
        return array

    def lowest(self, array: np.ndarray) -> np.ndarray:
        """See :class:`Crew`."""
        return array

    def highest(self, array: np.ndarray) -> np.ndarray:
        """See :class:`Crew`."""
        return array


ALONE = Alone()
