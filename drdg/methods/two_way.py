"""Station 3, methods: what the compared translators share: two generators and two critics at one side.

CycleGAN, Benjdira's and DualGAN know no resizing, and the domains' tiles differ in size: 896 px of 5 cm and 512 px of
9 cm show the same ground. Documented choice: source images are first brought to the target's side, bilinear with
antialiasing, and both directions work at that side. The released codes bring all images to about 256 px, some crop
them at random, and all mirror them at random; here tiles are taken whole and as they are, as DRDG takes them, so that
the rows of the table differ in the method alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from drdg.config import Config
from drdg.losses import cycle_consistency_loss
from drdg.methods.translator import Batch, scaled
from drdg.models.resize import resized

Networks = tuple[nn.Module, nn.Module]
"""Both generators, ``to_target`` and ``to_source``; or both critics, source's and target's."""


class TwoWay:
    """The networks of both directions, and the translation of source images."""

    def __init__(self, config: Config, generator: Callable[[], nn.Module], critic: Callable[[], nn.Module]):
        self.config = config
        self.side = config.target.tile
        self.lanes: dict[str, Tensor] = {}
        self.networks = nn.ModuleDict(
            {
                "to_target": generator(),
                "to_source": generator(),
                "source_critic": critic(),
                "target_critic": critic(),
            }
        )

    @staticmethod
    def needs_dsm(config: Config) -> bool:
        """None of them looks at heights."""
        return False

    @property
    def generators(self) -> Networks:
        """``to_target`` and ``to_source``."""
        return self.networks["to_target"], self.networks["to_source"]

    @property
    def critics(self) -> Networks:
        """The source's and the target's."""
        return self.networks["source_critic"], self.networks["target_critic"]

    @torch.no_grad()
    def translate(self, images: Tensor) -> Tensor:
        """Source images (N, 3, H, W) in [-1, 1] in the target's look and size, in [-1, 1]."""
        generator = self.networks["to_target"].eval()
        return generator(resized(images.to(next(generator.parameters())), self.side))

    def predict_depth(self, images: Tensor) -> Tensor | None:
        """None: no depth."""
        return None


class RoundTrip(NamedTuple):
    """Images (N, 3, H, W) after one direction, and after both."""

    fake_source: Tensor
    fake_target: Tensor
    back_to_source: Tensor
    back_to_target: Tensor


def read_pair(batch: Batch, like: nn.Module, side: int) -> tuple[Tensor, Tensor]:
    """Source and target images (N, 3, ``side``, ``side``) in [-1, 1]; the batch's target images have that side."""
    return resized(scaled(batch["source_image"], like), side), scaled(batch["target_image"], like)


def go_round(generators: Networks, source: Tensor, target: Tensor) -> RoundTrip:
    """Both ways there and back."""
    to_target, to_source = generators
    fake_target, fake_source = to_target(source), to_source(target)
    return RoundTrip(fake_source, fake_target, to_source(fake_target), to_target(fake_source))


def cycle_loss(trip: RoundTrip, source: Tensor, target: Tensor) -> Tensor:
    """The cycle consistency of both ways, summed."""
    there = cycle_consistency_loss(trip.back_to_source, source)
    return there + cycle_consistency_loss(trip.back_to_target, target)
