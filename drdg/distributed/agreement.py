"""Station 3, ranks: what any rank knows, on all ranks at the same iteration, without a wait."""

from __future__ import annotations

from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from drdg.distributed.group import Group

T = TypeVar("T")


class Agreement:
    """The largest of the ranks' numbers, one question late: while ranks work, their numbers travel.

    Through the CPU also where ranks compute on GPUs: to read a number from a GPU is to wait for all it has been given.
    Making one, and every call, is for all ranks together.
    """

    def __init__(self, group: Group, timeout: timedelta):
        self._processes = dist.new_group(backend="gloo", timeout=timeout) if group.world_size > 1 else None
        self._travelling: tuple[Tensor, dist.Work] | None = None

    def ask(self, number: int) -> int:
        """Send ``number``, and return the largest that a rank sent the time before; 0 the first time. A rank alone has
        its answer at once.
        """
        if self._processes is None:
            return number
        answer = self.close()
        numbers = torch.tensor([number])
        work = dist.all_reduce(numbers, dist.ReduceOp.MAX, group=self._processes, async_op=True)
        self._travelling = numbers, work
        return answer

    def wait(self) -> None:
        """Wait until what was sent last has arrived. Raises the error of a rank that is gone."""
        if self._travelling is not None:
            self._travelling[1].wait()

    def close(self) -> int:
        """Wait for what still travels, and return the largest number of it."""
        if self._travelling is None:
            return 0
        numbers, work = self._travelling
        self._travelling = None
        work.wait()
        return int(numbers)

    def of_first(self, value: T) -> T:
        """What rank 0 gives as ``value``, which is to be small, on every rank. Waits for what still travels."""
        if self._processes is None:
            return value
        self.close()
        values = [value]
        dist.broadcast_object_list(values, src=0, group=self._processes)
        return values[0]
