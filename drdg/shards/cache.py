"""Station 2, cache: this node's copies of files that lie elsewhere, each brought once, checked, and whole.

A copy has its name only when every byte of it was counted and its checksum found right, so one that is there is whole.
What comes at the moment has a temporary name, and a lock file keeps the other processes and threads of the node waiting
for it instead of bringing it too.
"""

from __future__ import annotations

import fcntl
import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from drdg.files import whole_file, xxh128
from drdg.shards.remote import Failed, blocks, retried


def own_folder() -> Path:
    """A folder of this user in the system's temporary one, which on clusters lies on the node; made if not there."""
    folder = Path(tempfile.gettempdir()) / f"drdg-shards-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    # Anyone may make a folder of that name first, and would decide what is read from it.
    if folder.lstat().st_uid != os.getuid():
        raise ValueError(f"{folder}: belongs to another user; set shards.cache to a folder of yours on this node")
    return folder


def bring(url: str, path: Path, checksum: str, size: int | None = None) -> None:
    """Make ``path`` a copy of ``url`` with this XXH3-128 ``checksum`` and, if it is known, ``size`` in bytes.

    A copy that is there already is known by its size, or else by its checksum. Raises ``ValueError`` when the source
    cannot be read or is not what it should be, several times in a row, or when the copy cannot be written.
    """
    try:
        if _is_there(path, checksum, size):
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(path):
            if _is_there(path, checksum, size):  # another process brought it while this one waited
                return
            for left in path.parent.glob(f".{path.name}.{socket.gethostname()}-*.tmp"):  # by one that was killed
                left.unlink(missing_ok=True)
            if size is not None:
                print(f"{url}: fetching {size / 1e6:.1f} MB to {path.parent}", file=sys.stderr, flush=True)
            retried(url, lambda: _copy(url, path, checksum, size))
    except OSError as error:
        raise ValueError(
            f"{path}: cannot be written ({error.strerror or error}); make room there or set shards.cache to another "
            "folder of this node, then start again: what is whole is kept"
        ) from error


def _is_there(path: Path, checksum: str, size: int | None) -> bool:
    try:
        return xxh128(path) == checksum if size is None else path.stat().st_size == size
    except FileNotFoundError:
        return False


def _copy(url: str, path: Path, checksum: str, size: int | None) -> None:
    import xxhash

    hasher, count = xxhash.xxh3_128(), 0
    with whole_file(path) as file, closing(blocks(url)) as source:
        for block in source:
            count += len(block)
            if size is not None and count > size:
                raise _other(f"has more than the {size} bytes that were built")
            hasher.update(block)
            file.write(block)
        if size is not None and count < size:
            raise _other(f"broke off after {count} of {size} bytes")
        if hasher.hexdigest() != checksum:
            raise _other("is damaged: its checksum is not the manifest's")


def _other(how: str) -> Failed:
    return Failed(how, "copy this file there again from where it was built, or build it again")


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One process and thread of this node at a time for each ``path``; the system frees the lock of a killed one."""
    descriptor = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        # Not left to closing: a process that was forked meanwhile has the lock open too.
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)
