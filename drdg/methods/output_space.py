"""Station 3, methods: output-space adaptation, AdaptSegNet of Tsai et al. (CVPR 2018, arXiv 1802.10349), single level.

A discriminator D learns to tell predictions on source images from those on target images; the segmentor f learns from
source labels and to make D take its predictions on the target for predictions on the source (their equations 1-6):

    f minimises  CE(f(source), label) + weight * BCE(D(softmax f(target)), 0)
    D minimises  BCE(D(softmax f(source)), 0) + BCE(D(softmax f(target)), 1)

with source = 0 and target = 1. Settings are those of the DRDG authors' own segmentor (released code, switched off for
DRDG and on for their ResiDualGAN script): weight 0.02, Adam for both, D's patch logits enlarged to the image's size,
D's two losses not halved and its learning rate constant. AdaptSegNet itself has ResNet-101 DeepLabV2 with two levels,
SGD, and both learning rates falling. The domains go through f one after the other, as in both codes, so batch norms
normalise each by itself and their running statistics follow both.
"""

from __future__ import annotations

from functools import partial
from typing import ClassVar

from torch import Tensor, nn
from torch.optim import Adam

from drdg.config import Config
from drdg.losses import cross_entropy_loss, domain_loss
from drdg.methods.objective import VOID, Average, Batch
from drdg.methods.predictions import SOURCE, TARGET, count_classes, predict, segmentor_phase
from drdg.methods.translator import Phase, frozen
from drdg.models.output_discriminator import OutputDiscriminator

FROM_SOURCE, FROM_TARGET = 0.0, 1.0

Predictions = dict[str, Tensor]
"""``source`` and ``target``: class probabilities (N, C, H, W), detached, of the update that is being made."""


class OutputSpace:
    """A segmentor and the discriminator of its predictions."""

    needs_target: ClassVar[bool] = True
    needs_original: ClassVar[bool] = False

    def __init__(self, config: Config, segmentor: nn.Module, average: Average):
        self.config = config
        self.average = average
        classes = count_classes(segmentor, config.segmentation.crop)
        discriminator = OutputDiscriminator(classes, config.output_space.width).to(next(segmentor.parameters()))
        self.networks = nn.ModuleDict({"segmentor": segmentor, "discriminator": discriminator})

    def phases(self) -> list[Phase]:
        """The segmentor, then the discriminator on the predictions just made, both at every update."""
        segmentor, discriminator = self.networks["segmentor"], self.networks["discriminator"]
        made: Predictions = {}
        learns = OutputSpacePhase(
            segmentor, discriminator, made, self.config.output_space.weight, self.config.run.seed, self.average
        )
        adam = partial(Adam, lr=self.config.output_space.lr)
        return [
            segmentor_phase(learns, self.config),
            Phase("discriminator", DiscriminatorPhase(discriminator, made), adam, every=1, fixed_rate=True),
        ]


class OutputSpacePhase(nn.Module):
    """Owns the segmentor; the discriminator is a guest that only judges. Leaves its predictions in ``made``."""

    def __init__(
        self,
        segmentor: nn.Module,
        discriminator: nn.Module,
        made: Predictions,
        weight: float,
        seed: int,
        average: Average,
    ):
        super().__init__()
        self.segmentor = segmentor
        self.guests = (discriminator,)  # a tuple, so that it is not this module's
        self.made = made
        self.weight = weight
        self.seed = seed
        self.average = average

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The segmentor's whole loss and its parts."""
        (discriminator,) = self.guests
        position = batch["position"]
        source = predict(self.segmentor, batch["image"], self.seed, position, SOURCE)
        target = predict(self.segmentor, batch["target_image"], self.seed, position, TARGET).softmax(dim=1)
        with frozen(self.guests):
            judged = discriminator(target.to(next(discriminator.parameters()).dtype))
        parts = {
            "cross_entropy": cross_entropy_loss(source, batch["label"], VOID, self.average),
            "adversarial": domain_loss(judged, FROM_SOURCE),
        }
        self.made.update(source=source.detach().softmax(dim=1), target=target.detach())
        total = parts["cross_entropy"] + self.weight * parts["adversarial"]
        return total, {name: part.detach() for name, part in parts.items()}


class DiscriminatorPhase(nn.Module):
    """Owns the discriminator; takes the predictions that the segmentor's phase has ``made`` before its step."""

    def __init__(self, discriminator: nn.Module, made: Predictions):
        super().__init__()
        self.discriminator = discriminator
        self.made = made

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The discriminator's whole loss and its parts; nothing in ``batch`` is read."""
        self.train()
        dtype = next(self.discriminator.parameters()).dtype
        # Taken away, not looked at: an update must not see the predictions of the one before.
        source, target = self.made.pop("source").to(dtype), self.made.pop("target").to(dtype)
        parts = {
            "source": domain_loss(self.discriminator(source), FROM_SOURCE),
            "target": domain_loss(self.discriminator(target), FROM_TARGET),
        }
        return parts["source"] + parts["target"], {name: part.detach() for name, part in parts.items()}
