"""Station 3, methods: a segmentor that learns from labels alone (arXiv 2208.09823, equations 8 and 9).

It is the paper's second stage for translated source tiles, the baseline for tiles as they are, and the ceiling for
labelled target tiles.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from drdg.config import Config
from drdg.losses import cross_entropy_loss
from drdg.methods.objective import VOID, Average, Batch
from drdg.methods.predictions import SOURCE, predict, segmentor_phase
from drdg.methods.translator import Phase


class SourceOnly:
    """Cross-entropy on labelled crops."""

    needs_target: ClassVar[bool] = False
    needs_original: ClassVar[bool] = False

    def __init__(self, config: Config, segmentor: nn.Module, average: Average):
        self.config = config
        self.average = average
        self.networks = nn.ModuleDict({"segmentor": segmentor})

    def phases(self) -> list[Phase]:
        """The segmentor at every update."""
        module = SourceOnlyPhase(self.networks["segmentor"], self.config.run.seed, self.average)
        return [segmentor_phase(module, self.config)]


class SourceOnlyPhase(nn.Module):
    """Owns the segmentor."""

    def __init__(self, segmentor: nn.Module, seed: int, average: Average):
        super().__init__()
        self.segmentor = segmentor
        self.seed = seed
        self.average = average

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The cross-entropy, which has no parts."""
        logits = predict(self.segmentor, batch["image"], self.seed, batch["position"], SOURCE)
        return cross_entropy_loss(logits, batch["label"], VOID, self.average), {}
