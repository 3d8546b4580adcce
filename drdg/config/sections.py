"""Which sections of the configuration decide what a method becomes, besides those of its training."""

from __future__ import annotations

TRANSLATORS = {
    "drdg": ("dsm", "generator", "critic", "loss"),
    "cyclegan": ("cyclegan",),
    "benjdira": ("benjdira",),
    "dualgan": ("dualgan",),
}
OBJECTIVES: dict[str, tuple[str, ...]] = {
    "source_only": (),
    "output_space": ("output_space",),
    "mucss": ("mucss",),
}

# Their losses depend on which share of training is done.
WATCH_THE_END = frozenset({"mucss"})


def translator_settings(name: str) -> tuple[str, ...]:
    """The sections that decide what the translator called ``name`` becomes; ``gan`` says how it is trained."""
    return TRANSLATORS[name]


def objective_settings(name: str) -> tuple[str, ...]:
    """The sections that decide what the objective called ``name`` asks for; ``segmentation`` says the rest."""
    return OBJECTIVES[name]
