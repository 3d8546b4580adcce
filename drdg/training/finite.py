"""Station 4, training: every loss is looked at, and no iteration waits for that."""

from __future__ import annotations

import torch
from torch import Tensor


class FiniteLosses:
    """Looks for the first loss of this rank that is not finite: on a GPU an iteration late, when it is computed."""

    def __init__(self, device: torch.device):
        self.first_bad: tuple[int, int] | None = None
        """The first found so far: its iteration, from 1, and its phase's number. In an iteration the first phase."""
        self._device = device
        self._buffer = torch.empty(0, dtype=torch.bool)
        self._on_its_way: tuple[int, list[int], torch.cuda.Event] | None = None

    def add(self, iteration: int, losses: dict[int, Tensor]) -> None:
        """Begin to look at the losses () of an ``iteration`` by phase, and end that for the iteration before."""
        if not losses:
            return
        flags = torch.stack([loss.isfinite() for loss in losses.values()])
        if self._device.type != "cuda":
            self._look(iteration, list(losses), flags)
            return
        self.finish()  # after which its memory is free
        if len(self._buffer) < len(flags):
            self._buffer = torch.empty(len(flags), dtype=torch.bool, pin_memory=True)
        self._buffer[: len(flags)].copy_(flags, non_blocking=True)
        copied = torch.cuda.Event()
        copied.record(torch.cuda.current_stream(self._device))
        self._on_its_way = iteration, list(losses), copied

    def finish(self) -> None:
        """End looking at what was added, which waits for the device to get there."""
        if self._on_its_way is None:
            return
        iteration, phases, copied = self._on_its_way
        self._on_its_way = None
        copied.synchronize()
        self._look(iteration, phases, self._buffer[: len(phases)])

    def _look(self, iteration: int, phases: list[int], flags: Tensor) -> None:
        bad = [phase for phase, is_finite in zip(phases, flags.tolist(), strict=True) if not is_finite]
        if bad and self.first_bad is None:
            self.first_bad = iteration, bad[0]


def is_finite(values: list[Tensor]) -> bool:
    """Whether no value is infinite or not a number: one pass over each tensor and one wait for the device."""
    # A maximum of numbers some of which are none is none. isfinite() would take ten times as long.
    ends = [end for value in values if value.numel() for end in torch.aminmax(value.detach())]
    return not ends or bool(torch.stack([end.to(torch.float64) for end in ends]).isfinite().all())
