"""Station 7, bench: what a rank gives to collectives, and what the kernel then sends for it.

Collectives are seen where torch dispatches them to the process group, which is below DDP's reducer and below DeepSpeed.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

FILES = Path("/proc/self/fd")
# struct tcp_info of linux/tcp.h, which only ever grows: tcpi_bytes_sent and tcpi_bytes_retrans, since Linux 4.19.
TCP_INFO_BYTES, BYTES_SENT, BYTES_RESENT = 256, 200, 208
# DeepSpeed fills ZeRO's flat buffers up to a multiple of this for each rank (its nccl_start_alignment_factor).
ZERO_ALIGNMENT = 2


@dataclass(frozen=True)
class Collective:
    """One call: its name, such as ``allreduce_``, and the bytes and the type of what this rank puts in."""

    name: str
    bytes: int
    dtype: torch.dtype

    @property
    def gathers(self) -> bool:
        """Whether it hands round what ranks have, rather than adding it up."""
        return "gather" in self.name


class Collectives(TorchDispatchMode):
    """Notes in ``seen`` every collective of this process within the block, whoever calls it, also from C++."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Collective] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Let everything happen as it would."""
        if func.namespace == "c10d" and (given := _given(func, args)):
            name = func._schema.name.partition("::")[2]
            self.seen.append(Collective(name, sum(tensor.nbytes for tensor in given), given[0].dtype))
        return func(*args, **(kwargs or {}))


def reduced(seen: Sequence[Collective], dtype: torch.dtype) -> int:
    """Bytes of ``dtype``, the networks' type, put into collectives that add up: gradients."""
    return sum(collective.bytes for collective in seen if collective.dtype == dtype and not collective.gathers)


def gathered(seen: Sequence[Collective], dtype: torch.dtype) -> int:
    """Bytes of ``dtype``, the networks' type, put into collectives that hand round: ZeRO's new weights."""
    return sum(collective.bytes for collective in seen if collective.dtype == dtype and collective.gathers)


@dataclass(frozen=True)
class Owned:
    """What a phase updates: how many weights, of how many bytes each, at the multiples of ``every`` iterations."""

    weights: int
    weight_bytes: int
    every: int

    def gradients(self) -> int:
        """Bytes that one update has to send: each gradient once."""
        return self.weights * self.weight_bytes

    def piece(self, ranks: int) -> int:
        """Bytes that one update at ZeRO 1 or 2 hands round besides: this rank's equal piece of the new weights."""
        multiple = ZERO_ALIGNMENT * ranks
        return -(-self.weights // multiple) * multiple // ranks * self.weight_bytes

    def updates(self, iterations: int) -> int:
        """In so many iterations from a multiple of ``every`` on."""
        return -(-iterations // self.every)


def ring_bytes(reduced: int, gathered: int, ranks: int) -> float:
    """What a rank sends to its neighbour in a ring: 2 (N - 1) / N of what is added up, N - 1 times a piece that is
    handed round (Patarasu and Yuan, 2009, https://doi.org/10.1016/j.jpdc.2008.09.002).
    """
    return 2 * (ranks - 1) / ranks * reduced + (ranks - 1) * gathered


def bytes_sent_by_tcp() -> int:
    """Bytes that the kernel has sent for this process over the TCP connections it has now, without headers and without
    what was sent again. Raises ``ValueError`` where the system does not count them.
    """
    counts = [_bytes_sent(int(file.name)) for file in (FILES.iterdir() if FILES.is_dir() else ())]
    if all(count is None for count in counts):
        raise ValueError("launch/bench.py: this system does not say what was sent; measure on Linux 4.19 or newer")
    return sum(count for count in counts if count is not None)


def _bytes_sent(number: int) -> int | None:
    """Of file ``number``, None if that is no TCP connection."""
    try:
        copy = os.dup(number)  # so that what is closed below is not the connection
    except OSError:  # closed since it was listed
        return None
    try:
        handle = socket.socket(fileno=copy)
    except OSError:  # no socket
        os.close(copy)
        return None
    with handle:
        if handle.type != socket.SOCK_STREAM or handle.family not in (socket.AF_INET, socket.AF_INET6):
            return None
        info = handle.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_BYTES)
    if len(info) < BYTES_RESENT + 8:
        return None
    sent, resent = struct.unpack_from("=QQ", info, BYTES_SENT)
    return int(sent - resent)


def _given(func: Any, args: tuple[Any, ...]) -> list[Tensor]:
    """The tensors that a collective reads, by the names that its schema gives its arguments."""
    named = dict(zip((argument.name for argument in func._schema.arguments), args, strict=False))
    inputs = next((name for name in named if name.startswith("input")), "tensors")
    value = named.get(inputs)
    tensors = value if isinstance(value, list | tuple) else [value]
    return [tensor for tensor in tensors if isinstance(tensor, Tensor)]
