"""Station 7, bench: what the configuration's networks have and compute, counted without computing it.

The phases run on torch's meta device, which has shapes and no numbers; so the paper's sizes take a few seconds.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from drdg.bench.cost import Phase
from drdg.bench.cost_inputs import KERNELS, WINDOWS
from drdg.config import Config
from drdg.methods import build_translator

# Of a weight: itself, and what Adam (two means) or RMSprop (one) keeps, in float32.
CHECKPOINT_NUMBERS = {"critic": 2, "generator": 3}
IMAGE_BYTES, HEIGHT_BYTES = 3, 2
"""Bytes of a pixel as shards keep it: three bands of uint8, heights as uint16."""


class Flops(TorchDispatchMode):
    """Counts in ``count`` the floating-point operations of convolutions and matrix products within the block.

    torch's own ``FlopCounterMode`` also follows modules, which it cannot within a penalty's ``autograd.grad``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Let everything happen as it would."""
        result = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.count += formula(*args, **(kwargs or {}), out_val=result)
        return result


def count_phases(config: Config) -> list[Phase]:
    """The phases of an iteration, with weights and operations for one pair."""
    with torch.device("meta"):
        translator = build_translator("drdg", config)
    batch = _pair(config)
    phases = []
    for phase in translator.phases():
        with Flops() as flops:
            loss, _ = phase.module(batch)
            loss.backward()
        phases.append(
            Phase(
                name=phase.name,
                flop=flops.count,
                weights=count_weights(phase.module),
                every=phase.every,
                kernels=KERNELS[phase.name],
                window=WINDOWS[phase.name],
            )
        )
    return phases


def count_weights(module: nn.Module) -> int:
    """The weights that a phase updates."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def checkpoint_bytes(phases: list[Phase]) -> int:
    """Of a checkpoint in float32: weights and what their optimizers keep."""
    return sum(4 * CHECKPOINT_NUMBERS[phase.name] * phase.weights for phase in phases)


def pair_bytes(config: Config) -> int:
    """Of a pair of tiles in raw shards, image and heights."""
    return sum(domain.tile**2 * (IMAGE_BYTES + HEIGHT_BYTES) for domain in (config.source, config.target))


def _pair(config: Config) -> dict[str, Tensor]:
    batch = {"position": torch.empty(1, dtype=torch.int64, device="meta")}
    for name, domain in (("source", config.source), ("target", config.target)):
        side = domain.tile
        batch[f"{name}_image"] = torch.empty(1, 3, side, side, dtype=torch.uint8, device="meta")
        batch[f"{name}_dsm"] = torch.empty(1, 1, side, side, device="meta")
    return batch
