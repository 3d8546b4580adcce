"""Station 5, maps: which files are this suite's own, so that no other is replaced, and what a raster is made of."""

from __future__ import annotations

import sqlite3
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioError

PLAN = "drdg_plan"
"""Tag with the digest of all that decides a map's content."""
SIDECAR = ".aux.xml"
"""What GDAL keeps beside a GeoTIFF that has no place in it, the names of classes."""
BESIDE = (SIDECAR, ".ovr")
"""What a GIS may write beside a raster that somebody looks at; its pixels are the same."""
MARK = "made by drdg"
"""In the first bytes of a picture or a page."""
MARK_BYTES = 4096
PICTURES_MARK = "made-by-drdg.txt"
"""File in a page's folder of pictures."""
LAYER = "land_cover"
FIELDS = {"class_id", "class_name", "area_m2"}
"""Name and columns of the polygons' layer, the only one in a GeoPackage that is ours."""


def pictures_of(page: Path) -> Path:
    """The folder of a page's pictures."""
    return page.with_name(f"{page.stem}_tiles")


@contextmanager
def without_place() -> Iterator[None]:
    """GDAL need not warn of rasters without a place: pieces have none, and some inputs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


def plan_of(path: Path) -> str | None:
    """The digest of what a finished raster was made by; None when there is none, or another file in its place."""
    if not path.is_file():
        return None
    try:
        with without_place(), rasterio.open(path) as file:
            plan: str | None = file.tags().get(PLAN)
            return plan
    except RasterioError:
        return None


def is_ours(path: Path) -> bool:
    """Whether the file or folder ``path`` was written by a command of this suite, as far as it says so."""
    if path.is_dir():
        return (path / PICTURES_MARK).is_file()
    suffix = path.suffix.lower()
    if suffix == ".gpkg":
        return _has_our_layer(path)
    if suffix in (".png", ".html"):
        with path.open("rb") as file:
            return MARK.encode() in file.read(MARK_BYTES)
    return plan_of(path) is not None


def sources_of(path: Path) -> list[Path]:
    """The files that a raster's pixels are in: itself, its masks, and a virtual raster's sources and theirs.

    A file that cannot be opened is its own only source.
    """
    found: dict[Path, None] = {}
    waiting = [path]
    while waiting:
        here = waiting.pop()
        if here in found:
            continue
        found[here] = None
        try:
            with without_place(), rasterio.open(here) as file:
                names = [name for name in file.files if not name.endswith(BESIDE)]
        except RasterioError:
            continue
        waiting += sorted((Path(name) for name in names if Path(name).is_file()), reverse=True)
    return list(found)


def _has_our_layer(path: Path) -> bool:
    try:
        store = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
        try:
            layers = [name for (name,) in store.execute("SELECT table_name FROM gpkg_contents")]
            columns = {row[1] for row in store.execute(f"PRAGMA table_info({LAYER})")}
        finally:
            store.close()
    except sqlite3.Error:
        return False
    return layers == [LAYER] and columns >= FIELDS
