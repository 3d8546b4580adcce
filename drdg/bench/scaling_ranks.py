"""Station 7, bench: two ranks that live as long as the bench does and train when they are asked to.

So runs of one rank and of two, and of several backends, can take turns within seconds. Does not load torch here: each
rank is a process of its own.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from drdg.bench.machine import take_core
from drdg.bench.scaling_sizes import RANKS
from drdg.config import Config

if TYPE_CHECKING:
    from typing_extensions import Self

LEAVE = "leave"
END_S = 10.0


@dataclass(frozen=True)
class Place:
    """What ranks train: the bench's configuration, the shards of both domains, and a folder to write to."""

    config: Config
    shards: tuple[Path, Path]
    out: Path
    sides: tuple[str, ...]
    """The ways of training that will be asked for; see :mod:`drdg.bench.scaling_worker`."""


class Ranks:
    """The ranks, a core each; they end with the block."""

    def __init__(self, place: Place):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        # Not forked: this process may have threads, whose locks a copy of it would hold for ever.
        processes = multiprocessing.get_context("spawn")
        self._ends: list[Connection] = []
        self._processes = []
        for rank in range(RANKS):
            ours, theirs = processes.Pipe()
            process = processes.Process(target=_be_rank, args=(rank, port, theirs, place), name=f"rank {rank}")
            self._ends.append(ours)
            self._processes.append((process, theirs))

    def __enter__(self) -> Self:
        for process, theirs in self._processes:
            process.start()
            theirs.close()  # so that ours says when the process has ended
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for end in self._ends:
            with suppress(ConnectionError):
                end.send((LEAVE, ()))
            end.close()
        for process, _ in self._processes:
            if error is None:
                process.join(END_S)
            process.kill()
            process.join()

    def ask(self, what: str, *arguments: Any, of: Sequence[int] = range(RANKS)) -> list[Any]:
        """Call the method ``what`` of the workers of ranks ``of``, at once; what each gives.

        Raises ``ValueError`` when one fails or has ended.
        """
        answers = []
        for rank in of:
            with suppress(ConnectionError):  # said below
                self._ends[rank].send((what, arguments))
        for rank in of:
            try:
                answer, error = self._ends[rank].recv()
            except (EOFError, ConnectionError):
                raise ValueError(f"rank {rank} of the bench has ended; it was to answer: {what}") from None
            if error is not None:
                raise ValueError(f"rank {rank} of the bench: {error}")
            answers.append(answer)
        return answers


def _be_rank(rank: int, port: int, end: Connection, place: Place) -> None:
    take_core(rank)  # before there are threads, which then stay on it
    os.dup2(2, 1)  # results alone go to standard output, and libraries talk
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # as launch/train.py has it
    try:
        from drdg.bench.scaling_worker import worker

        with worker(place, rank, port) as work:
            while (request := end.recv())[0] != LEAVE:
                what, arguments = request
                end.send((getattr(work, what)(*arguments), None))
    except (EOFError, KeyboardInterrupt):
        return  # the bench has ended, or is being ended
    except Exception as error:
        if not isinstance(error, ValueError | OSError | FloatingPointError):
            traceback.print_exc()
        with suppress(ConnectionError):  # the bench has ended
            end.send((None, f"{type(error).__name__}: {error}"))
