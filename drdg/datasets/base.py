"""Station 1, archives: what every archive is made of, whatever its layout on disk.

Opening an archive only looks at file names; rasters are opened, and checked, when they are read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from drdg.datasets.labels import RGB, VOID, ExactColours, LabelCode

__all__ = ["CLASSES", "PALETTE", "VOID", "Archive", "Top", "check_root", "natural_key"]

CLASSES = ("clutter", "impervious_surface", "car", "tree", "low_vegetation", "building")
"""The six ISPRS classes in the order of the paper's Table I; the position is the class id."""

PALETTE: tuple[RGB, ...] = ((255, 0, 0), (255, 255, 255), (255, 255, 0), (0, 255, 0), (0, 255, 255), (0, 0, 255))
"""The ISPRS label colour of each of ``CLASSES``."""

# Ids and names become parts of file names, and a WebDataset reader splits sample names at the first dot.
NAME = re.compile(r"[\w-]+")


@dataclass(frozen=True)
class Top:
    """One true orthophoto (TOP) with what belongs to it."""

    id: str
    """Letters, digits, ``_`` and ``-`` only, so that it can be part of a file's or a sample's name."""
    image: Path
    dsm: Path | None = None
    """Surface model, one band in metres; none only when the whole archive has none."""
    label: Path | None = None
    """Label raster, or none when this TOP is not labelled."""
    dsm_repeat_last_column: bool = False
    """Whether a DSM one column narrower than the image is to be read with its last column repeated. True only for a
    file whose provider is known to have delivered it so (Potsdam 3_13); any other difference in size is an error."""


@dataclass(frozen=True)
class Archive:
    """The TOPs of one place and sensor, their classes and their splits."""

    name: str
    tops: tuple[Top, ...]
    """In natural order of their ids (``6_7`` before ``6_10``); ids are unique."""
    bands: tuple[int, ...]
    """Which bands of an image are read, in order, counted from 1 as rasterio does."""
    classes: tuple[str, ...]
    """Class names; the position is the class id."""
    palette: tuple[RGB, ...]
    """One colour per class, for maps."""
    splits: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Split name to TOP ids, in the order of ``tops``; ``all`` is always there."""
    labels: LabelCode | None = None
    """How label pixels become ids; none for exactly the colours of ``palette``, black being void."""
    label_place: str = "the place of the labels"
    """Where labels were looked for, for the message that one is missing."""

    def __post_init__(self) -> None:
        ids = [top.id for top in self.tops]
        assert ids == sorted(set(ids), key=natural_key), ids
        assert all(NAME.fullmatch(name) for name in (self.name, *ids)), (self.name, ids)
        assert len(self.classes) == len(self.palette) == len(set(self.classes)), (self.classes, self.palette)
        object.__setattr__(self, "splits", {"all": tuple(ids), **self.splits})
        for name, members in self.splits.items():
            assert list(members) == [member for member in ids if member in set(members)], (name, members)

    def split(self, name: str, *, need_label: bool = False) -> tuple[Top, ...]:
        """The TOPs of split ``name``, in the order of ``tops``.

        A TOP without label has ``label=None``; who needs labels asks with ``need_label``. Raises ``ValueError`` when
        there is no such split, when it is empty, or when a label that is needed is missing.
        """
        if name not in self.splits:
            raise ValueError(f"archive {self.name} has no split {name!r}; it has {', '.join(sorted(self.splits))}")
        members = set(self.splits[name])
        if not members:
            full = ", ".join(sorted(split for split, ids in self.splits.items() if ids))
            raise ValueError(
                f"split {name!r} of archive {self.name} is empty; put files of its TOPs on disk, give it TOPs in "
                f"archive.splits, or take another ({full})"
            )
        tops = tuple(top for top in self.tops if top.id in members)
        without = [top for top in tops if top.label is None]
        if need_label and without:
            raise ValueError(
                f"{without[0].image}: has no label, nor have {len(without) - 1} more of the {len(tops)} TOPs of split "
                f"{name!r} of archive {self.name}; put labels in {self.label_place} or take a split that is labelled"
            )
        return tops

    def decode_label(self, raw: np.ndarray, path: Path) -> np.ndarray:
        """Class ids, uint8 (H, W) with ``VOID``, of a label's bands ``raw``, uint8 (bands, H, W).

        Raises ``ValueError`` naming file, colour, count and cure when ``raw`` is not in this archive's colours.
        """
        code = self.labels or ExactColours(self.palette)
        return code.decode(raw, path)


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key that reads runs of digits as numbers, so that ``6_7`` comes before ``6_10``."""
    parts = re.findall(r"[0-9]+|[^0-9]+", name)
    return (*((0, int(part), part) if part[0] in "0123456789" else (1, 0, part) for part in parts),)


def check_root(root: Path, holds: str) -> None:
    """Raise ``ValueError`` unless ``root`` is a folder; ``holds`` says what should be in it."""
    if not root.is_dir():
        raise ValueError(f"{root}: no such folder; set archive.root to the folder that holds {holds}")
