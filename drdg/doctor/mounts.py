"""Station 6, doctor: on what kind of file system a folder lies."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

# As Linux names them in /proc/mounts. What FUSE brings may be anything, but is mostly far away.
NETWORK = ("nfs", "lustre", "gpfs", "beegfs", "ceph", "cifs", "smb", "afs", "pvfs", "orangefs", "panfs", "wekafs", "9p")
FUSE = "fuse."
UNKNOWN = "unknown"


def kind(folder: Path) -> str:
    """The name of the file system that ``folder`` lies on."""
    import psutil

    return kind_among(folder.resolve(), [(part.mountpoint, part.fstype) for part in psutil.disk_partitions(all=True)])


def kind_among(folder: Path, mounts: Iterable[tuple[str, str]]) -> str:
    """The name of the file system of the longest mount point, last mounted, that ``folder`` is at or under."""
    best = (-1, UNKNOWN)
    for place, name in mounts:
        depth = len(Path(place).parts)
        if folder.is_relative_to(place) and depth >= best[0]:
            best = (depth, name)
    return best[1]


def is_network(name: str) -> bool:
    """Whether a file system of this name is, as a rule, shared with other machines."""
    return name.startswith((*NETWORK, FUSE))
