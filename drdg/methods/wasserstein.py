"""Station 3, methods: how DRDG's and DualGAN's critics learn, as Wasserstein critics with a gradient penalty."""

from __future__ import annotations

from torch import Tensor, nn

from drdg.losses import critic_loss, gradient_penalty, wide_type
from drdg.methods.uses import MIX_SOURCE, MIX_TARGET
from drdg.models.keyed import derive, uniform

Pair = tuple[Tensor, Tensor]
"""Images (N, 3, H, W) of the source's look, and of the target's."""


def wasserstein_critics(
    critics: tuple[nn.Module, nn.Module], real: Pair, fake: Pair, keys: Tensor, penalty: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """The critics' whole loss, source's and target's, and its parts: equation 2 (Gulrajani et al. 2017, equation 3).

    ``keys`` (N,) are the samples', for the penalty's mixing numbers; ``penalty`` is its weight, 0 for none.
    """
    source_critic, target_critic = critics
    source, target = real
    fake_source, fake_target = fake
    parts = {
        "source_critic": critic_loss(source_critic(source), source_critic(fake_source)),
        "target_critic": critic_loss(target_critic(target), target_critic(fake_target)),
    }
    total = parts["source_critic"] + parts["target_critic"]
    if penalty > 0:
        shape, dtype = (1, 1, 1), wide_type(source.dtype)
        source_mix = uniform(derive(keys, MIX_SOURCE), shape, dtype)
        target_mix = uniform(derive(keys, MIX_TARGET), shape, dtype)
        parts["source_penalty"] = gradient_penalty(source_critic, source, fake_source, source_mix)
        parts["target_penalty"] = gradient_penalty(target_critic, target, fake_target, target_mix)
        total = total + penalty * (parts["source_penalty"] + parts["target_penalty"])
    return total, parts
