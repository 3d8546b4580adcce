"""Station 3, methods: a translator or a segmentation objective, its networks, phases and losses."""

from __future__ import annotations

from drdg.config import Config
from drdg.methods.drdg import Drdg
from drdg.methods.translator import Batch, Phase, Translator

TRANSLATORS = {"drdg": Drdg}


def build_translator(name: str, config: Config) -> Translator:
    """The translator called ``name``, with fresh weights drawn from torch's current random state."""
    return TRANSLATORS[name](config)


__all__ = ["TRANSLATORS", "Batch", "Phase", "Translator", "build_translator"]
