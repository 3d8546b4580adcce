"""Station 2, codec: an array as the bytes of a shard's member, and back.

Members are ``.npy``, or with ``shards.codec=zstd`` the same bytes in one Zstandard frame, ``.npy.zst``. Each member is
compressed by itself, so that any sample can be read without the others, and by the ordinary ``zstd`` program too.
"""

from __future__ import annotations

import io
import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import zstandard

SUFFIX = ".zst"
# Contexts cost more to make than a small frame to read, and one context serves one thread at a time.
_kept = threading.local()


@dataclass(frozen=True)
class Codec:
    """How the large arrays of a shard are written: ``name`` raw or zstd, and Zstandard's ``level``."""

    name: str = "raw"
    level: int = 1


RAW = Codec()


def npy_header(shape: tuple[int, ...], dtype: np.dtype) -> bytes:
    """What stands before a C-contiguous array's own bytes in its ``.npy`` form (version 1.0)."""
    stream = io.BytesIO()
    described = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, described)
    return stream.getvalue()


def compress(header: bytes, array: np.ndarray, level: int) -> bytes:
    """A C-contiguous array's ``.npy`` form as one frame that says its size and holds a checksum."""
    compressor = _compressor(level).compressobj(size=len(header) + array.nbytes)
    return compressor.compress(header) + compressor.compress(array.data.cast("B")) + compressor.flush()


def read_array(buffer: Any, place: Mapping[str, Any]) -> np.ndarray:
    """The array of a member whose ``place`` is its entry in the shard's index; ``buffer`` is the whole shard.

    A raw one is a read-only view of ``buffer``; a compressed one is a new array, read-only too. Raises ``ValueError``
    when a frame is damaged.
    """
    content, start = (buffer, place["data"]) if "data" in place else _decompress(buffer, place)
    shape = tuple(place["shape"])
    count = math.prod(shape)
    return np.frombuffer(content, dtype=place["dtype"], count=count, offset=start).reshape(shape)


def read_into(buffer: Any, place: Mapping[str, Any], out: np.ndarray) -> None:
    """Write a member's array into ``out``, of the same shape and dtype; see :func:`read_array`."""
    np.copyto(out, read_array(buffer, place))


def zst_filter(key: str, data: bytes) -> Any:
    """For webdataset's ``.decode(zst_filter)``: unpacks ``*.zst`` members and passes them on to be decoded."""
    from webdataset.autodecode import Continue  # loads torch, which whoever calls this has loaded

    if not key.endswith(SUFFIX):
        return None
    return Continue(key[: -len(SUFFIX)], _decompressor().decompress(data))


def _decompress(buffer: Any, place: Mapping[str, Any]) -> tuple[bytes, int]:
    """The ``.npy`` bytes of a compressed member and where the array starts in them."""
    frame = memoryview(buffer)[place["offset"] : place["offset"] + place["size"]]
    try:
        content = _decompressor().decompress(frame)
    except zstandard.ZstdError as error:
        raise ValueError(f"its member at byte {place['offset']} is no whole Zstandard frame ({error})") from error
    count = math.prod(place["shape"]) * np.dtype(place["dtype"]).itemsize
    return content, len(content) - count


def _compressor(level: int) -> zstandard.ZstdCompressor:
    made: dict[int, zstandard.ZstdCompressor] = _kept.__dict__.setdefault("compressors", {})
    if level not in made:
        made[level] = zstandard.ZstdCompressor(level=level, write_checksum=True, write_content_size=True)
    return made[level]


def _decompressor() -> zstandard.ZstdDecompressor:
    if not hasattr(_kept, "decompressor"):
        _kept.decompressor = zstandard.ZstdDecompressor()
    return _kept.decompressor
