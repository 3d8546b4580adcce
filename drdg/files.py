"""Station 0, files: outputs that are whole or not there, and how they are recognised."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

READ_BYTES = 1 << 20
SEAL = "xxh128"
# Unfinished files of whole_file, and when one that nobody has written to for so long is nobody's.
PARTIAL = ".*.tmp"
ABANDONED_S = 3600


@contextmanager
def whole_file(path: Path, *, durable: bool = True) -> Iterator[IO[bytes]]:
    """A file to write that becomes ``path``, synced, when the block ends, and that is removed when it raises.

    So ``path`` is either as before or complete, also after a power cut; with ``durable=False``, which does not wait for
    the disk, only after the death of the process. Its folder is made if it is not there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Two processes may write the same file (a requeued job beside one that still dies): each to its own name.
    partial = path.with_name(f".{path.name}.{socket.gethostname()}-{os.getpid()}.tmp")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    if durable:
        _sync_folder(path.parent)


def clear_abandoned(folder: Path) -> None:
    """Remove what killed processes left under ``folder`` of files they were at, and nothing that one still writes."""
    for partial in partials(folder):
        if _is_abandoned(partial):
            partial.unlink(missing_ok=True)


def partials(folder: Path) -> Iterator[Path]:
    """Unfinished files under ``folder``, also while other processes remove folders in it, which ``glob`` minds."""
    for root, _, names in os.walk(folder):
        yield from (Path(root, name) for name in fnmatch.filter(names, PARTIAL))


def _is_abandoned(partial: Path) -> bool:
    host, _, pid = partial.name.removesuffix(".tmp").rpartition("-")
    try:
        if host.endswith(f".{socket.gethostname()}") and pid.isdigit():
            os.kill(int(pid), 0)
        # Alive here, or on another machine: then only time tells.
        return is_old(partial)
    except ProcessLookupError:
        return True
    except PermissionError:  # another user's process
        return False


def is_old(path: Path) -> bool:
    """Whether nobody has written to ``path`` for so long that nobody will; not, where it is gone."""
    try:
        return time.time() - path.stat().st_mtime > ABANDONED_S
    except FileNotFoundError:
        return False


def write_text(path: Path, text: str) -> None:
    """Text as UTF-8, whole or not at all."""
    with whole_file(path) as file:
        file.write(text.encode())


def write_json(path: Path, values: Any) -> None:
    """Plain values as JSON in the order they are in, whole or not at all."""
    write_text(path, json_text(values))


def json_text(values: Any) -> str:
    """What :func:`write_json` writes."""
    return json.dumps(values, indent=1, allow_nan=False) + "\n"


def seal(values: Mapping[str, Any]) -> dict[str, Any]:
    """``values`` and, as their last, the checksum of their JSON, so that the file they are written to can be checked
    by itself.
    """
    import xxhash

    return {**values, SEAL: xxhash.xxh3_128_hexdigest(json_text(values).encode())}


def is_sealed(text: bytes) -> bool:
    """Whether ``text`` is, to the byte, the JSON of sealed values."""
    try:
        values = json.loads(text)
        stamp = values.pop(SEAL)
        return bool(seal(values)[SEAL] == stamp and json_text({**values, SEAL: stamp}).encode() == text)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):  # no JSON, or none that was sealed
        return False


def sha256(path: Path) -> str:
    """SHA-256 of a file's content in hexadecimal."""
    hasher = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(READ_BYTES):
            hasher.update(block)
    return hasher.hexdigest()


def xxh128(path: Path, poll: Callable[[], None] = lambda: None) -> str:
    """XXH3 (128 bits) of a file's content in hexadecimal, what ``xxhsum -H128`` prints; ``poll`` is called on the way.

    It finds damage as surely as SHA-256 does and reads at memory speed; it is no defence against a forger.
    """
    import xxhash

    hasher = xxhash.xxh3_128()
    with path.open("rb") as file:
        while block := file.read(READ_BYTES):
            hasher.update(block)
            poll()
    return hasher.hexdigest()


def _sync_folder(folder: Path) -> None:
    """A rename survives a power cut only when its folder is synced too."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
