"""Station 3, ranks: weights and optimizer states that ZeRO has cut into equal pieces, put together and cut again.

ZeRO 1 and 2 lay a parameter group out in one flat buffer, of which the parameters become views, and give each rank an
equal piece to update. Where a parameter lies is read from the view itself, so padding and order are DeepSpeed's affair.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from drdg.distributed.group import Group


class Partition:
    """One parameter group, of which this rank updates ``piece`` (P,), its float32 part of the flat buffer (N * P,)."""

    def __init__(self, parameters: Sequence[Parameter], piece: Tensor, group: Group):
        self.parameters, self.piece, self.group = parameters, piece, group
        buffers = {parameter.untyped_storage().data_ptr() for parameter in parameters}
        length = parameters[0].untyped_storage().nbytes() // parameters[0].element_size()
        assert len(buffers) == 1, "ZeRO no longer lays a parameter group out in one buffer"
        assert length == len(piece) * group.world_size, "ZeRO no longer cuts a flat buffer into equal pieces"

    def whole(self, piece: Tensor) -> list[Tensor]:
        """All ranks' pieces of one thing as a tensor for each parameter, on the CPU. Every rank must call it."""
        flat = self.group.gather(piece.detach()).flatten().cpu()
        return [self._part(flat, parameter).view(parameter.shape).clone() for parameter in self.parameters]

    def cut(self, tensors: Sequence[Tensor]) -> Tensor:
        """This rank's piece (P,) of one tensor for each parameter, with zeros where no parameter lies."""
        flat = torch.zeros(len(self.piece) * self.group.world_size, dtype=self.piece.dtype)
        for parameter, tensor in zip(self.parameters, tensors, strict=True):
            self._part(flat, parameter).copy_(tensor.flatten())
        start = len(self.piece) * self.group.rank
        return flat[start : start + len(self.piece)].to(self.piece.device)

    @staticmethod
    def _part(flat: Tensor, parameter: Parameter) -> Tensor:
        return flat.narrow(0, parameter.storage_offset(), parameter.numel())


def whole_state(state: dict[str, Any], partitions: Sequence[Partition]) -> dict[str, Any]:
    """The state of an optimizer over flat pieces as one over the parameters. Every rank must call it."""
    values: dict[int, dict[str, Any]] = {}
    groups: list[dict[str, Any]] = []
    for piece, (partition, options) in enumerate(zip(partitions, state["param_groups"], strict=True)):
        first, count = sum(len(group["params"]) for group in groups), len(partition.parameters)
        columns = {
            name: partition.whole(value) if _is_by_weight(name, value) else [_copy(value) for _ in range(count)]
            for name, value in state["state"].get(piece, {}).items()
        }
        if columns:  # there are none before the first step
            for place in range(count):
                values[first + place] = {name: column[place] for name, column in columns.items()}
        groups.append({**options, "params": list(range(first, first + count))})
    return {"state": values, "param_groups": groups}


def cut_state(state: dict[str, Any], partitions: Sequence[Partition]) -> dict[str, Any]:
    """This rank's part of an optimizer's state over parameters, as one over flat pieces."""
    values: dict[int, dict[str, Any]] = {}
    groups = []
    for piece, (partition, options) in enumerate(zip(partitions, state["param_groups"], strict=True)):
        rows = [state["state"][place] for place in options["params"] if place in state["state"]]
        if rows:
            # torch's own keep nothing for a parameter on which no loss depends; a flat piece has zeros there.
            of_all = [state["state"].get(place) for place in options["params"]]
            values[piece] = {
                name: partition.cut(
                    [
                        torch.zeros_like(parameter, dtype=value.dtype, device=value.device)
                        if row is None
                        else row[name]
                        for row, parameter in zip(of_all, partition.parameters, strict=True)
                    ]
                )
                if _is_by_weight(name, value)
                else _copy(value)
                for name, value in rows[0].items()
            }
        groups.append({**options, "params": [piece]})
    return {"state": values, "param_groups": groups}


def _is_by_weight(name: str, value: Any) -> bool:
    """Whether torch's optimizers keep it for each weight; their count of steps, also a tensor, they call ``step``."""
    return isinstance(value, Tensor) and name != "step"


def _copy(value: Any) -> Any:
    """A step count is a tensor of its own for each parameter; it must not become one that they share."""
    return value.clone() if isinstance(value, Tensor) else value
