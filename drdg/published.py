"""Station 7, printed numbers: what papers print for the directions and methods of this suite, and whether it adds up.

The numbers are ``published.yaml``'s. Their arithmetic is checked, which tells typing slips and what kind of average a
table holds: F1 = 2 IoU / (1 + IoU) is exact for one confusion matrix. Averages over batches (or seeds) fall below it,
as that function is concave, and most where batches differ most: clutter, which few tiles have.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any, Literal

import yaml

# In the order of the tables' columns; the names are those of drdg.datasets, which this room does without.
CLASSES = ("clutter", "impervious_surface", "car", "tree", "low_vegetation", "building")
Measure = Literal["iou", "f1"]


@dataclass(frozen=True)
class Table:
    """Where printed numbers stand."""

    source: str
    """Short name of the paper."""
    where: str
    direction: str
    """From which source to which target, as ``drdg.datasets.direction`` names it."""
    verified: bool
    """Whether the numbers were read at their source, not only cited from memory."""
    about: str
    """What else a reader should know before comparing."""


@dataclass(frozen=True)
class Published:
    """The printed scores of one method in one table, in percent."""

    table: Table
    method: str
    """As the table calls it."""
    miou: float
    mean_f1: float | None = None
    row: str | None = None
    """The row of ours that stands for the same method, where there is one."""
    iou: Mapping[str, float] = field(default_factory=dict)
    """By class name; empty where the table has means only."""
    f1: Mapping[str, float] = field(default_factory=dict)

    def score(self, measure: Measure, line: str | None) -> float | None:
        """What is printed of a class, or of the mean over the classes for ``line=None``; None where nothing is."""
        if line is None:
            return self.miou if measure == "iou" else self.mean_f1
        return (self.iou if measure == "iou" else self.f1).get(line)


@dataclass(frozen=True)
class Deviation:
    """A printed number that does not follow from others of its line, beyond what rounding to two digits explains."""

    published: Published
    what: str
    """``mean iou``, ``mean f1``, or ``f1 of`` a class."""
    printed: float
    computed: float

    @property
    def points(self) -> float:
        """How much more is printed than follows."""
        return self.printed - self.computed


@cache
def published() -> tuple[Published, ...]:
    """All printed numbers, table by table, the preferred tables first."""
    tables = yaml.safe_load(files("drdg").joinpath("published.yaml").read_text(encoding="utf-8"))
    return tuple(entry for table in tables for entry in _entries(table))


def published_for(direction: str) -> tuple[Published, ...]:
    """What is printed for a direction; empty for one that nobody has printed anything about."""
    return tuple(entry for entry in published() if entry.table.direction == direction)


def check() -> list[Deviation]:
    """Every printed number that does not follow from the others: means from classes, and F1 from IoU."""
    return [deviation for entry in published() for deviation in _deviations(entry)]


def f1_from_iou(iou: float) -> float:
    """The F1, in percent, that one confusion matrix has where its IoU is ``iou`` percent."""
    return 200 * iou / (100 + iou)


def _entries(table: dict[str, Any]) -> list[Published]:
    methods = table.pop("methods")
    place = Table(**table)
    return [Published(place, **{**method, **_by_class(method)}) for method in methods]


def _by_class(method: dict[str, Any]) -> dict[str, dict[str, float]]:
    return {name: dict(zip(CLASSES, method[name], strict=True)) for name in ("iou", "f1") if name in method}


def _deviations(entry: Published) -> list[Deviation]:
    half = 0.005  # of the last printed digit
    found = []
    means = (("mean iou", entry.iou, entry.miou), ("mean f1", entry.f1, entry.mean_f1))
    for what, classes, printed in means:
        if classes and printed is not None:
            found.append((Deviation(entry, what, printed, sum(classes.values()) / len(classes)), 2 * half))
    for name, iou in entry.iou.items():
        # The function's slope is at most 2, so a rounded IoU moves it by no more than twice the rounding.
        found.append((Deviation(entry, f"f1 of {name}", entry.f1[name], f1_from_iou(iou)), 3 * half))
    return [deviation for deviation, rounding in found if abs(deviation.points) > rounding + 1e-9]
