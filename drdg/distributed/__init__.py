"""Station 3, ranks: who they are, and how they stay in step."""

from drdg.distributed.engines import Engine, build_engine
from drdg.distributed.group import Group, fair_threads, fingerprint, pick_device, process_group
from drdg.distributed.topology import Topology, discover

__all__ = [
    "Engine",
    "Group",
    "Topology",
    "build_engine",
    "discover",
    "fair_threads",
    "fingerprint",
    "pick_device",
    "process_group",
]
