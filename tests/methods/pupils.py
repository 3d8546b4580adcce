"""Small segmentors and batches for the tests of objectives."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from drdg.config import Config, load_config
from drdg.methods.translator import Phase
from drdg.models.segmentor import build_segmentor
from drdg.models.segmentor_randomness import make_keyed

CLASSES = 4
VOID = 255


def settings(*overrides: str) -> Config:
    """A configuration with narrow networks; ``overrides`` as on the command line."""
    return load_config(
        None,
        ["run.seed=3", "segmentation.crop=64", "segmentation.lr=1e-3", "output_space.width=4", *overrides],
    )


def plain_segmentor(dtype: torch.dtype = torch.float64) -> nn.Module:
    """Two convolutions, which couple no samples; large enough weights that some classes are likely."""
    torch.manual_seed(5)
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Tanh(), nn.Conv2d(8, CLASSES, 3, padding=1))
    with torch.no_grad():
        network[2].weight *= 4
    return network.to(dtype)


def real_segmentor() -> nn.Module:
    """DeepLabV3+ on a ResNet-18, with batch norms, and dropout that is a function of the sample."""
    knobs = {"architecture": "DeepLabV3Plus", "encoder": "tu-resnet18", "encoder_weights": "none"}
    torch.manual_seed(5)
    network = build_segmentor(
        settings(*(f"segmentation.{key}={knob}" for key, knob in knobs.items())).segmentation, CLASSES
    )
    return make_keyed(network.double())


def make_batch(number: int = 0, samples: int = 3, side: int = 64, done: float = 0.6) -> dict[str, Tensor]:
    """All that any objective reads, random by ``number``; a fifth of the pixels is void, more of the first sample."""
    chance = torch.Generator().manual_seed(number)

    def images() -> Tensor:
        coarse = torch.rand(samples, 3, side // 8, side // 8, generator=chance)
        return (nn.functional.interpolate(coarse, size=(side, side), mode="bilinear") * 255).to(torch.uint8)

    label = torch.randint(0, CLASSES, (samples, side, side), generator=chance).to(torch.uint8)
    label[torch.rand(label.shape, generator=chance) < 0.2] = VOID
    label[0, side // 8 :] = VOID
    return {
        "image": images(),
        "label": label,
        "target_image": images(),
        "original_image": images(),
        "position": torch.arange(samples) + number * samples,
        "progress": torch.full((samples,), done, dtype=torch.float64),
    }


def alone(values: Tensor) -> Tensor:
    """The average over ranks of a rank that has no others."""
    return values


def update(phase: Phase, optimizer: Any, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """One step of a phase, as an engine makes it."""
    optimizer.zero_grad(set_to_none=True)
    loss, parts = phase.module(batch)
    loss.backward()
    optimizer.step()
    return loss.detach(), parts
