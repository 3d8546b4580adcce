"""Station 3, methods: what segmentation objectives ask of the segmentor while it learns, whichever paper's."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.optim import Adam

from drdg.config import Config
from drdg.losses import wide, wide_type
from drdg.methods.objective import VOID
from drdg.methods.translator import Phase
from drdg.models.keyed import sample_keys
from drdg.models.segmentor_randomness import seed_randomness

# What a sample's random numbers are for; each forward of one update has its own key, and a
# translator (uses.py) has none of them.
SOURCE, TARGET, ORIGINAL, TURNED, QUARTER_TURNS = range(11, 16)


def segmentor_phase(module: nn.Module, config: Config) -> Phase:
    """The phase of every update in which ``module`` updates the segmentor, by Adam (released code)."""
    return Phase("segmentor", module, partial(Adam, lr=config.segmentation.lr), every=1)


def predict(segmentor: nn.Module, images: Tensor, seed: int, position: Tensor, use: int) -> Tensor:
    """Logits (N, C, H, W) for bytes (N, 3, H, W), in training mode; ``use`` says what the random numbers are for."""
    parameter = next(segmentor.parameters())
    inputs = images.to(parameter.device).to(wide_type(parameter.dtype)) / 255
    segmentor.train()
    seed_randomness(segmentor, sample_keys(seed, position, use))
    return wide(segmentor(inputs.to(parameter.dtype)))


def pseudo_labels(logits: Tensor, confidence: float) -> Tensor:
    """The likeliest class of each pixel (N, H, W), int64, from logits (N, C, H, W); void where it is not likely enough.

    That is where its probability is at most ``confidence``.
    """
    probability, label = logits.detach().softmax(dim=1).max(dim=1)
    return torch.where(probability > confidence, label, VOID)


@torch.no_grad()
def count_classes(segmentor: nn.Module, side: int) -> int:
    """For how many classes the segmentor has logits, by asking it with an empty image of ``side`` pixels."""
    parameter = next(segmentor.parameters())
    was_training = segmentor.training
    logits = segmentor.eval()(parameter.new_zeros(1, 3, side, side))
    segmentor.train(was_training)
    return int(logits.shape[1])
