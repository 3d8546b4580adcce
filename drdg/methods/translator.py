"""Station 3, methods: what every translator offers to the loop, whichever paper it comes from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn
from torch.nn import Parameter
from torch.optim import Optimizer

from drdg.config import Config
from drdg.losses import wide_type

Batch = dict[str, Tensor]
"""``source_image``, ``target_image`` uint8 (N, 3, H, W); ``source_dsm``, ``target_dsm`` (N, 1, H, W) if depth is used;
``position`` int64 (N,), the samples' places in the stream."""


@dataclass(frozen=True)
class Phase:
    """One module whose ``forward(batch)`` returns its whole loss and what to log, and the optimizer of what it owns."""

    name: str
    module: nn.Module
    optimizer: Callable[[Iterable[Parameter]], Optimizer]
    every: int
    """It runs at the iterations that are multiples of this."""
    fixed_rate: bool = False
    """Whether its learning rate never falls, whatever the training's schedule is."""


class Translator(Protocol):
    """A method that learns to make source images look like the target's."""

    networks: nn.ModuleDict
    lanes: dict[str, Tensor]
    """What this rank carries from one iteration to the next beside weights, by name: one entry along the first
    dimension for each pair of its share of ``gan.batch_size``, so that the training with its checkpoints can hand it to
    other numbers of ranks. Empty for most methods, and before the first iteration."""

    def __init__(self, config: Config) -> None: ...

    @staticmethod
    def needs_dsm(config: Config) -> bool:
        """Whether its batches must hold heights."""
        ...

    def phases(self) -> list[Phase]:
        """The phases of one iteration, in order."""
        ...

    def predict_depth(self, images: Tensor) -> Tensor | None:
        """Heights (N, 1, H, W) that source images (N, 3, H, W) seem to show; None for a method without depth."""
        ...

    def translate(self, images: Tensor) -> Tensor:
        """Source images (N, 3, H, W) in [-1, 1] in the target's look and size, without gradients."""
        ...


def scaled(images: Tensor, like: nn.Module) -> Tensor:
    """Bytes 0..255 as numbers in [-1, 1], on the device and in the floating type of ``like``'s parameters."""
    parameter = next(like.parameters())
    return (images.to(parameter.device).to(wide_type(parameter.dtype)) / 127.5 - 1).to(parameter.dtype)


@contextmanager
def frozen(guests: Iterable[nn.Module]) -> Iterator[None]:
    """Compute no gradients for the guests' parameters in the block."""
    for guest in guests:
        guest.requires_grad_(False)
    try:
        yield
    finally:
        for guest in guests:
            guest.requires_grad_(True)
