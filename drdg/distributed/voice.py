"""Station 3, ranks: what stops all ranks is said once, not once by each of five hundred.

An error with the attribute ``said_elsewhere`` set ends a command without its sentence (``drdg/cli.py``).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from drdg.distributed.topology import Topology, is_first_on_node

if TYPE_CHECKING:
    from torch.distributed import Store

# Errors come to all ranks within an iteration, or not to all; and a store may never answer when its rank is cut off.
PATIENCE_S = 5.0
POLL_S = 0.02


@contextmanager
def once_per_node() -> Iterator[None]:
    """Let one process of each node say what the block raises, unless that is settled already.

    Before ranks have met, none knows what the others have to say; but what is wrong with a command or a configuration
    is wrong for all, and what is wrong with a node is so for all its processes.
    """
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        if not hasattr(error, "said_elsewhere"):
            error.said_elsewhere = not is_first_on_node()  # type: ignore[union-attr]
        raise


@contextmanager
def once_per_run(store: Store, topology: Topology) -> Iterator[None]:
    """Let the first rank that raises a sentence in the block say it. Where ``store`` is gone, each says its own."""
    try:
        yield
    except Exception as error:
        if not hasattr(error, "said_elsewhere"):
            error.said_elsewhere = not _is_first_to_say(error, store, topology)  # type: ignore[attr-defined]
        raise


def _is_first_to_say(error: Exception, store: Store, topology: Topology) -> bool:
    from drdg.distributed.lost import RankLost  # and with it torch, which the command's --help does not wait for

    # Of a lost rank each of the others has another tale, and one is enough.
    sentence = "lost" if isinstance(error, RankLost) else f"{type(error).__name__}: {error}"
    answer: list[bool] = []

    def ask() -> None:
        try:
            answer.append(store.add(f"said/{sentence}", 1) == 1)
            store.add("said", 1)
            if topology.rank == 0:  # the store lives in this process; with it the others' answers would be gone
                _wait_for_questions(store, topology.world_size)
        except RuntimeError:  # of a store that is gone
            pass

    asking = threading.Thread(target=ask, name="voice", daemon=True)
    asking.start()
    asking.join(PATIENCE_S)
    return answer[0] if answer else True


def _wait_for_questions(store: Store, ranks: int) -> None:
    end = time.monotonic() + PATIENCE_S
    while store.add("said", 0) < ranks and time.monotonic() < end:
        time.sleep(POLL_S)
