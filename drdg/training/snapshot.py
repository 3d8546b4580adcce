"""Station 4, training: a copy of the training's state in the host's memory, which is used again for the next one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Snapshot:
    """Copies states of nested dicts, lists and tuples whose tensors stay the same ones, or of the same shapes.

    For a GPU the memory is pinned, so that the copies are made at the bus's speed, all at once.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self._buffers: dict[str, Tensor] = {}

    def of(self, state: Any) -> Any:
        """``state`` with copies of its tensors, which are those of the next call too. Returns when they are made."""
        copy = self._copy(state, "")
        if self.device.type == "cuda":
            copied = torch.cuda.Event()
            copied.record(torch.cuda.current_stream(self.device))
            copied.synchronize()
        return copy

    def _copy(self, value: Any, place: str) -> Any:
        if isinstance(value, Tensor):
            return self._buffer_like(value, place).copy_(value.detach(), non_blocking=True)
        if isinstance(value, dict):
            return {key: self._copy(item, f"{place}/{key}") for key, item in value.items()}
        if isinstance(value, list | tuple):
            return type(value)([self._copy(item, f"{place}/{number}") for number, item in enumerate(value)])
        return value

    def _buffer_like(self, value: Tensor, place: str) -> Tensor:
        buffer = self._buffers.get(place)
        if buffer is None or buffer.shape != value.shape or buffer.dtype != value.dtype:
            buffer = torch.empty(value.shape, dtype=value.dtype, pin_memory=self.device.type == "cuda")
            self._buffers[place] = buffer
        return buffer
