"""Station 3, methods: CycleGAN's training (Zhu et al. 2017, arXiv 1703.10593), which Benjdira's is too.

The generators minimise equation 3, with its adversarial terms as least squares (section 4) and, from the released code
and section 5.2, the identity loss:

    sum over both directions of  mean (D(G(x)) - 1)^2  +  cycle * |F(G(x)) - x|  +  identity * cycle * |F(x) - x|

and each critic half of mean (D(y) - 1)^2 + mean D(G(x))^2. In the order of the released code the generators learn
first, and the critics then see what the generators gave before they learned.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn import Parameter
from torch.optim import Adam, Optimizer

from drdg.losses import cycle_consistency_loss, least_squares_adversarial_loss, least_squares_critic_loss
from drdg.methods.translator import Batch, Phase, frozen
from drdg.methods.two_way import Networks, TwoWay, cycle_loss, go_round, read_pair

Pool = Callable[[Tensor, Tensor], Tensor]
"""What a critic is shown for translated images (N, 3, H, W) of samples at some positions (N,)."""
Fakes = deque[tuple[Tensor, Tensor]]
"""What the generator phase leaves for the critic phase, one entry for each micro-batch: both translations, detached."""


class LeastSquares(TwoWay):
    """Two generators and two critics that learn so; a method adds its networks and weights."""

    def _phases(self, cycle: float, identity: float, pools: tuple[Pool, Pool] | None) -> list[Phase]:
        fakes: Fakes = deque()
        gan = self.config.gan
        generator = GeneratorPhase(self.generators, self.critics, fakes, self.side, cycle, identity)
        critic = CriticPhase(self.generators, self.critics, fakes, self.side, pools)
        return [
            Phase("generator", generator, self._adam(gan.generator_lr), every=gan.n_critic),
            Phase("critic", critic, self._adam(gan.critic_lr), every=1),
        ]

    def _adam(self, lr: float) -> Callable[[Iterable[Parameter]], Optimizer]:
        return lambda parameters: Adam(parameters, lr=lr, betas=self.config.gan.generator_betas)


class GeneratorPhase(nn.Module):
    """Owns both generators; the critics are guests that only judge."""

    def __init__(self, generators: Networks, critics: Networks, fakes: Fakes, side: int, cycle: float, identity: float):
        super().__init__()
        self.to_target, self.to_source = generators
        self.guests = critics  # a tuple, so that they are not this module's parameters
        self.fakes, self.side, self.cycle, self.identity = fakes, side, cycle, identity

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The generators' whole loss and its terms, each the sum over both directions."""
        source, target = read_pair(batch, self.to_target, self.side)
        trip = go_round((self.to_target, self.to_source), source, target)
        source_critic, target_critic = self.guests
        with frozen(self.guests):
            adversarial = least_squares_adversarial_loss(source_critic(trip.fake_source))
            adversarial = adversarial + least_squares_adversarial_loss(target_critic(trip.fake_target))
        parts = {"adversarial": adversarial, "cycle": cycle_loss(trip, source, target)}
        total = parts["adversarial"] + self.cycle * parts["cycle"]
        if self.identity > 0:
            parts["identity"] = self._identity_loss(source, target)
            total = total + self.identity * self.cycle * parts["identity"]
        self.fakes.append((trip.fake_source.detach(), trip.fake_target.detach()))
        return total, {name: part.detach() for name, part in parts.items()}

    def _identity_loss(self, source: Tensor, target: Tensor) -> Tensor:
        """A generator leaves images be that are of its domain already."""
        kept = cycle_consistency_loss(self.to_source(source), source)
        return kept + cycle_consistency_loss(self.to_target(target), target)


class CriticPhase(nn.Module):
    """Owns both critics; the generators are guests that only translate, where their phase has not just done so."""

    def __init__(
        self, generators: Networks, critics: Networks, fakes: Fakes, side: int, pools: tuple[Pool, Pool] | None
    ):
        super().__init__()
        self.source_critic, self.target_critic = critics
        self.guests = generators  # a tuple, so that they are not this module's parameters
        self.fakes, self.side, self.pools = fakes, side, pools

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The critics' whole loss and its parts."""
        source, target = read_pair(batch, self.source_critic, self.side)
        fake_source, fake_target = self.fakes.popleft() if self.fakes else self._translate(source, target)
        if self.pools is not None:
            source_pool, target_pool = self.pools
            fake_source = source_pool(fake_source, batch["position"])
            fake_target = target_pool(fake_target, batch["position"])
        parts = {
            "source_critic": least_squares_critic_loss(self.source_critic(source), self.source_critic(fake_source)),
            "target_critic": least_squares_critic_loss(self.target_critic(target), self.target_critic(fake_target)),
        }
        total = parts["source_critic"] + parts["target_critic"]
        return total, {name: part.detach() for name, part in parts.items()}

    @torch.no_grad()
    def _translate(self, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        to_target, to_source = self.guests
        return to_source(target), to_target(source)
