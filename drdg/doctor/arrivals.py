"""Station 6, doctor: the ranks that a launcher started, whether all came, and from where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from drdg.config import Config
from drdg.distributed.topology import Topology
from drdg.doctor.answers import Answer, Rank, groups, leaders, listed, milliseconds, named, numbers
from drdg.doctor.context import Context
from drdg.doctor.finding import Finding, bad, ok, warning

CHECK, PORT, SETTINGS = "ranks", "port", "configuration"
# Between nodes of one cluster a connection takes well below a millisecond; this is a network that crawls, or one whose
# first packets are lost.
SLOW_CONNECT_S = 0.1
# Settings that differ are named, up to so many.
MOST_DIFFERENCES = 3
LARGEST_LISTED = 40


def judge_ranks(
    config: Config,
    topology: Topology,
    arrived: Sequence[Rank],
    missing: Sequence[int],
    notes: Mapping[int, tuple[str, str]],
    strangers: Sequence[str],
    waited_s: float,
) -> list[Finding]:
    """Whether all ranks came, once, and can share the work of ``config``. ``notes`` are those of missing ranks."""
    found = []
    hosts = leaders(arrived)
    per_host = sorted({sum(rank.host == host.host for rank in arrived) for host in hosts})
    spread = f"{numbers(per_host)} on each" if len(hosts) > 1 else f"on {hosts[0].host}"
    world = topology.world_size
    measured = f"{_count(world, 'rank')} on {_count(len(hosts), 'node')} by {topology.launcher}, {spread}"
    if missing:
        where = sorted({host for rank in missing if (host := whereabouts(rank, arrived, notes))})
        of = f", of {listed(where)}," if where else ""
        plural = "s" * (len(missing) > 1)
        found.append(
            bad(
                CHECK,
                f"rank{plural} {numbers(missing)}{of} never came; waited {waited_s:.0f} s for {world} ranks",
                "see what they wrote themselves; without a word, they were not started, or need longer (--timeout)",
                missing=list(missing)[:LARGEST_LISTED],
                hosts=where,
            )
        )
    for stranger in strangers:
        found.append(bad(CHECK, stranger, "end other jobs that use this master and port, or start one job only"))
    pairs = config.gan.batch_size
    if pairs % world:
        found.append(
            bad(
                CHECK,
                f"gan.batch_size={pairs} cannot be shared by {world} ranks",
                f"take a multiple of {world}, such as gan.batch_size={-(-pairs // world) * world}",
            )
        )
    if config.distributed.backend == "single" and world > 1:
        found.append(bad(CHECK, f"distributed.backend=single, but {world} ranks", "set distributed.backend=ddp"))
    if config.distributed.backend == "ddp" and world == 1:
        found.append(bad(CHECK, "distributed.backend=ddp, but one rank", "start more, or set distributed.backend=auto"))
    if len(per_host) > 1 and not missing:
        cure = "give each node as many; the fullest node is the slowest"
        found.append(warning(CHECK, measured, cure, ranks=world, nodes=len(hosts)))
    return found or [ok(CHECK, measured, ranks=world, nodes=len(hosts))]


def whereabouts(missing: int, arrived: Sequence[Rank], notes: Mapping[int, tuple[str, str]]) -> str:
    """The host of a rank that did not come: as it noted itself, or as that of those who share its node; else nothing.

    Launchers number the ranks of a node one after the other unless told otherwise.
    """
    if missing in notes:
        return notes[missing][0]
    for rank in arrived:
        first = rank.number - rank.local
        neighbours = [other for other in arrived if first <= other.number < first + rank.local_size]
        if first <= missing < first + rank.local_size and all(other.host == rank.host for other in neighbours):
            return rank.host
    return ""


def judge_port(
    topology: Topology,
    port_taken: str,
    greetings: Mapping[int, Mapping[str, Any]],
    agent: Sequence[Answer],
    notes: Mapping[int, tuple[str, str]],
) -> list[Finding]:
    """Whether the master's port is rank 0's, and can be reached from everywhere.

    ``agent`` says how each rank reaches torchrun's agent, which then has that port.
    """
    place = f"{topology.master_address}:{topology.master_port}"
    found = []
    if port_taken:
        found.append(
            bad(
                PORT,
                f"{place} cannot be listened at by rank 0 ({port_taken})",
                f"end what has it (on the node: ss -ltnp 'sport = :{topology.master_port}'), or start a new job, "
                "which gets another port",
            )
        )
    for reason in sorted({reason for _, reason in notes.values()}):
        ranks = [rank for rank in sorted(notes) if notes[rank][1] == reason]
        where = listed(sorted({notes[rank][0] for rank in ranks}))
        found.append(
            bad(
                PORT,
                f"rank{'s' * (len(ranks) > 1)} {numbers(ranks)} on {where} cannot reach {place} ({reason})",
                "open the ports between nodes to TCP, and let the master's name mean its address in the job's network",
            )
        )
    failed = groups([answer for answer in agent if answer.value["error"]], lambda value: str(value["error"]))
    for reason, ranks_ in failed.items():
        cure = "open that port to TCP between nodes, or give torchrun another --master-port"
        found.append(bad(PORT, f"{named(ranks_)} cannot reach torchrun's agent at {place} ({reason})", cure))
    times = [float(greeting["connect_s"]) for greeting in greetings.values()]
    times += [float(answer.value["connect_s"]) for answer in agent if not answer.value["error"]]
    if times and not found:
        slowest = max(times)
        measured = f"{place} reached by all, slowest connection {milliseconds(slowest)}"
        if slowest > SLOW_CONNECT_S:
            cure = "see whether packets are lost on the way (ping, ip -s link)"
            found.append(warning(PORT, measured, cure, connect_s=slowest))
        else:
            found.append(ok(PORT, measured, connect_s=slowest))
    return found


def probe_settings(context: Context) -> dict[str, Any]:
    """The whole configuration of this rank, flat."""
    from drdg.tracking.names import flatten

    return {"settings": flatten(context.config.model_dump(mode="json"))}


def judge_settings(answers: Sequence[Answer]) -> list[Finding]:
    """Whether all ranks have the configuration of rank 0, which comes first."""
    mine = answers[0].value["settings"]
    found = []
    different: dict[str, list[Rank]] = {}
    for answer in answers:
        theirs = answer.value["settings"]
        changes = [
            f"{key}={theirs.get(key)} instead of {mine.get(key)}"
            for key in sorted({*mine, *theirs})
            if mine.get(key) != theirs.get(key)
        ]
        if changes:
            more = f" and {len(changes) - MOST_DIFFERENCES} more" if len(changes) > MOST_DIFFERENCES else ""
            different.setdefault(f"{', '.join(changes[:MOST_DIFFERENCES])}{more}", []).append(answer.who)
    for changed, ranks in different.items():
        cure = "start all ranks with the same arguments and the same files"
        verb = "has" if len(ranks) == 1 else "have"
        found.append(bad(SETTINGS, f"{named(ranks)} {verb} {changed}", cure))
    return found or [ok(SETTINGS, "the same on all ranks" if len(answers) > 1 else "read")]


def probe_agent(context: Context) -> dict[str, Any]:
    """How long a connection to torchrun's agent takes, and why there is none."""
    import socket
    import time

    from drdg.doctor.wire import words

    place = context.topology
    began = time.perf_counter()
    try:
        address = (place.master_address or "", place.master_port or 0)
        socket.create_connection(address, timeout=context.timeout / 2).close()
        return {"connect_s": time.perf_counter() - began, "error": ""}
    except OSError as error:
        return {"connect_s": time.perf_counter() - began, "error": words(error)}


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"
