"""Station 2, tar: samples appended to one tar file, with a note of where each array's bytes come to lie.

Members are ``KEY.json``, ``KEY.image.npy`` and so on, so that every WebDataset reader and every ``tar`` can read them.
The standard library formats the headers; its writer is not used because it copies each array four times.
"""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import xxhash

from drdg.datasets.base import VOID
from drdg.shards.codec import SUFFIX, Codec, compress, npy_header

# What is worth compressing; of the other members each is a few kilobytes at most.
LARGE = ("image.npy", "dsm.npy", "label.npy")
# Written bytes are handed to the disk each time this many have come together, so that it works while the next are
# being made, and the sync at the end waits for the last of them only.
FLUSH_BYTES = 16 << 20
# Label values that are counted one by one before all 256 are.
FEW_VALUES = 7


@dataclass(frozen=True)
class Member:
    """One member of a sample as it will be written: its suffix in the tar, its bytes in parts, and what the index says
    of it besides its place; ``header`` is the length of what stands before a raw array's own bytes.
    """

    suffix: str
    parts: tuple[bytes | memoryview, ...]
    described: dict[str, Any]
    header: int | None = None


@dataclass(frozen=True)
class EncodedSample:
    """A sample ready to be written: its members by logical name, and how many label pixels have each value."""

    key: str
    members: dict[str, Member]
    label_pixels: np.ndarray


def encode(sample: Mapping[str, Any], codec: Codec) -> EncodedSample:
    """Prepare a sample: ``__key__``, and under each member's suffix an array or plain values.

    Holds the arrays it is given if they are contiguous, copies of them otherwise. May be called in several threads.
    """
    members: dict[str, Member] = {}
    pixels = np.zeros(256, dtype=np.int64)
    for name, value in sample.items():
        if name.endswith("npy"):
            array = np.ascontiguousarray(value)
            if name == "label.npy":
                pixels = count_values(array)
            members[name] = _encode_array(name, array, codec)
        elif name != "__key__":
            assert name.endswith("json"), f"no encoding for {name}"
            members[name] = Member(name, (json.dumps(value, sort_keys=True, allow_nan=False).encode(),), {})
    return EncodedSample(sample["__key__"], members, pixels)


def _encode_array(name: str, array: np.ndarray, codec: Codec) -> Member:
    header = npy_header(array.shape, array.dtype)
    described = {"shape": list(array.shape), "dtype": array.dtype.str}
    if codec.name == "zstd" and name in LARGE:
        frame = compress(header, array, codec.level)
        return Member(name + SUFFIX, (frame,), {"codec": "zstd", **described})
    return Member(name, (header, array.data.cast("B")), described, len(header))


class ShardFile:
    """A tar that is being written to ``file``; counts, hashes (XXH3, 128 bits) and locates what it writes."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.bytes = 0
        self.hash = xxhash.xxh3_128()
        self.samples: list[dict[str, Any]] = []
        """Key and members of each sample, in order: where a member's bytes lie, and a raw array's own in them."""
        self.label_pixels = np.zeros(256, dtype=np.int64)
        """How many label pixels have each value."""
        self._flushed = 0

    def add(self, sample: EncodedSample) -> None:
        """Append a sample."""
        members = {name: self._add(sample.key, member) for name, member in sample.members.items()}
        self.samples.append({"key": sample.key, "members": members})
        self.label_pixels += sample.label_pixels
        self._start_flushing()

    def close(self) -> None:
        """Append the end of the archive; the file stays open."""
        end = self.bytes + 2 * tarfile.BLOCKSIZE
        self._write(bytes(2 * tarfile.BLOCKSIZE + -end % tarfile.RECORDSIZE))

    def _add(self, key: str, member: Member) -> dict[str, Any]:
        info = tarfile.TarInfo(f"{key}.{member.suffix}")
        info.size = sum(len(part) for part in member.parts)
        # Nothing of when, where and by whom it was written, so that writing it again gives the same bytes.
        info.mtime, info.mode, info.uname, info.gname = 0, 0o644, "drdg", "drdg"
        self._write(info.tobuf(tarfile.USTAR_FORMAT))
        place = {"offset": self.bytes, "size": info.size}
        for part in member.parts:
            self._write(part)
        self._write(bytes(-info.size % tarfile.BLOCKSIZE))
        if member.header is not None:
            place["data"] = place["offset"] + member.header
        return {**place, **member.described}

    def _write(self, data: bytes | memoryview) -> None:
        self.hash.update(data)
        self.file.write(data)
        self.bytes += len(data)

    def _start_flushing(self) -> None:
        if self.bytes - self._flushed < FLUSH_BYTES or not hasattr(os, "posix_fadvise"):
            return
        self.file.flush()
        # Linux starts to write dirty pages that are said to be needed no more, and does not wait for them.
        os.posix_fadvise(self.file.fileno(), self._flushed, self.bytes - self._flushed, os.POSIX_FADV_DONTNEED)
        self._flushed = self.bytes


def count_values(label: np.ndarray) -> np.ndarray:
    """How many pixels of a uint8 array have each value, int64 (256)."""
    counts = np.zeros(256, dtype=np.int64)
    # Labels have few values: a pass for each is faster than np.bincount, which makes every pixel an int64.
    for value in (*range(FEW_VALUES), VOID):
        counts[value] = np.count_nonzero(label == value)
        if counts.sum() == label.size:
            return counts
    return np.bincount(label.ravel(), minlength=256)
