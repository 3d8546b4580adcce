"""Station 3, methods: DualGAN (Yi et al. 2017, arXiv 1704.02510), which MUCSS and ResiDualGAN stand on.

The critics minimise mean D(G(x)) - mean D(y) for each domain, plus ``gradient_penalty`` times the penalty of Gulrajani
et al. 2017 (equations 1 and 2 of the paper, which clips weights instead); the generators

    sum over both directions of  -mean D(G(x))  +  cycle * |F(G(x)) - x|                                 (equation 3)

Numbers of the released code, duxingren14/DualGAN: reconstruction 500, adversarial 1, penalty 10, RMSprop with decay 0.9
and 5e-5 for generators and critics, batch size 1. The critics learn at every iteration and the generators at every
``gan.n_critic``-th (released code: 1 by its script's default, 5 by its network's).

Deviations
    Source tiles at the target's side, no mirrored tiles: see ``two_way.py``.
    The U-Net halves 7 times, not 8 (the suite's sides are multiples of 128, not of 256), with kernels of 4, where the
    released code has 5 in the first and last level and 3 between; no norm on the innermost level, which has one pixel
    at 128 px; and skips pass their level's LeakyReLU, as in the PyTorch port that ResiDualGAN descends from. So this
    U-Net is ResiDualGAN's without residual, resizing and dropout, and its critic is ResiDualGAN's too.
    No biases before norms; norms' epsilon is 1e-5 (released code: 1e-6).
    torch's RMSprop begins with squared gradients of 0 and adds 1e-8 to their root; TensorFlow's begins with 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn import Parameter
from torch.optim import Optimizer, RMSprop

from drdg.config import Config, CriticConfig, DualGanConfig
from drdg.losses import adversarial_loss
from drdg.methods.translator import Batch, Phase, frozen
from drdg.methods.two_way import Networks, TwoWay, cycle_loss, go_round, read_pair
from drdg.methods.uses import CRITIC_PHASE
from drdg.methods.wasserstein import wasserstein_critics
from drdg.models.critic import Critic
from drdg.models.keyed import sample_keys
from drdg.models.unet import UNet

DECAY = 0.9  # of RMSprop's mean of squared gradients (released code)


class DualGan(TwoWay):
    """DualGAN at the target's tile side."""

    def __init__(self, config: Config):
        knobs = config.dualgan
        super().__init__(
            config,
            generator=lambda: UNet(knobs.width),
            critic=lambda: Critic(CriticConfig(width=knobs.critic_width)),
        )

    def phases(self) -> list[Phase]:
        """The critics at every iteration, then the generators at every ``n_critic``-th."""
        gan, knobs = self.config.gan, self.config.dualgan
        critic = CriticPhase(self.generators, self.critics, self.side, knobs, self.config.run.seed)
        generator = GeneratorPhase(self.generators, self.critics, self.side, knobs)
        return [
            Phase("critic", critic, _rmsprop(gan.critic_lr), every=1),
            Phase("generator", generator, _rmsprop(gan.generator_lr), every=gan.n_critic),
        ]


def _rmsprop(lr: float) -> Callable[[Iterable[Parameter]], Optimizer]:
    return lambda parameters: RMSprop(parameters, lr=lr, alpha=DECAY)


class CriticPhase(nn.Module):
    """Owns both critics; the generators are guests that only translate."""

    def __init__(self, generators: Networks, critics: Networks, side: int, knobs: DualGanConfig, seed: int):
        super().__init__()
        self.source_critic, self.target_critic = critics
        self.guests = generators  # a tuple, so that they are not this module's parameters
        self.side, self.knobs, self.seed = side, knobs, seed

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The critics' whole loss and its parts."""
        to_target, to_source = self.guests
        source, target = read_pair(batch, self.source_critic, self.side)
        with torch.no_grad():
            fakes = to_source(target), to_target(source)
        keys = sample_keys(self.seed, batch["position"], CRITIC_PHASE)
        critics = self.source_critic, self.target_critic
        total, parts = wasserstein_critics(critics, (source, target), fakes, keys, self.knobs.gradient_penalty)
        return total, {name: part.detach() for name, part in parts.items()}


class GeneratorPhase(nn.Module):
    """Owns both generators; the critics are guests that only judge."""

    def __init__(self, generators: Networks, critics: Networks, side: int, knobs: DualGanConfig):
        super().__init__()
        self.to_target, self.to_source = generators
        self.guests = critics  # a tuple, so that they are not this module's parameters
        self.side, self.knobs = side, knobs

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Equation 3 and its terms, each the sum over both directions."""
        source_critic, target_critic = self.guests
        source, target = read_pair(batch, self.to_target, self.side)
        trip = go_round((self.to_target, self.to_source), source, target)
        with frozen(self.guests):
            adversarial = adversarial_loss(source_critic(trip.fake_source))
            adversarial = adversarial + adversarial_loss(target_critic(trip.fake_target))
        parts = {"adversarial": adversarial, "cycle": cycle_loss(trip, source, target)}
        total = parts["adversarial"] + self.knobs.cycle * parts["cycle"]
        return total, {name: part.detach() for name, part in parts.items()}
