"""Station 1, archives: where TOPs, DSMs and labels lie, and what their classes and splits are; one file per layout."""

from __future__ import annotations

from drdg.config import ArchiveConfig, PotsdamArchive, VaihingenArchive
from drdg.datasets.base import CLASSES, PALETTE, VOID, Archive, Top
from drdg.datasets.described import open_described
from drdg.datasets.potsdam import open_potsdam
from drdg.datasets.vaihingen import open_vaihingen

__all__ = ["CLASSES", "PALETTE", "VOID", "Archive", "Top", "open_archive"]


def open_archive(config: ArchiveConfig) -> Archive:
    """The archive that ``config`` names; only file names are looked at, no raster is opened.

    Raises ``ValueError`` with one sentence that names the folder, file or key and the cure.
    """
    if isinstance(config, PotsdamArchive):
        return open_potsdam(config)
    if isinstance(config, VaihingenArchive):
        return open_vaihingen(config)
    return open_described(config)
