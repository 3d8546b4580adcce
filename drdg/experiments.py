"""Station 6, experiments: the papers' tables as data: which rows there are, and what a row is made of.

A row is a translator and an objective. RDG, the ablations and what each compared method is trained with are values, not
code of their own (paper, section III-C).
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from drdg.config import Config

Settings = Mapping[str, Mapping[str, Any]]

# Sections of the configuration that only the training of a translator reads.
TRANSLATION = frozenset({"dsm", "generator", "critic", "loss", "cyclegan", "benjdira", "dualgan", "gan"})
NO_DSL = {"loss": {"depth_supervised": 0.0}}
NO_DCCL = {"loss": {"depth_cycle_consistency": 0.0}}
NO_DEPTH = {"loss": {"depth_supervised": 0.0, "depth_cycle_consistency": 0.0}}
# CycleGAN's and Benjdira's released codes: Adam at 2e-4 with beta 0.5 for all networks, which learn in turn.
LSGAN_RECIPE = {"generator_lr": 2e-4, "critic_lr": 2e-4, "generator_betas": (0.5, 0.999), "n_critic": 1}
# DualGAN's released code: RMSprop at 5e-5 for all networks, at a rate that does not fall.
DUALGAN_RECIPE = {"generator_lr": 5e-5, "critic_lr": 5e-5, "schedule": {"kind": "constant"}}


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    translator: str | None
    """``None``: tiles as they are. ``resize``: only brought to the target's scale. Else a translator's name."""
    about: str
    settings: Settings = field(default_factory=dict)
    """What differs from the run's configuration, by section and knob."""
    objective: str = "source_only"
    """What the segmentor learns by."""
    shares: str | None = None
    """The row whose translated tiles this one learns from, in the place of a ``translator`` of its own."""
    original: str | None = None
    """The row whose translated tiles stand for those before translation, for an objective that looks at both."""
    is_ceiling: bool = False
    """Whether it learns from target labels, and from nothing else."""

    @property
    def is_trained(self) -> bool:
        """Whether it has a translator of its own with weights to train."""
        return self.translator not in (None, "resize")

    @property
    def builds_on(self) -> tuple[str, ...]:
        """The rows whose translated tiles it needs."""
        return tuple(name for name in (self.shares, self.original) if name is not None)


ROWS = {
    row.name: row
    for row in (
        Row("baseline", None, "segmentor trained on untranslated source tiles, native-scale crops"),
        Row("baseline_rescaled", "resize", "segmentor trained on source tiles resized to the target's scale"),
        Row(
            "cyclegan",
            "cyclegan",
            "CycleGAN (Zhu et al. 2017)",
            {"gan": {**LSGAN_RECIPE, "schedule": {"kind": "linear"}}},
        ),
        Row(
            "benjdira",
            "benjdira",
            "Benjdira et al. 2019, with this table's segmentor",
            {"gan": {**LSGAN_RECIPE, "schedule": {"kind": "constant"}}},
        ),
        Row("adaptsegnet", None, "AdaptSegNet, single level, on this table's segmentor", objective="output_space"),
        Row("dualgan", "dualgan", "DualGAN (Yi et al. 2017)", {"gan": DUALGAN_RECIPE}),
        Row(
            "mucss",
            None,
            "MUCSS-style: DualGAN's tiles, pseudo-labels and rotation consistency; thresholds and weights are ours",
            # Its constraints grow while it learns, so a loss that does not fall says nothing.
            {"segmentation": {"schedule": {"kind": "constant"}}},
            objective="mucss",
            shares="dualgan",
            original="baseline_rescaled",
        ),
        Row("rdg", "drdg", "ResiDualGAN: DRDG without depth", NO_DEPTH),
        Row(
            "rdg_adv1",
            "drdg",
            "ResiDualGAN with the adversarial weight 1 of its own script",
            {"loss": {**NO_DEPTH["loss"], "adversarial": 1.0}},
        ),
        Row(
            "rdg_osa",
            None,
            "ResiDualGAN with output-space adaptation",
            objective="output_space",
            shares="rdg",
        ),
        Row("drdg_wo_dsl", "drdg", "DRDG without the depth supervised loss", NO_DSL),
        Row("drdg_wo_dccl", "drdg", "DRDG without the depth cycle consistency loss", NO_DCCL),
        Row("drdg", "drdg", "Depth-Assisted ResiDualGAN"),
        Row("drdg_osa", None, "DRDG with output-space adaptation", objective="output_space", shares="drdg"),
        Row("oracle", None, "the ceiling: segmentor trained on labels of the target", is_ceiling=True),
    )
}


def find_row(name: str) -> Row:
    """The row called ``name``. Raises ``ValueError`` with the nearest right name."""
    if name not in ROWS:
        near = difflib.get_close_matches(name, ROWS, n=1, cutoff=0.0)[0]
        raise ValueError(f"run.rows: {name!r} is no row; did you mean {near!r}? There are {', '.join(ROWS)}")
    return ROWS[name]


def config_of(row: Row, config: Config) -> Config:
    """The run's configuration with the row's own settings, and then what ``row_settings`` says of the row.

    Raises ``ValueError`` when ``row_settings`` names a row or knob that does not exist, or a value that a knob refuses.
    """
    for name in config.row_settings:
        if name not in ROWS:
            near = difflib.get_close_matches(name, ROWS, n=1, cutoff=0.0)[0]
            raise ValueError(f"row_settings.{name}: is no row; did you mean {near!r}?")
    values = merged(config.model_dump(), row.settings)
    own = config.row_settings.get(row.name, {})
    for section in own:
        if section in TRANSLATION and not row.is_trained:
            trains = f"; set it for row {row.shares}, which trains them" if row.shares else ""
            raise ValueError(f"row_settings.{row.name}.{section}: row {row.name} trains no networks by it{trains}")
    try:
        return Config.model_validate(merged(values, own))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise ValueError(f"row_settings.{row.name}.{key}: {first['msg'].removeprefix('Value error, ')}") from error


def merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``values`` with ``changes``, section by section."""
    result = dict(values)
    for key, change in changes.items():
        before = result.get(key)
        if isinstance(change, Mapping) and isinstance(before, Mapping):
            result[key] = merged(before, change)
        else:
            result[key] = change
    return result
