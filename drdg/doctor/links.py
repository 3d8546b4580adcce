"""Station 6, doctor: how fast gradients would be summed over all ranks, and over which link slowest.

Measured with the very process group that training makes, once everything that could keep it from being made was looked
at.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from drdg.doctor.answers import Answer, Rank, leaders, listed, milliseconds
from drdg.doctor.context import Context
from drdg.doctor.files import gigabytes
from drdg.doctor.finding import Finding, ok, warning
from drdg.doctor.networks import Networks

if TYPE_CHECKING:
    from torch import Tensor

    from drdg.distributed.group import Group

CHECK, LINKS = "all-reduce", "links"
FLOAT_BYTES = 4
TINY_BYTES, TINY_REPEATS = 8, 30
SIZES_BYTES = (1 << 16, 1 << 20, 1 << 23, 1 << 26)
# A size is measured up to so often and so long, and the next one only if it is not expected to take longer.
REPEATS, REPEATS_S, LONGEST_S = 5, 0.5, 1.5
PAIR_BYTES = 1 << 23
# Pairs of more nodes take longer than they are worth: 16 have 120, in 15 rounds.
MOST_NODES = 16
# Slower than what is common: a network of 10 Gbit/s carries 1.2 GB/s, of 1 Gbit/s 120 MB/s. On GPUs an iteration takes
# milliseconds, on CPUs seconds.
SLOW_BYTES_PER_S = {"nccl": 1e9, "gloo": 1e8}
SLOW_LATENCY_S = 0.01
# A link this much slower than the median of all has a fault.
SLOW_LINK = 0.5


def probe(context: Context, ranks: Sequence[int], port: int | None) -> dict[str, Any]:
    """Seconds of all-reduces over ``ranks``, in this order, and of an exchange between nodes.

    With ``port`` they meet there at the master's, instead of where training's would: some are missing.
    """
    from drdg.distributed.group import process_group

    place = context.topology
    if port is not None:
        place = replace(
            place, rank=list(ranks).index(place.rank), world_size=len(ranks), master_port=port, launcher="doctor"
        )
    settings = context.config.distributed.model_copy(
        update={"timeout_s": max(1, int(context.timeout)), "backend": "ddp"}
    )
    with process_group(settings, place) as group:
        return {"backend": backend(group), **measure(group), **measure_links(group, context)}


def backend(group: Group) -> str:
    """``gloo`` or ``nccl``."""
    return "nccl" if group.device.type == "cuda" else "gloo"


def measure(group: Group) -> dict[str, Any]:
    """Seconds of an all-reduce of 8 bytes, and of each size that is not too slow; the median of a few."""
    import torch

    latency = statistics.median(
        _repeated(group, torch.zeros(TINY_BYTES // FLOAT_BYTES, device=group.device), TINY_REPEATS)
    )
    sizes: dict[str, float] = {}
    seconds = latency
    for before, size in zip((0, *SIZES_BYTES), SIZES_BYTES, strict=False):
        if before and seconds * size / before > LONGEST_S:
            break
        times = _repeated(group, torch.zeros(size // FLOAT_BYTES, device=group.device), REPEATS)
        seconds = sizes[str(size)] = _agreed(group, statistics.median(times))
    return {"latency_s": latency, "sizes": sizes}


def _repeated(group: Group, values: Tensor, most: int) -> list[float]:
    """Seconds of at most ``most`` all-reduces, as many on each rank; the first, which connects, is not counted."""
    first = _agreed(group, _timed(group, values))
    count = max(1, min(most, int(REPEATS_S / max(first, 1e-6))))
    return [_timed(group, values) for _ in range(count)]


def _timed(group: Group, values: Tensor) -> float:
    import torch.distributed as dist

    _synchronise(group)
    began = time.perf_counter()
    dist.all_reduce(values)
    _synchronise(group)
    return time.perf_counter() - began


def _agreed(group: Group, seconds: float) -> float:
    """The mean over ranks, so that all decide alike."""
    import torch

    return float(group.sum(torch.tensor(seconds, device=group.device))) / group.world_size


def _synchronise(group: Group) -> None:
    import torch

    if group.device.type == "cuda":
        torch.cuda.synchronize(group.device)


def measure_links(group: Group, context: Context) -> dict[str, Any]:
    """Bytes a second between the first ranks of each two nodes, both ways, several pairs at a time."""
    import torch
    import torch.distributed as dist

    names: list[Any] = [None] * group.world_size
    dist.all_gather_object(names, context.host)
    ends = [rank.number for rank in leaders(Rank(number, host) for number, host in enumerate(names))]
    if not 1 < len(ends) <= MOST_NODES:
        return {"links": {}}
    values = torch.zeros(PAIR_BYTES // FLOAT_BYTES, device=group.device)
    speeds = torch.zeros(group.world_size, device=group.device)
    links = {}
    for pairs in rounds(ends):
        dist.barrier()
        mine = next((pair for pair in pairs if group.rank in pair), None)
        speeds.zero_()
        if mine is not None:
            speeds[group.rank] = PAIR_BYTES / _exchange(group, mine, values)
        everyone = group.sum(speeds).tolist()
        for one, other in pairs:
            links[f"{names[one]} - {names[other]}"] = min(everyone[one], everyone[other])
    return {"links": links}


def rounds(ends: Sequence[int]) -> list[list[tuple[int, int]]]:
    """All pairs of ``ends``, in rounds in which each has at most one: a round-robin tournament, by the circle."""
    players: list[int | None] = [*ends, *([None] if len(ends) % 2 else [])]
    found = []
    for _ in range(len(players) - 1):
        half = len(players) // 2
        facing = zip(players[:half], reversed(players[half:]), strict=True)
        found.append([(min(a, b), max(a, b)) for a, b in facing if a is not None and b is not None])
        players = [players[0], players[-1], *players[1:-1]]
    return found


def _exchange(group: Group, pair: tuple[int, int], values: Tensor) -> float:
    """Seconds for ``values`` one way, from a few to and fro."""
    import torch.distributed as dist

    one, other = pair

    def there_and_back() -> None:
        if group.rank == one:
            dist.send(values, other)
            dist.recv(values, other)
        else:
            dist.recv(values, one)
            dist.send(values, one)
        _synchronise(group)

    there_and_back()
    began = time.perf_counter()
    there_and_back()
    return (time.perf_counter() - began) / 2


def judge(answers: Sequence[Answer], networks: Networks | None) -> list[Finding]:
    """Whether sums over ranks come soon enough for what ``networks`` send; rank 0's figures, which comes first."""
    value = answers[0].value
    size, seconds = max((int(name), taken) for name, taken in value["sizes"].items())
    speed = size / seconds
    latency = value["latency_s"]
    measured = (
        f"{value['backend']}: {TINY_BYTES} bytes in {milliseconds(latency)}, {gigabytes(size)} in "
        f"{milliseconds(seconds)} ({gigabytes(speed)}/s)"
    )
    figures: dict[str, Any] = {"latency_s": latency, "bytes_per_s": speed, "bytes": size}
    if networks is not None:
        wait = networks.iteration_bytes / speed
        measured += (
            f"; an iteration of {networks.row} sends {gigabytes(networks.iteration_bytes)} on average (critics "
            f"{gigabytes(networks.critic_bytes)}, generators {gigabytes(networks.generator_bytes)}"
            f"{_every(networks.n_critic)}): {milliseconds(wait)}"
        )
        figures |= {"iteration_bytes": networks.iteration_bytes, "iteration_s": wait}
    found = [_speed_finding(value["backend"], speed, latency, measured, figures)]
    if value["links"]:
        found.append(_slowest_link(value["links"]))
    return found


def _speed_finding(backend: str, speed: float, latency: float, measured: str, figures: dict[str, Any]) -> Finding:
    variable = f"{backend.upper()}_SOCKET_IFNAME"
    if speed < SLOW_BYTES_PER_S[backend]:
        cure = f"see that {variable} names the fast network, and that no other job or too many threads take the cores"
        return warning(CHECK, measured, cure, **figures)
    if latency > SLOW_LATENCY_S:
        cure = "give each rank cores of its own (sbatch --cpus-per-task), and see that packets are not lost"
        return warning(CHECK, measured, cure, **figures)
    return ok(CHECK, measured, **figures)


def _slowest_link(links: dict[str, float]) -> Finding:
    slowest = min(links, key=lambda name: links[name])
    middle = statistics.median(links.values())
    measured = f"slowest of {len(links)}: {slowest}, {gigabytes(links[slowest])}/s one way"
    figures = {"slowest_bytes_per_s": links[slowest], "median_bytes_per_s": middle}
    if len(links) > 1 and links[slowest] < SLOW_LINK * middle:
        slow = sorted(name for name in links if links[name] < SLOW_LINK * middle)
        measured = f"{listed(slow)}: {gigabytes(links[slowest])}/s, the median of {len(links)} {gigabytes(middle)}/s"
        cure = "leave that node out (sbatch --exclude), and let the site look at its network card and cable"
        return warning(LINKS, measured, cure, **figures)
    return ok(LINKS, measured, **figures)


def _every(number: int) -> str:
    if number == 1:
        return ""
    ending = {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th") if number % 100 not in (11, 12, 13) else "th"
    return f" every {number}{ending} time"
