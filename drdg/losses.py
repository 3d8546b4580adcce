"""Station 3, the equations: every loss of the paper by its number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from drdg.config import BerhuConfig


def wide_type(dtype: torch.dtype) -> torch.dtype:
    """The floating type in which losses of values of ``dtype`` are computed: float32, or float64 for float64.

    bfloat16 has 8 significant bits, too few for the mean of many pixels and for a gradient's norm minus 1.
    """
    return torch.promote_types(dtype, torch.float32)


def wide(values: Tensor) -> Tensor:
    """``values`` in their :func:`wide_type`."""
    return values.to(wide_type(values.dtype))


def critic_loss(real_scores: Tensor, fake_scores: Tensor) -> Tensor:
    """Equation 2 as the critic minimises it: mean fake score minus mean real score."""
    return wide(fake_scores).mean() - wide(real_scores).mean()


def adversarial_loss(fake_scores: Tensor) -> Tensor:
    """Equation 2 as the generator minimises it: minus the mean score of its images."""
    return -wide(fake_scores).mean()


def least_squares_critic_loss(real_scores: Tensor, fake_scores: Tensor) -> Tensor:
    """Half of mean (D(real) - 1)^2 plus half of mean D(fake)^2 (Mao et al. 2017, equation 9: a = 0, b = c = 1)."""
    return (_square_distance(real_scores, 1.0) + _square_distance(fake_scores, 0.0)) / 2


def least_squares_adversarial_loss(fake_scores: Tensor) -> Tensor:
    """Mean (D(fake) - 1)^2; the paper's half is left out (Mao et al. 2017, equation 9; Zhu et al. 2017, section 4)."""
    return _square_distance(fake_scores, 1.0)


def _square_distance(scores: Tensor, label: float) -> Tensor:
    return (wide(scores) - label).square().mean()


def gradient_penalty(critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, mix: Tensor) -> Tensor:
    """Mean over samples of (||gradient|| - 1)^2 at points between real and fake (Gulrajani et al. 2017, equation 3).

    ``real`` and ``fake`` are (N, C, H, W), ``mix`` (N, 1, 1, 1) in [0, 1] is the share of real. The gradient is that of
    the summed patch scores, its norm is over C, H and W (released code).
    """
    between = (mix * wide(real) + (1 - mix) * wide(fake)).to(real.dtype).detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    return (wide(gradient).flatten(1).norm(dim=1) - 1).square().mean()


def cycle_consistency_loss(reconstructed: Tensor, image: Tensor) -> Tensor:
    """Equation 3: mean absolute difference."""
    return F.l1_loss(wide(reconstructed), wide(image))


def berhu_loss(predicted: Tensor, true: Tensor, config: BerhuConfig) -> Tensor:
    """Equation 5, the reversed Huber loss, averaged over all pixels of (N, 1, H, W); 0 where nothing differs.

    |r| up to the threshold L, (r^2 + L^2) / 2L above it, with L = 0.2 max|r| over the image (or the batch).
    """
    size = (wide(predicted) - wide(true)).abs()
    dims = (1, 2, 3) if config.scope == "image" else (0, 1, 2, 3)
    threshold = config.fraction * size.amax(dim=dims, keepdim=True)
    if not config.live_threshold:
        threshold = threshold.detach()
    # Where L is 0 every residual is 0 and the linear branch is taken; the clamp only keeps the other one from 0/0.
    denominator = (2 * threshold + config.additive_eps).clamp_min(torch.finfo(size.dtype).tiny)
    quadratic = (size.square() + threshold.square()) / denominator
    return torch.where(size <= threshold, size, quadratic).mean()


def resize_depth(depth: Tensor, side: int, how: Literal["bilinear", "area", "legacy_nearest"]) -> Tensor:
    """Bring heights (N, 1, H, W) to (N, 1, side, side), for DCCL (equation 6) compares them at the translated size."""
    if how == "bilinear":
        return F.interpolate(depth, size=(side, side), mode="bilinear", align_corners=False)
    return F.interpolate(depth, size=(side, side), mode="area" if how == "area" else "nearest")


def cross_entropy_loss(logits: Tensor, label: Tensor, void: int, average: Callable[[Tensor], Tensor]) -> Tensor:
    """Equations 8 and 9, cross-entropy, mean over the pixels of all ranks that are not ``void``; 0 where all are.

    ``logits`` (N, C, H, W), ``label`` (N, H, W) of any integer type; ``average`` gives the average of a tensor over
    ranks. This rank's part is its sum over pixels divided by the ranks' average count: it is the average of the parts,
    made as gradients are averaged, that is the mean, however unevenly void pixels lie.
    """
    total = F.cross_entropy(wide(logits), label.long(), ignore_index=void, reduction="sum")
    # float64 counts any number of pixels, float32 only up to 2**24, four tiles of 2048 px.
    count = average((label != void).sum().double()).to(total.dtype)
    return total / torch.where(count > 0, count, 1)


def domain_loss(logits: Tensor, label: float) -> Tensor:
    """Mean binary cross-entropy of a discriminator's ``logits`` of any shape with one ``label``, 0 or 1, for all."""
    logits = wide(logits)
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, label))
