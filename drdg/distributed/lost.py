"""Station 3, ranks: another rank that has died or does not answer, said in one sentence."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch.distributed as dist

if TYPE_CHECKING:
    from drdg.distributed.group import Group

# How collectives end that cannot end well: words of gloo's and NCCL's errors, which come as plain RuntimeErrors.
WORDS = ("gloo", "nccl", "connection closed by peer", "connection reset", "broken pipe", "timed out waiting")


LOST = 1
LOST_BUT_FURTHER = 76
"""Exit statuses of a rank that has lost another: 76 (EX_PROTOCOL of ``sysexits.h``) where something was saved since it
began, so that to begin again gets further and a batch script may.
"""


class RankLost(ConnectionError):
    """A collective has failed, as another rank has ended, is cut off or does not answer; ``status`` is what the process
    ends with.
    """

    status = LOST


@contextmanager
def naming_lost_ranks(
    group: Group, cure: Callable[[], str], got_further: Callable[[], bool] = lambda: False
) -> Iterator[None]:
    """Raise what collectives in the block raise as a ``RankLost`` of one sentence, which ends in ``cure()``."""
    try:
        yield
    except RuntimeError as error:
        said = str(error).strip()
        if group.world_size == 1 or not (
            isinstance(error, dist.DistError) or any(word in said.lower() for word in WORDS)
        ):
            raise
        # Without the place in gloo's source before it, and its advice after it.
        reason = re.sub(r"^\[[^]]*:\d+\] ", "", said.partition("\n")[0]).partition(". ")[0].rstrip(".")
        lost = RankLost(
            f"rank {group.rank} has lost another rank, which has ended, is cut off or does not answer ({reason}); "
            f"{cure()}"
        )
        lost.status = LOST_BUT_FURTHER if got_further() else LOST
        raise lost from error
