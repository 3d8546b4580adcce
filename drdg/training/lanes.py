"""Station 4, training: what a method carries by the place in the global batch, handed to any number of ranks."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from drdg.distributed.group import Group


def gather_lanes(lanes: Mapping[str, Tensor], group: Group) -> dict[str, Tensor]:
    """All ranks' lanes, in the order of the places in the global batch. Every rank must call it."""
    return {name: group.gather(lanes[name].contiguous()).flatten(0, 1) for name in sorted(lanes)}


def own_lanes(lanes: Mapping[str, Tensor], group: Group) -> dict[str, Tensor]:
    """This rank's share of what :func:`gather_lanes` gave, on whatever number of ranks."""
    return {
        name: values.tensor_split(group.world_size)[group.rank].to(group.device).clone()
        for name, values in lanes.items()
    }
