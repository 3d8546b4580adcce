"""Station 3, ranks: how a phase is updated on one rank or on many. DeepSpeed will be one more engine.

A phase has one forward and one backward. That is what makes the gradient penalty's double backward and the gradient
reduction safe together: with several backwards per update, DDP would reduce some of them and not others, silently.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from drdg.config import DistributedConfig
from drdg.distributed.group import Group


class Engine(Protocol):
    """One phase with its optimizer, kept equal on all ranks."""

    optimizer: Optimizer

    def update(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """One forward, backward and optimizer step. Gives this rank's detached loss and its parts."""
        ...


class PlainEngine:
    """The phase itself, on one rank."""

    def __init__(self, phase: nn.Module, optimizer: Optimizer):
        self.phase = phase
        self.optimizer = optimizer

    def update(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """One forward, backward and optimizer step."""
        loss, parts = self.phase(batch)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return loss.detach(), parts


class DdpEngine(PlainEngine):
    """The phase with its gradients averaged over ranks while they are computed."""

    def __init__(self, phase: nn.Module, optimizer: Optimizer, device: torch.device):
        # No static_graph: with a penalty's double backward it skips the reduction without a word (torch 2.13).
        # Whether buffers are broadcast does not matter: no network has any.
        devices = [device.index] if device.type == "cuda" else None
        wrapped = DistributedDataParallel(phase, device_ids=devices, gradient_as_bucket_view=True)
        super().__init__(wrapped, optimizer)


def build_engine(config: DistributedConfig, group: Group, phase: nn.Module, optimizer: Optimizer) -> Engine:
    """The engine that ``distributed.backend`` asks for."""
    builders: dict[str, Any] = {"single": _plain, "ddp": _ddp, "auto": _ddp if group.world_size > 1 else _plain}
    return builders[config.backend](group, phase, optimizer)


def _plain(group: Group, phase: nn.Module, optimizer: Optimizer) -> Engine:
    return PlainEngine(phase, optimizer)


def _ddp(group: Group, phase: nn.Module, optimizer: Optimizer) -> Engine:
    if group.world_size == 1:
        raise ValueError("distributed.backend=ddp needs more than one rank; start them by torchrun or srun")
    return DdpEngine(phase, optimizer, group.device)
