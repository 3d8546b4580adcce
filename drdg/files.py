"""Station 0, files: outputs that are whole or not there, and how they are recognised."""

from __future__ import annotations

import hashlib
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

READ_BYTES = 1 << 20


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A file to write that becomes ``path``, synced, when the block ends, and that is removed when it raises.

    So ``path`` is either as before or complete, also after a power cut. Its folder is made if it is not there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Two processes may write the same file (a requeued job beside one that still dies): each to its own name.
    partial = path.with_name(f".{path.name}.{socket.gethostname()}-{os.getpid()}.tmp")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    _sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Text as UTF-8, whole or not at all."""
    with whole_file(path) as file:
        file.write(text.encode())


def write_json(path: Path, values: Any) -> None:
    """Plain values as JSON in the order they are in, whole or not at all."""
    write_text(path, json.dumps(values, indent=1, allow_nan=False) + "\n")


def sha256(path: Path) -> str:
    """SHA-256 of a file's content in hexadecimal."""
    hasher = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(READ_BYTES):
            hasher.update(block)
    return hasher.hexdigest()


def xxh128(path: Path) -> str:
    """XXH3 (128 bits) of a file's content in hexadecimal, what ``xxhsum -H128`` prints.

    It finds damage as surely as SHA-256 does and reads at memory speed; it is no defence against a forger.
    """
    import xxhash

    hasher = xxhash.xxh3_128()
    with path.open("rb") as file:
        while block := file.read(READ_BYTES):
            hasher.update(block)
    return hasher.hexdigest()


def _sync_folder(folder: Path) -> None:
    """A rename survives a power cut only when its folder is synced too."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
