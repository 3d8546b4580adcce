"""Station 6, doctor: where the ranks meet, how one that comes says who it is, and what it leaves when it cannot come.

They meet at the master's port, as training will. Where that is taken, which is for the page to say, or torchrun's agent
holds it for good, they take one of those after it.
"""

from __future__ import annotations

import json
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from drdg.distributed.topology import Topology
from drdg.doctor.answers import Rank
from drdg.doctor.context import Context
from drdg.doctor.wire import words
from drdg.files import write_text

GREETING = "drdg-doctor"
# Ports after the master's that are tried, and the last one that there is.
SPARE_PORTS, LAST_PORT = 8, 65535
# A note that is older was left by a job that died, not by a rank of this one.
OLD_NOTE_S = 900.0


def candidates(topology: Topology) -> list[int]:
    """The ports at which rank 0 may wait for the others, in the order in which both sides try them."""
    assert topology.master_port is not None
    first = topology.master_port + (topology.launcher == "torchrun")
    return list(range(first, min(first + SPARE_PORTS, LAST_PORT + 1)))


def listen(port: int, queue: int = 128) -> socket.socket:
    """A socket that listens at ``port`` on all addresses of this host. Raises ``OSError`` when it is taken."""
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=queue)
    return socket.create_server(("", port), backlog=queue)


def listen_anywhere(topology: Topology) -> tuple[socket.socket, str]:
    """A socket that listens at the first candidate that is free, and why it is not the master's port, or nothing.

    Raises ``OSError`` when none is.
    """
    reason = ""
    for port in candidates(topology):
        try:
            return listen(port), reason
        except OSError as error:
            if port == topology.master_port:
                reason = words(error)
            last = error
    raise OSError(
        f"rank 0 can listen at none of the ports {candidates(topology)[0]} to {candidates(topology)[-1]} of this host "
        f"({words(last)}); set another MASTER_PORT, or allow this user to open ports"
    )


def greeting(context: Context, connect_s: float, tries: int) -> dict[str, Any]:
    """What a rank says first."""
    place, rank = context.topology, context.rank
    return {
        "to": GREETING,
        "rank": rank.number,
        "world": place.world_size,
        "host": rank.host,
        "local": rank.local,
        "local_size": rank.local_size,
        "launcher": place.launcher,
        "connect_s": connect_s,
        "tries": tries,
    }


def who(message: dict[str, Any], world_size: int) -> Rank:
    """The rank that has sent a greeting. Raises ``ValueError`` with the reason to refuse it."""
    if message.get("to") != GREETING:
        raise ValueError("somebody else asked something")
    rank = Rank(int(message["rank"]), str(message["host"]), int(message["local"]), int(message["local_size"]))
    if message["world"] != world_size:
        raise ValueError(
            f"{rank.host} sent rank {rank.number} of {message['world']}, while rank 0 is one of {world_size}"
        )
    if not 0 < rank.number < world_size:
        raise ValueError(f"{rank.host} sent rank {rank.number}, which cannot be beside rank 0 of {world_size}")
    return rank


def note_path(context: Context, rank: int) -> Path:
    """Where a rank that cannot come says why: in the run's folder, which all should see."""
    return context.root / f".drdg-doctor-{context.job}.{rank}.note"


def leave_note(context: Context, reason: str) -> None:
    """Say why this rank cannot come, if the run's folder can be written."""
    with suppress(OSError):
        text = json.dumps({"host": context.host, "reason": reason, "time_s": time.time()})
        write_text(note_path(context, context.rank.number), text)
        context.kept["noted"] = True


def remove_note(context: Context) -> None:
    """Take this rank's note away."""
    with suppress(OSError):
        note_path(context, context.rank.number).unlink(missing_ok=True)


def is_taken(context: Context) -> bool:
    """Whether this rank has left a note, and rank 0 has taken it."""
    return "noted" in context.kept and not note_path(context, context.rank.number).exists()


def take_notes(context: Context, missing: list[int]) -> dict[int, tuple[str, str]]:
    """The hosts of ``missing`` ranks, and the reasons, as far as they have left notes; which are removed."""
    found = {}
    for rank in missing:
        path = note_path(context, rank)
        with suppress(OSError, ValueError, KeyError, TypeError):
            note = json.loads(path.read_text())
            path.unlink()
            if abs(time.time() - note["time_s"]) < OLD_NOTE_S:
                found[rank] = (str(note["host"]), str(note["reason"]))
    return found
