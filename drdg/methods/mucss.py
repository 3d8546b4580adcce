"""Station 3, methods: "MUCSS-style", in the manner of Li et al., ISPRS Journal 175 (2021), 20-33; not a reproduction.

The paper's: three constraints on a segmentor f, and weights that grow while it learns ("dynamic optimisation"). A
source tile keeps its labels when DualGAN translates it (transfer invariance); likely predictions on the target are
labels (weakly supervised pseudo-labels); and the prediction on a turned image is the turned prediction (rotation
consistency). Its code was never published, nor its thresholds, weights and lengths. So this is ours:

    L = CE(f(translated), y) + original CE(f(source), y)
        + w(t) [pseudo CE(f(target), argmax p where max p > confidence) + rotation mean (turn(p) - p_turned)^2]

with p = softmax f(target), p_turned = softmax f(turn(target)), and w(t) = exp(-5 (1 - t)^2) the ramp of Laine and
Aila (ICLR 2017), t from 0 to 1 over the training.

* The knobs' values are those of ``MucssConfig``. A term of weight 0 is not computed.
* Pseudo-labels come from the segmentor that learns from them, from the same forward, dropout and all: there is no
  teacher, no moving average, and no stage of its own. All classes have one threshold.
* Each tile is turned by one, two or three quarters, by chance. turn(p) is fixed and only f(turn(target)) learns from
  the difference; were both sides moved, they could meet by saying less of either.
* Target tiles are not translated back to the source, and the translator is whatever the row names.
* Each batch goes through f by itself, so that batch norms normalise each kind of image by itself.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drdg.config import Config, MucssConfig
from drdg.losses import cross_entropy_loss
from drdg.methods.objective import VOID, Average, Batch
from drdg.methods.predictions import (
    ORIGINAL,
    QUARTER_TURNS,
    SOURCE,
    TARGET,
    TURNED,
    predict,
    pseudo_labels,
    segmentor_phase,
)
from drdg.methods.translator import Phase
from drdg.models.keyed import sample_keys, uniform

RAMP = 5.0  # Laine and Aila 2017, section 2; also what the DRDG authors' code has, unused


class Mucss:
    """A segmentor that learns from translated and original source tiles and from its own predictions on the target."""

    needs_target: ClassVar[bool] = True
    needs_original: ClassVar[bool] = True

    def __init__(self, config: Config, segmentor: nn.Module, average: Average):
        self.config = config
        self.average = average
        self.networks = nn.ModuleDict({"segmentor": segmentor})

    def phases(self) -> list[Phase]:
        """The segmentor at every update."""
        module = MucssPhase(self.networks["segmentor"], self.config.mucss, self.config.run.seed, self.average)
        return [segmentor_phase(module, self.config)]


class MucssPhase(nn.Module):
    """Owns the segmentor."""

    def __init__(self, segmentor: nn.Module, knobs: MucssConfig, seed: int, average: Average):
        super().__init__()
        self.segmentor = segmentor
        self.knobs = knobs
        self.seed = seed
        self.average = average

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The whole loss and its terms, before weights; ``progress`` is one number for the update."""
        knobs = self.knobs
        terms = self._on_source(batch) | self._on_target(batch)
        weight = ramp(batch["progress"][0].to(terms["cross_entropy"]))
        weights: dict[str, float | Tensor] = {
            "cross_entropy": 1.0,
            "original": knobs.original,
            "pseudo": knobs.pseudo * weight,
            "rotation": knobs.rotation * weight,
        }
        total = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
        return total, {name: term.detach() for name, term in terms.items()} | {"ramp": weight}

    def _on_source(self, batch: Batch) -> dict[str, Tensor]:
        logits = self._predict(batch, batch["image"], SOURCE)
        terms = {"cross_entropy": cross_entropy_loss(logits, batch["label"], VOID, self.average)}
        if self.knobs.original > 0:
            original = self._predict(batch, batch["original_image"], ORIGINAL)
            terms["original"] = cross_entropy_loss(original, batch["label"], VOID, self.average)
        return terms

    def _on_target(self, batch: Batch) -> dict[str, Tensor]:
        if self.knobs.pseudo == self.knobs.rotation == 0:
            return {}
        logits = self._predict(batch, batch["target_image"], TARGET)
        terms = {}
        if self.knobs.pseudo > 0:
            label = pseudo_labels(logits, self.knobs.confidence)
            terms["pseudo"] = cross_entropy_loss(logits, label, VOID, self.average)
        if self.knobs.rotation > 0:
            turns = quarter_turns(self.seed, batch["position"])
            turned = self._predict(batch, turn(batch["target_image"], turns), TURNED)
            aim = turn(logits.detach().softmax(dim=1), turns)
            terms["rotation"] = F.mse_loss(turned.softmax(dim=1), aim)
        return terms

    def _predict(self, batch: Batch, images: Tensor, use: int) -> Tensor:
        return predict(self.segmentor, images, self.seed, batch["position"], use)


def ramp(progress: Tensor) -> Tensor:
    """The weight, from exp(-5) to 1, of what is learned from predictions when ``progress`` of the training is done."""
    return torch.exp(-RAMP * (1 - progress).square())


def quarter_turns(seed: int, position: Tensor) -> Tensor:
    """How many quarters (N,), int64 from 1 to 3, to turn the target tiles of the samples at ``position`` (N,)."""
    keys = sample_keys(seed, position, QUARTER_TURNS)
    return 1 + (3 * uniform(keys, (), torch.float64)).long()


def turn(images: Tensor, turns: Tensor) -> Tensor:
    """Each of ``images`` (N, C, S, S) turned anticlockwise by its number of quarters, ``turns`` (N,) from 1 to 3."""
    # All three are made and one is chosen, so that no number must be fetched from the device.
    turns = turns[:, None, None, None]
    once, twice, thrice = (images.rot90(quarters, (2, 3)) for quarters in (1, 2, 3))
    return torch.where(turns == 1, once, torch.where(turns == 2, twice, thrice))
