"""Station 1, archives: what the two ISPRS downloads have in common, above all how their zip files come to lie on disk.

A layer's folder may lie in the root or one folder below it (the zip's own name), may be nested in a folder of the same
name (some zips hold ``X/X/``), and its name's spelling varies (``noBoundary``, ``no_Boundary``). Files are found by
the tile's number in their names, with or without leading zeros, and never by formatting the whole name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from drdg.datasets.base import natural_key

SUFFIXES = (".tif", ".tiff")


def find_layer(root: Path, folder: str | None, file: str, prefix: str = "") -> dict[str, Path]:
    """Files of one layer by tile id: ``prefix`` and the numbers in the file's name, joined by ``_``, without zeros.

    ``folder`` is a regular expression for the folder's whole name in lower case without ``_`` (None: the root itself),
    ``file`` one that is searched in a file's name without suffix and whose groups are the numbers. Of the four places
    named in the module's text, the first with a match counts. Hidden files (``._x.tif`` of other systems) do not.
    Raises ``ValueError`` when two files there have the same tile's numbers.
    """
    for place in _places(root, folder):
        found: dict[str, Path] = {}
        for path in sorted(path for parent in place for path in parent.iterdir()):
            match = re.search(file, path.stem, re.IGNORECASE)
            if match is None or path.name.startswith(".") or path.suffix.lower() not in SUFFIXES or not path.is_file():
                continue
            tile = prefix + "_".join(str(int(number)) for number in match.groups())
            if tile in found:
                raise ValueError(f"{path}: is a second file of tile {tile} beside {found[tile]}; remove one of the two")
            found[tile] = path
        if found:
            return found
    return {}


def find_labels(root: Path, layers: Iterable[tuple[str | None, str]], prefix: str = "") -> dict[str, Path]:
    """Labels from several places, ``(folder, file)`` as in :func:`find_layer`; the first place that has a tile wins."""
    found: dict[str, Path] = {}
    for folder, file in layers:
        found = {**find_layer(root, folder, file, prefix), **found}
    return found


def check_images(images: Iterable[str], known: Sequence[str], root: Path, folder: str) -> None:
    """Raise ``ValueError`` when no orthophoto was found or one is of a tile that the benchmark does not have."""
    images = sorted(images, key=natural_key)
    if not images:
        cure = "unpack the zip files that lie there" if any(root.glob("*.zip")) else "correct archive.root"
        raise ValueError(f"{root}: no orthophoto found in {folder}; {cure}")
    strange = [tile for tile in images if tile not in known]
    if strange:
        raise ValueError(
            f"{root}: {folder} has tile {strange[0]}, which is none of the benchmark's {len(known)}; "
            "remove the file or describe the archive with archive.kind=described"
        )


def check_dsms(images: dict[str, Path], dsms: dict[str, Path], root: Path, folder: str) -> None:
    """Raise ``ValueError`` when an orthophoto has no DSM."""
    without = [tile for tile in sorted(images, key=natural_key) if tile not in dsms]
    if without:
        more = f" (nor for {len(without) - 1} more)" if len(without) > 1 else ""
        raise ValueError(
            f"{images[without[0]]}: no DSM of tile {without[0]} found{more}; put it in {root / folder} "
            "or remove the orthophoto"
        )


def _places(root: Path, folder: str | None) -> list[list[Path]]:
    """Folders to look into, in order of precedence."""
    if folder is None:
        return [[root]]
    below = _folders([root])
    places = []
    for parents in ([root], below):
        matching = [path for path in _folders(parents) if re.fullmatch(folder, path.name.lower().replace("_", ""))]
        places += [matching, _folders(matching)]
    return places


def _folders(parents: Iterable[Path]) -> list[Path]:
    return sorted(path for parent in parents for path in parent.iterdir() if path.is_dir() and path.name[0] != ".")
