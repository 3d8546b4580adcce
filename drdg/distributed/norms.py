"""Station 3, ranks: what a network takes over all ranks' samples within a forward, so that ranks change no result.

For batch norms on GPUs that is torch's own ``SyncBatchNorm``. On CPUs torch refuses it, and the class below computes
the same with torch's kernels for one process and two collectives: each rank's mean and variance are gathered and
combined (Chan, Golub, LeVeque 1979, where nothing is lost to a large mean as it is with sums of squares), and backward
adds up the two sums that a batch norm's gradient needs. All ranks combine the same numbers in the same order, so their
running statistics stay equal to the bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from drdg.distributed.group import Group

# timm's has layers of its own that come after the norm: a dropout and an activation. By name, because timm is not ours
# to load; who has such a layer has loaded it.
WITH_ACTIVATION = "BatchNormAct2d"
KNOWN = ("BatchNorm1d", "BatchNorm2d", "BatchNorm3d", WITH_ACTIVATION)


def average_over_ranks(group: Group) -> Callable[[Tensor], Tensor]:
    """The function that averages a tensor over ranks, without gradients; with one rank it gives the tensor itself."""
    if group.world_size == 1:
        return lambda values: values
    return lambda values: group.sum(values.detach()) / group.world_size


def synchronise_norms(network: nn.Module, group: Group) -> nn.Module:
    """``network`` with its batch norms replaced, in place, by ones over the samples of all ranks of ``group``.

    Parameters and buffers stay the objects they are, under their names. With one rank nothing is replaced. In training
    mode every rank must make the same forwards, on at least one sample each. Raises ``ValueError`` for a batch norm of
    a class that is not known here.
    """
    if group.world_size == 1:
        return network
    replaced: dict[nn.Module, nn.Module] = {}  # a norm that occurs twice stays one

    def converted(module: nn.Module) -> nn.Module:
        if module not in replaced:
            for name, child in module.named_children():
                setattr(module, name, converted(child))
            is_alone = isinstance(module, _BatchNorm) and not isinstance(module, nn.SyncBatchNorm | SyncedBatchNorm)
            replaced[module] = _counterpart(module, group) if is_alone else module
        return replaced[module]

    return converted(network)


def _counterpart(norm: nn.Module, group: Group) -> nn.Module:
    assert isinstance(norm, _BatchNorm)
    name = type(norm).__name__
    if name not in KNOWN:
        raise ValueError(
            f"batch norms of class {name} cannot be synchronised over {group.world_size} ranks; take another "
            "segmentation.encoder or train the segmentor on one rank"
        )
    if group.device.type != "cuda":
        return SyncedBatchNorm(norm, group)
    convert: Callable[[nn.Module], nn.Module] = nn.SyncBatchNorm.convert_sync_batchnorm
    if name == WITH_ACTIVATION:  # torch's function would lose the activation
        from timm.layers import convert_sync_batchnorm as convert
    return convert(norm)


class SyncedBatchNorm(_BatchNorm):
    """A batch norm (N, C, ...) over the samples of all ranks, on the CPU, that takes the place of ``norm``.

    The layers of ``norm``, if it has any, come after it in their order. As in torch, a gradient is that of the sum of
    all ranks' losses; DDP, which averages gradients over ranks, makes that the average loss. It can be differentiated
    once.
    """

    def __init__(self, norm: _BatchNorm, group: Group):
        super().__init__(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        self.group = group
        self.weight, self.bias = norm.weight, norm.bias
        for name, buffer in norm.named_buffers(recurse=False):
            setattr(self, name, buffer)
        for name, layer in norm.named_children():
            self.add_module(name, layer)
        self.train(norm.training)

    def forward(self, x: Tensor) -> Tensor:
        """The normalised ``x``. Raises ``ValueError`` when all ranks together have one value for each channel."""
        if self.training:
            y = self._by_batch(x)
        else:
            by_batch = self.running_mean is None
            y = F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, by_batch, 0.0, self.eps)
        for layer in self.children():
            y = layer(y)
        return y

    def _by_batch(self, x: Tensor) -> Tensor:
        assert len(x), "a rank without samples"
        mean, variance, count = _statistics(x.detach(), self.group)
        if count < 2:
            raise ValueError(
                f"a batch norm needs more than one value per channel over all ranks, got {tuple(x.shape)} on one; "
                "take a larger segmentation.batch_size or segmentation.crop"
            )
        self._remember(mean, variance * (count / (count - 1)))
        mean, variance = mean.to(x.dtype), variance.to(x.dtype)
        y: Tensor = _Normalise.apply(x, self.weight, self.bias, mean, variance, count, self.eps, self.group)
        return y

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics on, as torch's own norm does."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        share = 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum
        for running, now in ((self.running_mean, mean), (self.running_var, variance)):
            running.mul_(1 - share).add_(now.to(running.dtype), alpha=share)


def _statistics(x: Tensor, group: Group) -> tuple[Tensor, Tensor, int]:
    """Mean and biased variance (C,) float64 of all ranks' ``x`` (N, C, ...), and how many values each channel has."""
    mean, variance = torch.batch_norm_update_stats(x, None, None, 0.0)
    count = mean.new_tensor([x.numel() // x.shape[1]])
    everyone = group.gather(torch.cat([count, mean, variance]).double())
    counts, means, variances = everyone.split([1, len(mean), len(mean)], dim=1)
    total = counts.sum()
    shares = counts / total
    mean = (shares * means).sum(0)
    variance = (shares * (variances + (means - mean).square())).sum(0)
    return mean, variance, int(total)


class _Normalise(torch.autograd.Function):
    """(x - mean) / sqrt(variance + eps) * weight + bias, where mean and variance (C,) are functions of all ranks' x."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor,
        variance: Tensor,
        count: int,
        eps: float,
        group: Group,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, mean, variance)
        ctx.count, ctx.eps, ctx.group = count, eps, group
        return F.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, variance = ctx.saved_tensors
        # With statistics that are given, torch's kernel has the two sums over this rank's samples: of the gradients,
        # and of the gradients times the normalised input. They are the parameters' own gradients, too.
        _, dweight, dbias = torch.ops.aten.native_batch_norm_backward(
            dy, x, weight, mean, variance, None, None, False, ctx.eps, [False, True, True]
        )
        # Gathered and not reduced: gloo is faster so, and the order in which ranks are added is one for all.
        by_scale, by_shift = ctx.group.gather(torch.stack([dweight, dbias])).sum(0) / ctx.count
        rate = (variance + ctx.eps).rsqrt()
        slope = by_scale * rate
        factor = rate if weight is None else rate * weight

        def along(values: Tensor) -> Tensor:
            return values.view(1, -1, *[1] * (x.dim() - 2))

        # factor * (dy - by_shift - (x - mean) * slope), in few passes over memory
        dx = torch.addcmul(along(-factor * by_shift), x - along(mean), along(-factor * slope))
        dx = dx.addcmul_(dy, along(factor))
        wanted = ctx.needs_input_grad
        return dx, dweight if wanted[1] else None, dbias if wanted[2] else None, *[None] * 5
