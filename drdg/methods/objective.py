"""Station 3, methods: what every segmentation objective offers to the loop, whichever paper it comes from."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Protocol

from torch import Tensor, nn

from drdg.config import Config
from drdg.methods.translator import Phase

VOID = 255  # the id that drdg.datasets gives to unlabelled pixels; repeated because methods know no archives

Batch = dict[str, Tensor]
"""``image`` uint8 (N, 3, C, C), ``label`` uint8 (N, C, C) with void 255, ``position`` int64 (N,); ``progress`` (N,),
the share of training that is done, in [0, 1). Where an objective needs them, ``target_image`` uint8 (N, 3, C, C),
unlabelled crops of the target, and ``original_image`` uint8 (N, 3, C, C), what ``image`` was before its translation."""

Average = Callable[[Tensor], Tensor]
"""The average of a tensor over ranks, without gradients; with one rank the tensor itself. A rank's sum over pixels
divided by the average of their counts is, averaged over ranks as gradients are, the mean over all ranks' pixels."""


class Objective(Protocol):
    """A way for a segmentor to learn: from labels alone, or from unlabelled target images besides."""

    needs_target: ClassVar[bool]
    """Whether batches must hold ``target_image``."""
    needs_original: ClassVar[bool]
    """Whether batches must hold ``original_image``."""
    networks: nn.ModuleDict
    """``segmentor``, and what is needed only for training."""

    def __init__(self, config: Config, segmentor: nn.Module, average: Average) -> None: ...

    def phases(self) -> list[Phase]:
        """The phases of one update, in order."""
        ...
