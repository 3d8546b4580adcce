"""Where an archive's files are: one model for each kind of archive, told apart by ``kind``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

ClassName = str
RGB = tuple[int, int, int]


class Section(BaseModel):
    """A group of knobs; an unknown key is an error, never ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class PotsdamArchive(Section):
    """ISPRS Potsdam in the layout of its download: 38 TOPs, 5 cm."""

    kind: Literal["potsdam"] = "potsdam"
    root: Path = Path("data/Potsdam")
    """Folder that holds ``3_Ortho_IRRG``, ``2_Ortho_RGB``, ``1_DSM`` and the label folders."""
    bands: Literal["irrg", "rgb"] = "irrg"
    """Which orthophotos: infrared-red-green (the paper's Table I) or red-green-blue."""
    labels: Literal["full", "no_boundary"] = "full"
    """Full labels, or those with object borders eroded to void."""


class VaihingenArchive(Section):
    """ISPRS Vaihingen in the layout of its download: 33 areas, 9 cm, bands IR-R-G."""

    kind: Literal["vaihingen"] = "vaihingen"
    root: Path = Path("data/Vaihingen")
    """Folder that holds ``top``, ``dsm`` and the label folders."""
    labels: Literal["full", "no_boundary"] = "full"
    """Full labels, or those with object borders eroded to void."""
    val_by: Literal["area", "position"] = "area"
    """Whether the paper's validation numbers 2, 5, 7, 8, 13, 20, 22, 24 (section III-A) are area numbers (as in the
    public lists of other groups) or 1-based positions in the sorted list of areas."""


class DescribedArchive(Section):
    """Any archive, described instead of programmed: one glob pattern per layer, ``{id}`` standing for the TOP's id."""

    kind: Literal["described"] = "described"
    name: str
    """Short name, used in folder and run names."""
    root: Path
    """Folder the patterns start from."""
    image: str
    """Pattern of the orthophotos, e.g. ``top/top_city_{id}.tif``."""
    dsm: str | None = None
    """Pattern of the surface models (one band, metres), or null when there are none."""
    label: str | None = None
    """Pattern of the labels, or null for an unlabelled archive."""
    bands: tuple[int, int, int] = (1, 2, 3)
    """Which bands of the image are read, in order, counted from 1."""
    classes: dict[ClassName, RGB | int] = {
        "clutter": (255, 0, 0),
        "impervious_surface": (255, 255, 255),
        "car": (255, 255, 0),
        "tree": (0, 255, 0),
        "low_vegetation": (0, 255, 255),
        "building": (0, 0, 255),
    }
    """Class name to its label colour (three-band labels) or value (one-band labels), in the order of the class ids."""
    void: list[RGB | int] = [(0, 0, 0)]
    """Label colours or values that mean "not labelled"."""
    splits: dict[str, list[str]] = {}
    """Split name to TOP ids. ``all`` always exists; ``test`` defaults to all that are in no other split."""


ArchiveConfig = Annotated[PotsdamArchive | VaihingenArchive | DescribedArchive, Field(discriminator="kind")]
