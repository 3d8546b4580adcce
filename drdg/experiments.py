"""Station 6, experiments: the paper's tables as data: which rows there are, and what a row is made of.

A row is a translator and the segmentor trained on what it gives. RDG and the ablations are values of DRDG's weights,
not code of their own (paper, section III-C).
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from drdg.config import Config


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    translator: str | None
    """``None``: source tiles as they are. ``resize``: only brought to the target's scale. Else a translator's name."""
    about: str
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """What differs from the run's configuration, by section and knob."""

    @property
    def is_trained(self) -> bool:
        """Whether its translator has weights to train."""
        return self.translator not in (None, "resize")


ROWS = {
    row.name: row
    for row in (
        Row("baseline", None, "segmentor trained on untranslated source tiles, native-scale crops"),
        Row("baseline_rescaled", "resize", "segmentor trained on source tiles resized to the target's scale"),
        Row(
            "rdg",
            "drdg",
            "ResiDualGAN: DRDG without depth",
            {"loss": {"depth_supervised": 0.0, "depth_cycle_consistency": 0.0}},
        ),
        Row("drdg_wo_dsl", "drdg", "DRDG without the depth supervised loss", {"loss": {"depth_supervised": 0.0}}),
        Row(
            "drdg_wo_dccl",
            "drdg",
            "DRDG without the depth cycle consistency loss",
            {"loss": {"depth_cycle_consistency": 0.0}},
        ),
        Row("drdg", "drdg", "Depth-Assisted ResiDualGAN"),
    )
}


def find_row(name: str) -> Row:
    """The row called ``name``. Raises ``ValueError`` with the nearest right name."""
    if name not in ROWS:
        near = difflib.get_close_matches(name, ROWS, n=1, cutoff=0.0)[0]
        raise ValueError(f"run.rows: {name!r} is no row; did you mean {near!r}? There are {', '.join(ROWS)}")
    return ROWS[name]


def config_of(row: Row, config: Config) -> Config:
    """The run's configuration with the row's own settings."""
    values = config.model_dump()
    for section, settings in row.settings.items():
        values[section].update(settings)
    return Config.model_validate(values)
