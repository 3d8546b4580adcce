"""Station 6, doctor: what every probe on a rank may look at."""

from __future__ import annotations

import hashlib
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from drdg.config import Config
from drdg.distributed.topology import Topology
from drdg.doctor.answers import Rank


@dataclass
class Context:
    """This rank's configuration and place, and how long a step may take it."""

    config: Config
    topology: Topology
    timeout: float
    """Seconds for a step that takes none on a healthy cluster."""
    host: str = field(default_factory=socket.gethostname)
    kept: dict[str, Any] = field(default_factory=dict)
    """What a step leaves for a later one: open files that hold locks, say."""

    @property
    def rank(self) -> Rank:
        """This rank."""
        place = self.topology
        return Rank(place.rank, self.host, place.local_rank, place.local_world_size)

    @property
    def root(self) -> Path:
        """The folder that there is already of those that ``run.root`` will lie in, or itself."""
        return nearest(self.config.run.root)

    @property
    def job(self) -> str:
        """Twelve hex digits that ranks of one start have in common before any has heard of another."""
        place = self.topology
        words = f"{place.master_address} {place.master_port} {place.world_size}"
        return hashlib.sha256(words.encode()).hexdigest()[:12]


def nearest(folder: Path) -> Path:
    """``folder``, or the nearest above it that is there, absolute and without links."""
    folder = folder.absolute()
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    return folder.resolve()
