"""Station 2, members: what lies in a shard's tar, found and read without trusting a byte of it.

``drdg.shards.codec`` reads what an index vouches for; this reads what may be damaged, for ``drdg.verify.audit``.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

import numpy as np
import zstandard

from drdg.shards.codec import SUFFIX

# What reading bytes that may be anything can raise.
UNREADABLE = (OSError, ValueError, OverflowError, MemoryError, RecursionError, tarfile.TarError, zstandard.ZstdError)
# A .npy of version 1.0 as NumPy writes it: magic, two bytes of length, a header. No side has more than nine digits.
NPY = re.compile(
    rb"\x93NUMPY\x01\x00(.{2})\{'descr': '(\|u1|<u2)', 'fortran_order': False, "
    rb"'shape': \(([0-9]{1,9},(?: [0-9]{1,9}(?:, [0-9]{1,9})*)?)\), \} *\n",
    re.DOTALL,
)
LENGTH_ENDS = 10


@dataclass(frozen=True)
class Member:
    """One member of a tar: its sample's key, its logical name (``image.npy``), where its bytes lie."""

    key: str
    name: str
    compressed: bool
    offset: int
    size: int

    def __str__(self) -> str:
        return f"{self.key}.{self.name}{SUFFIX * self.compressed}, {self.size} bytes at {self.offset}"


def read_members(file: IO[bytes], size: int) -> Iterator[Member]:
    """The members of a tar of ``size`` bytes as Python's tarfile finds them.

    Raises one of ``UNREADABLE`` at the first that no shard can hold. A header that is damaged beyond that is the end
    of the tar to tarfile, so whoever calls must know how many to expect.
    """
    file.seek(0)
    with tarfile.open(fileobj=file, mode="r:") as tar:
        for info in tar:
            key, _, name = info.name.partition(".")
            if not info.isreg() or not name or info.offset_data + info.size > size:
                raise ValueError(f"its tar has a damaged member at byte {info.offset}")
            yield Member(key, name.removesuffix(SUFFIX), name.endswith(SUFFIX), info.offset_data, info.size)


def samples_of(members: list[Member]) -> Iterator[list[Member]]:
    """Runs of members with the same key, each of which a WebDataset reader takes for a sample."""
    sample: list[Member] = []
    for member in members:
        if sample and sample[0].key != member.key:
            yield sample
            sample = []
        sample.append(member)
    if sample:
        yield sample


def read_array(data: bytes, member: Member, most: int) -> tuple[np.ndarray, int | None]:
    """The array in a member's bytes, and where in the shard its own start if they are not compressed.

    A compressed one of more than ``most`` bytes is refused unread. Raises one of ``UNREADABLE`` with what is wrong.
    """
    if member.compressed:
        unpacked = zstandard.frame_content_size(data)
        if not 0 < unpacked <= most:
            raise ValueError(f"is a Zstandard frame of {unpacked} bytes")
        data = zstandard.ZstdDecompressor().decompress(data)
    # NumPy's own reader evaluates a header, of which only what its writer writes is right here.
    header = NPY.match(data)
    if not header or header.end() != LENGTH_ENDS + int.from_bytes(header[1], "little"):
        raise ValueError("is no .npy of uint8 or uint16 in C order")
    shape = tuple(int(side) for side in header[3].split(b",") if side.strip())
    array = np.frombuffer(data, dtype=header[2].decode(), offset=header.end())
    if array.size != int(np.prod(shape, dtype=object)):
        raise ValueError(f"holds {array.size} values instead of the {shape} it says")
    return array.reshape(shape), None if member.compressed else member.offset + header.end()
