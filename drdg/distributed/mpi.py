"""Station 3, MPI: the processes of ``mpiexec`` or ``srun`` as one crew (see ``drdg.shards.crew``) that fails as one.

No rank waits busily, since MPI's own collectives spin: ranks meet first, asleep, and then exchange without delay.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import pickle
import stat
import struct
import sys
import termios
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import numpy as np

from drdg.distributed.jobs import EXPECTED, Desk, wait, work_for
from drdg.distributed.topology import mpi_place
from drdg.progress import progress

if TYPE_CHECKING:
    from mpi4py import MPI

T = TypeVar("T")
# What srun --mpi= must say for the libraries whose name MPI gives; others' documentation tells.
SRUN_FLAVOURS = {"MPICH": "pmi2", "Intel MPI": "pmi2", "MVAPICH": "pmi2", "MVAPICH2": "pmi2", "Open MPI": "pmix"}
# Longer than processes that were started together differ in when they are here.
FIRST_WORD_S = 3.0
# For how long a rank that ends all others waits until its last words are read.
LAST_WORD_S = 5.0


class _Ended(Exception):
    """The work ends because of another rank's error, which :func:`open_crew` raises in the place of this."""


class MpiCrew:
    """The ranks of an MPI communicator. All call the same methods in the same order.

    What is raised for a user's mistake (``ValueError``, ``OSError``, ``FloatingPointError``) inside of :meth:`shared`
    or :meth:`run` ends all ranks with that error, the lowest rank's where several raise.
    """

    def __init__(self, comm: MPI.Intracomm, quiet: bool = False) -> None:
        self.rank: int = comm.rank
        self.size: int = comm.size
        self.cores = _own_cores(comm)
        self.quiet = quiet
        self._comm = comm
        self._desk: Desk | None = None
        # The rank whose error has ended the work.
        self._failed: int | None = None

    def shared(self, function: Callable[[], T]) -> T:
        """What ``function`` gives on rank 0, on every rank; it must be picklable."""
        outcome: tuple[T] | None = None
        error: Exception | None = None
        if self.rank == 0:
            try:
                outcome = (function(),)
            except EXPECTED as raised:
                error = raised
        self._meet()
        outcome = self._comm.bcast(outcome)
        if outcome is None:
            self._fail(0, error)
        return outcome[0]

    def run(self, jobs: Sequence[int], work: Callable[[int], None], what: str, done: int = 0) -> None:
        """Call ``work`` once for each of rank 0's ``jobs`` (0 or greater), each on the rank that is free for it.

        ``work`` calls :meth:`poll` between its small steps, as all other ranks wait for rank 0's answers. After an
        error each rank ends the job that it is at, and the one that it may have been given ahead.
        """
        if self.rank == 0:
            self._desk = desk = Desk(self._comm, jobs)
            rounds = desk.work_through(work)
            for _ in progress(rounds, what, total=done + len(jobs), start=done, quiet=self.quiet):
                pass
            self._desk, error = None, desk.error
        else:
            error = work_for(self._comm, work)
        failed = [rank for rank, is_failed in enumerate(self.gather(error is not None)) if is_failed]
        if failed:
            self._fail(failed[0], error)

    def poll(self) -> None:
        """Give other ranks the jobs they ask for, if this is rank 0; some two microseconds."""
        if self._desk is not None:
            self._desk.serve()

    def gather(self, value: T) -> list[T]:
        """The value of each rank, on every rank; it must be picklable."""
        self._meet()
        return self._comm.allgather(value)

    def total(self, array: np.ndarray) -> np.ndarray:
        """The sum over ranks of an int64 or float64 array of the same shape on each."""
        from mpi4py import MPI

        return self._reduce(array, MPI.SUM)

    def lowest(self, array: np.ndarray) -> np.ndarray:
        """The minimum over ranks of each element."""
        from mpi4py import MPI

        return self._reduce(array, MPI.MIN)

    def highest(self, array: np.ndarray) -> np.ndarray:
        """The maximum over ranks of each element."""
        from mpi4py import MPI

        return self._reduce(array, MPI.MAX)

    def last_word(self, error: BaseException) -> BaseException | None:
        """The error that ends every rank, given this one's: None where it is this one's own."""
        self._meet()
        word = self._comm.bcast(_portable(error) if self.rank == self._failed else None, self._failed or 0)
        if self.rank == self._failed:
            return None
        word.said_elsewhere = True
        return word

    @property
    def has_failed(self) -> bool:
        """Whether all ranks know that one has failed."""
        return self._failed is not None

    def _reduce(self, array: np.ndarray, operation: MPI.Op) -> np.ndarray:
        array = np.ascontiguousarray(array)
        reduced = np.empty_like(array)
        self._meet()
        self._comm.Allreduce(array, reduced, operation)
        return reduced

    def _meet(self) -> None:
        wait(self._comm.Ibarrier().Test)

    def _fail(self, rank: int, error: Exception | None) -> NoReturn:
        self._failed = rank
        if rank == self.rank and error is not None:
            raise error
        raise _Ended


@contextmanager
def open_crew(alone: T, quiet: bool = False) -> Iterator[MpiCrew | T]:
    """All processes that an MPI launcher has started, as one crew; ``alone`` where there is only this one.

    With ``quiet`` they show no progress. MPI is loaded only for several. An error that ends them is raised on each,
    with an attribute ``said_elsewhere`` on those where it did not happen. One that only this process knows of (a
    mistake of ours, or a user's outside of what ranks do together) ends the others as soon as this process has said it
    and exits. Raises ``ValueError`` when there is no MPI, or when each process would be alone in it.
    """
    rank, processes = mpi_place()
    if processes == 1:
        yield alone
        return
    world = join_world(rank, processes)
    crew = MpiCrew(world, quiet)
    try:
        yield crew
    except BaseException as error:
        if not crew.has_failed:
            # After the interpreter has shown it: Abort ends this process, too.
            atexit.register(_abort, world)
            if isinstance(error, KeyboardInterrupt) and rank > 0:
                error.said_elsewhere = True  # type: ignore[attr-defined]
            raise
        word = crew.last_word(error)
        if word is None:
            raise
        raise word from None


def join_world(rank: int, processes: int) -> MPI.Intracomm:
    """MPI's communicator of ``processes``, of which this one is ``rank``.

    Raises ``ValueError`` when there is no MPI, or when each process would be alone in it.
    """
    try:
        with warnings.catch_warnings():
            # Of variables of another MPI's launcher; what they lead to is said below.
            warnings.simplefilter("ignore", RuntimeWarning)
            from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"{processes} processes were started, but MPI cannot be loaded ({reason}): pip install 'drdg[mpi]', load "
            "the MPI module of your site, or start one process"
        ) from error
    world = MPI.COMM_WORLD
    if world.size != processes:
        library = MPI.get_vendor()[0]
        flavour = SRUN_FLAVOURS.get(library, "FLAVOUR")
        refused: Any = ValueError(
            f"{processes} processes were started, but {library}, the MPI that mpi4py loads, sees {world.size}, so each "
            f"would do all the work: start them by srun --mpi={flavour} or by the mpiexec of {library}"
        )
        if rank > 0:
            # Many a launcher ends all processes with the first that ends badly: let that be the one that says why.
            refused.said_elsewhere = True
            time.sleep(FIRST_WORD_S)
        raise refused
    return world


def _abort(world: MPI.Intracomm) -> None:
    """End all ranks, once the launcher has what this one has said: it drops what it has not read by then."""
    try:
        sys.stderr.flush()
        end = time.monotonic() + LAST_WORD_S
        while _is_unread(sys.stderr.fileno()) and time.monotonic() < end:
            time.sleep(0.01)
    finally:
        world.Abort(1)


def _is_unread(descriptor: int) -> bool:
    """Whether bytes written to a pipe wait for its reader; false for what is no pipe."""
    if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
        return False
    count = fcntl.ioctl(descriptor, termios.FIONREAD, struct.pack("i", 0))
    return bool(struct.unpack("i", count)[0])


def _own_cores(comm: MPI.Intracomm) -> int:
    """Cores that this process has for itself; of those that ranks of its node share, its part, and at least one."""
    from mpi4py import MPI

    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    node = comm.Split_type(MPI.COMM_TYPE_SHARED)
    users = Counter(core for cores in node.allgather(usable) for core in cores)
    node.Free()
    return max(1, int(sum(1 / users[core] for core in usable) + 1e-9))


def _portable(error: BaseException) -> BaseException:
    """The error, or its words where it cannot travel."""
    try:
        copy = pickle.loads(pickle.dumps(error))
    except Exception:  # a class may refuse in any way it likes
        return ValueError(str(error))
    return copy if type(copy) is type(error) else ValueError(str(error))
