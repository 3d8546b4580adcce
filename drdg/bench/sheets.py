"""Station 7, bench: orthophotos of any size in the very form of Potsdam's files, from generated towns or real ones.

As delivered, Potsdam's images are 6000 x 6000 pixels of uint8, three bands interleaved by pixel, in strips without
compression; its heights are float32 in strips; its labels are colours in strips, here with LZW.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import rasterio
from rasterio.transform import Affine

from drdg.config import DomainConfig, PotsdamArchive, SyntheticConfig
from drdg.datasets import VOID, Archive, open_archive
from drdg.datasets.base import PALETTE
from drdg.datasets.potsdam import TRAIN
from drdg.datasets.synthetic import POTSDAM_CRS, POTSDAM_ORIGIN, render_top, source_site
from drdg.tiles.raster import TopReader
from drdg.tiles.windows import Window

GSD_M = 0.05
# Half a sheet is rendered and mirrored: a tile looks the same and a town of 6000 pixels would take 40 s and 5 GB.
MIRRORED = 2
# Sheets of one place begin this share of a sheet apart; no multiple of it is a whole sheet before the 7th.
SHIFTS = 7


@dataclass(frozen=True)
class Pixels:
    """Of one place: image uint8 (H, W, 3), heights float32 (H, W) in metres, class ids uint8 (H, W)."""

    image: np.ndarray
    dsm_m: np.ndarray
    label: np.ndarray


def town(side: int, seed: int = 0) -> Pixels:
    """A generated town as Potsdam's camera sees it, R-G-B."""
    side = max(128, side // MIRRORED)
    shot = render_top(source_site(SyntheticConfig(source_tops=1, source_side=side)), 0, seed)
    return Pixels(np.moveaxis(shot.image[:3], 0, -1), shot.dsm, shot.label)


def photographed(domain: DomainConfig, count: int) -> list[Pixels]:
    """Up to ``count`` real TOPs of a domain; ``ValueError`` when they cannot be read or have no heights or labels."""
    archive = open_archive(domain.archive)
    places = []
    for top in archive.split(domain.split, need_label=True)[:count]:
        with TopReader(archive, top) as reader:
            if not reader.has_dsm:
                raise ValueError(f"archive {archive.name} has no DSM, which the bench reads; name one that has")
            whole = Window(0, 0, reader.height, reader.width)
            places.append(Pixels(reader.read_image(whole), reader.read_dsm(whole), reader.read_label(whole)))
    return places


def write_sheets(root: Path, count: int, side: int, places: Sequence[Pixels]) -> None:
    """Write ``count`` TOPs (at most 24) of ``side`` pixels in Potsdam's layout, filled by mirroring ``places``.

    Where there are more sheets than places, a place comes again, cut elsewhere.
    """
    for number, tile in enumerate(TRAIN[:count]):
        place = places[number % len(places)]
        shift = number // len(places) * side // SHIFTS
        image, dsm_m, label = (_fill(layer, side, shift) for layer in (place.image, place.dsm_m, place.label))
        left = POTSDAM_ORIGIN[0] + number * side * GSD_M
        grid = {"crs": POTSDAM_CRS, "transform": Affine(GSD_M, 0.0, left, 0.0, -GSD_M, POTSDAM_ORIGIN[1])}
        colours = {"interleave": "pixel", "photometric": "RGB"}
        paths = layer_paths(root, tile)
        _write(paths[0], np.moveaxis(image, -1, 0), **grid, **colours)
        _write(paths[1], dsm_m[None], **grid)
        _write(paths[2], np.moveaxis(_colours()[label], -1, 0), **grid, **colours, compress="lzw")


def layer_paths(root: Path, tile: str) -> tuple[Path, Path, Path]:
    """Image, surface model and label of a Potsdam tile such as ``2_10``."""
    padded = "_".join(f"{int(number):02d}" for number in tile.split("_"))
    return (
        root / "2_Ortho_RGB" / f"top_potsdam_{tile}_RGB.tif",
        root / "1_DSM" / f"dsm_potsdam_{padded}.tif",
        root / "5_Labels_all" / f"top_potsdam_{tile}_label.tif",
    )


def link_sheet(whole: Path, number: int, root: Path) -> None:
    """Make an archive at ``root`` of sheet ``number`` of the archive at ``whole`` alone, by links."""
    tile = TRAIN[number]
    for there, here in zip(layer_paths(whole, tile), layer_paths(root, tile), strict=True):
        here.parent.mkdir(parents=True, exist_ok=True)
        here.symlink_to(there.resolve())


def domain_of(root: Path, tile: int, stride: int) -> DomainConfig:
    """The domain of the sheets at ``root``, cut into tiles: overlapping ones up to the edges, others as many as fit."""
    edge: Literal["shift", "drop"] = "shift" if stride < tile else "drop"
    return DomainConfig(archive=PotsdamArchive(root=root, bands="rgb"), tile=tile, stride=stride, edge=edge)


def files_of(archive: Archive) -> list[Path]:
    """Every file of an archive that a build with labels reads."""
    return [path for top in archive.tops for path in (top.image, top.dsm, top.label) if path is not None]


def _fill(layer: np.ndarray, side: int, shift: int) -> np.ndarray:
    rows, cols = (_mirrored(length, side, shift) for length in layer.shape[:2])
    return np.ascontiguousarray(layer[rows][:, cols])


def _mirrored(length: int, side: int, shift: int) -> np.ndarray:
    """``side`` indices into ``length`` pixels, to and fro, from ``shift`` on."""
    places = np.arange(shift, shift + side) % (2 * length)
    return np.where(places < length, places, 2 * length - 1 - places)


def _colours() -> np.ndarray:
    """The ISPRS colour of each class id, uint8 (256, 3); black for every other, as for ``VOID``."""
    colours = np.zeros((VOID + 1, 3), dtype=np.uint8)
    colours[: len(PALETTE)] = PALETTE
    return colours


def _write(path: Path, bands: np.ndarray, **profile: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = bands.shape
    shape = {"count": count, "height": height, "width": width, "dtype": bands.dtype.name}
    with rasterio.open(path, "w", driver="GTiff", tiled=False, **shape, **profile) as file:
        file.write(bands)
