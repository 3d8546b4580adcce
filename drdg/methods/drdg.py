"""Station 3, methods: Depth-Assisted ResiDualGAN (arXiv 2208.09823, equations 1-7); without depth weights, ResiDualGAN.

Besides the equations, as in the released code: the Lipschitz constraint is a gradient penalty, the critics learn at
every iteration and the generators at every fifth, the generators' dropout stays on while the critics learn, and the
critics see images that nothing clamps. The weights of equation 7 do not touch the critics' own loss.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import Parameter
from torch.optim import Adam, Optimizer, RMSprop

from drdg.config import Config, LossConfig
from drdg.losses import (
    adversarial_loss,
    berhu_loss,
    cycle_consistency_loss,
    resize_depth,
    wide_type,
)
from drdg.methods.translator import Batch, Phase, frozen, scaled
from drdg.methods.uses import (
    BACK_TO_SOURCE,
    BACK_TO_TARGET,
    CRITIC_PHASE,
    GENERATOR_PHASE,
    TO_SOURCE,
    TO_TARGET,
)
from drdg.methods.wasserstein import wasserstein_critics
from drdg.models.critic import Critic
from drdg.models.generator import Generator
from drdg.models.keyed import derive, sample_keys

DSMS = ("source_dsm", "target_dsm")


class Drdg:
    """Two generators and two critics; with both depth weights 0 it is ResiDualGAN and no depth decoder exists."""

    def __init__(self, config: Config):
        self.config = config
        self.uses_depth = config.loss.uses_depth
        self.lanes: dict[str, Tensor] = {}
        self.networks = nn.ModuleDict(
            {
                "to_target": Generator(config.generator, config.target.tile, self.uses_depth),
                "to_source": Generator(config.generator, config.source.tile, self.uses_depth),
                "source_critic": Critic(config.critic),
                "target_critic": Critic(config.critic),
            }
        )

    @staticmethod
    def needs_dsm(config: Config) -> bool:
        """With a depth term, yes."""
        return config.loss.uses_depth

    def phases(self) -> list[Phase]:
        """The critics at every iteration, then the generators at every ``n_critic``-th."""
        generators = (self.networks["to_target"], self.networks["to_source"])
        critics = (self.networks["source_critic"], self.networks["target_critic"])
        gan, seed = self.config.gan, self.config.run.seed
        return [
            Phase("critic", CriticPhase(generators, critics, self.config.loss, seed), self._rmsprop, every=1),
            Phase(
                "generator", GeneratorPhase(generators, critics, self.config.loss, seed), self._adam, every=gan.n_critic
            ),
        ]

    @torch.no_grad()
    def translate(self, images: Tensor) -> Tensor:
        """Source images (N, 3, H, W) in [-1, 1] to the target's look and size."""
        generator = self.networks["to_target"].eval()
        return generator(images.to(next(generator.parameters()))).image

    @torch.no_grad()
    def predict_depth(self, images: Tensor) -> Tensor | None:
        """The heights (N, 1, H, W), as ``dsm`` normalises them, that source images (N, 3, H, W) seem to show."""
        if not self.uses_depth:
            return None
        generator = self.networks["to_target"].eval()
        return generator(images.to(next(generator.parameters())), depth=True).depth

    def _rmsprop(self, parameters: Iterable[Parameter]) -> Optimizer:
        return RMSprop(parameters, lr=self.config.gan.critic_lr)

    def _adam(self, parameters: Iterable[Parameter]) -> Optimizer:
        return Adam(parameters, lr=self.config.gan.generator_lr, betas=self.config.gan.generator_betas)


class CriticPhase(nn.Module):
    """Owns both critics; the generators are guests that only translate."""

    def __init__(
        self, generators: tuple[nn.Module, nn.Module], critics: tuple[nn.Module, nn.Module], loss: LossConfig, seed: int
    ):
        super().__init__()
        self.source_critic, self.target_critic = critics
        self.guests = generators  # a tuple, so that they are not this module's parameters
        self.loss = loss
        self.seed = seed

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The critics' whole loss and its parts."""
        to_target, to_source = self.guests
        keys = sample_keys(self.seed, batch["position"], CRITIC_PHASE)
        source = scaled(batch["source_image"], self.source_critic)
        target = scaled(batch["target_image"], self.target_critic)
        with torch.no_grad():
            fake_target = to_target.train()(source, derive(keys, TO_TARGET)).image
            fake_source = to_source.train()(target, derive(keys, TO_SOURCE)).image
        total, parts = wasserstein_critics(
            (self.source_critic, self.target_critic),
            (source, target),
            (fake_source, fake_target),
            keys,
            self.loss.gradient_penalty,
        )
        return total, {name: part.detach() for name, part in parts.items()}


class GeneratorPhase(nn.Module):
    """Owns both generators; the critics are guests that only judge."""

    def __init__(
        self, generators: tuple[nn.Module, nn.Module], critics: tuple[nn.Module, nn.Module], loss: LossConfig, seed: int
    ):
        super().__init__()
        self.to_target, self.to_source = generators
        self.guests = critics  # a tuple, so that they are not this module's parameters
        self.loss = loss
        self.seed = seed

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Equation 7 and its terms, each the sum over both directions."""
        with frozen(self.guests):
            parts = self._terms(batch)
        weights = {
            "adversarial": self.loss.adversarial,
            "cycle": self.loss.cycle,
            "depth_supervised": self.loss.depth_supervised,
            "depth_cycle_consistency": self.loss.depth_cycle_consistency,
        }
        total = torch.stack([weights[name] * part for name, part in parts.items()]).sum()
        return total, {name: part.detach() for name, part in parts.items()}

    def _terms(self, batch: Batch) -> dict[str, Tensor]:
        source_critic, target_critic = self.guests
        supervised, consistent = self.loss.depth_supervised > 0, self.loss.depth_cycle_consistency > 0
        keys = sample_keys(self.seed, batch["position"], GENERATOR_PHASE)
        source = scaled(batch["source_image"], self.to_target)
        target = scaled(batch["target_image"], self.to_source)
        self.train()
        to_target = self.to_target(source, derive(keys, TO_TARGET), depth=supervised)
        to_source = self.to_source(target, derive(keys, TO_SOURCE), depth=supervised)
        back_to_source = self.to_source(to_target.image, derive(keys, BACK_TO_SOURCE), depth=consistent)
        back_to_target = self.to_target(to_source.image, derive(keys, BACK_TO_TARGET), depth=consistent)
        terms = {
            "adversarial": adversarial_loss(source_critic(to_source.image))
            + adversarial_loss(target_critic(to_target.image)),
            "cycle": cycle_consistency_loss(back_to_source.image, source)
            + cycle_consistency_loss(back_to_target.image, target),
        }
        if not (supervised or consistent):
            return terms
        source_dsm, target_dsm = (batch[name].to(source.device, wide_type(source.dtype)) for name in DSMS)
        if supervised:
            terms["depth_supervised"] = self._berhu(to_target.depth, source_dsm) + self._berhu(
                to_source.depth, target_dsm
            )
        if consistent:
            terms["depth_cycle_consistency"] = self._berhu(back_to_source.depth, source_dsm) + self._berhu(
                back_to_target.depth, target_dsm
            )
        return terms

    def _berhu(self, predicted: Tensor | None, dsm: Tensor) -> Tensor:
        assert predicted is not None, "a depth term without a depth prediction"
        if predicted.shape != dsm.shape:
            dsm = resize_depth(dsm, predicted.shape[-1], self.loss.depth_resize)
        return berhu_loss(predicted, dsm, self.loss.berhu)
