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


class RankLost(ConnectionError):
    """A collective has failed, as another rank has ended, is cut off or does not answer."""


@contextmanager
def naming_lost_ranks(group: Group, cure: Callable[[], str]) -> Iterator[None]:
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
        raise RankLost(
            f"rank {group.rank} has lost another rank, which has ended, is cut off or does not answer ({reason}); "
            f"{cure()}"
        ) from error
