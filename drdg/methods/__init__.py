"""Station 3, methods: a translator or a segmentation objective, its networks, phases and losses."""

from __future__ import annotations

from torch import nn

from drdg.config import Config
from drdg.methods.benjdira import Benjdira
from drdg.methods.cyclegan import CycleGan
from drdg.methods.drdg import Drdg
from drdg.methods.dualgan import DualGan
from drdg.methods.mucss import Mucss
from drdg.methods.objective import Average, Objective
from drdg.methods.output_space import OutputSpace
from drdg.methods.source_only import SourceOnly
from drdg.methods.translator import Batch, Phase, Translator

TRANSLATORS: dict[str, type[Translator]] = {
    "drdg": Drdg,
    "cyclegan": CycleGan,
    "benjdira": Benjdira,
    "dualgan": DualGan,
}

OBJECTIVES: dict[str, type[Objective]] = {"source_only": SourceOnly, "output_space": OutputSpace, "mucss": Mucss}


def build_translator(name: str, config: Config) -> Translator:
    """The translator called ``name``, with fresh weights drawn from torch's current random state."""
    return TRANSLATORS[name](config)


def needs_dsm(name: str, config: Config) -> bool:
    """Whether the translator called ``name`` learns from heights."""
    return TRANSLATORS[name].needs_dsm(config)


def build_objective(name: str, config: Config, segmentor: nn.Module, average: Average) -> Objective:
    """The objective called ``name`` for ``segmentor``; ``average`` gives a tensor's average over ranks.

    The weights of networks besides the segmentor are drawn from torch's current random state.
    """
    return OBJECTIVES[name](config, segmentor, average)


__all__ = [
    "OBJECTIVES",
    "TRANSLATORS",
    "Average",
    "Batch",
    "Objective",
    "Phase",
    "Translator",
    "build_objective",
    "build_translator",
    "needs_dsm",
]
