"""Station 1, archives: writes generated towns as two archives in the exact layouts of the ISPRS downloads.

Stands in for Potsdam and Vaihingen (paper, section III-A) where those cannot be had: the archives differ by a domain
gap (``look.py``) over towns of one kind (``planning.py``). Nothing that reads them knows that they are generated.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.transform import Affine

from drdg.config import SyntheticConfig, digest
from drdg.datasets import potsdam, vaihingen
from drdg.datasets.base import PALETTE
from drdg.datasets.camera import photograph
from drdg.datasets.generated import MARKER, RECIPE, SOURCE_FOLDER, TARGET_FOLDER
from drdg.datasets.look import BLUE, GREEN, INFRARED, RED, SOURCE, TARGET, Look
from drdg.datasets.planning import plan_town
from drdg.datasets.relief import survey
from drdg.files import write_json
from drdg.progress import progress

IRRG, RGB = [INFRARED, RED, GREEN], [RED, GREEN, BLUE]
# Centre of the upper left pixel of tile 2_10 as in its .tfw (UTM zone 33 north), and of some place in zone 32.
POTSDAM_ORIGIN, POTSDAM_CRS = (366976.525, 5809761.0), "EPSG:32633"
VAIHINGEN_ORIGIN, VAIHINGEN_CRS = (496000.045, 5421999.955), "EPSG:32632"
VAIHINGEN_COLUMNS = 6
# The benchmark's "noBoundary" labels leave out a disc of this radius around every border (pixels).
BORDER_PX = 3


@dataclasses.dataclass(frozen=True)
class Shot:
    """One TOP as arrays: image uint8 (4, H, W) as R, G, B, IR; dsm float32 (H, W) in metres; label (H, W) class ids."""

    image: NDArray[np.uint8]
    dsm: NDArray[np.float32]
    label: NDArray[np.uint8]


@dataclasses.dataclass(frozen=True)
class Site:
    """One archive to be written: which tiles, where (column, row in the city's grid), seen how."""

    folder: str
    stream: int
    tiles: tuple[str, ...]
    places: tuple[tuple[int, int], ...]
    side: int
    look: Look
    origin: tuple[float, float]
    crs: str
    layers: Callable[[str, Shot], Iterator[tuple[str, NDArray]]]
    """From a tile's name and arrays to the archive's files, each a relative path and its bands (B, H, W)."""

    @property
    def side_m(self) -> float:
        """Side of a TOP in metres."""
        return self.side * self.look.gsd_m


def write_archives(config: SyntheticConfig) -> tuple[Path, Path]:
    """Write the Potsdam-like source and the Vaihingen-like target under ``config.root`` and return their folders.

    The same configuration gives the same bytes. An archive that is there already, whole and of this configuration, is
    left alone; one of another configuration or with a file missing is replaced. An archive is written beside its place
    and renamed when it is whole. Raises ``ValueError`` when its place holds something this function did not write, or
    cannot be written to.
    """
    sites = (source_site(config), target_site(config))
    for site in sites:
        try:
            _write_site(site, config)
        except OSError as error:
            raise ValueError(
                f"{config.root / site.folder}: cannot be written ({error.strerror or error}); "
                "set synthetic.root to a folder with room that can be written to"
            ) from error
    return archive_folders(config)


def archive_folders(config: SyntheticConfig) -> tuple[Path, Path]:
    """Where the Potsdam-like and the Vaihingen-like archive are written to."""
    return config.root / SOURCE_FOLDER, config.root / TARGET_FOLDER


def render_top(site: Site, index: int, seed: int) -> Shot:
    """Plan, survey and photograph the site's TOP number ``index``; each depends on ``seed`` and its tile only."""
    column, row = site.places[index]
    rng = np.random.default_rng([seed, site.stream, row, column])
    town = plan_town(site.side_m, rng)
    relief = survey(town, site.look, (column * site.side_m, row * site.side_m), site.side, rng)
    image = photograph(relief, site.look, rng)
    inside = slice(relief.margin, relief.margin + site.side)
    return Shot(image, relief.height[inside, inside], relief.label[inside, inside])


def source_site(config: SyntheticConfig) -> Site:
    """Potsdam's tiles, those with public labels first."""
    tiles = (*potsdam.TRAIN, *potsdam.TEST)[: config.source_tops]
    numbers = [tuple(int(number) for number in tile.split("_")) for tile in tiles]
    places = tuple((column - 10, row - 2) for row, column in numbers)
    side = config.source_side
    return Site(SOURCE_FOLDER, 0, tiles, places, side, SOURCE, POTSDAM_ORIGIN, POTSDAM_CRS, _potsdam_layers)


def target_site(config: SyntheticConfig) -> Site:
    """Vaihingen's areas in their order, in which validation (2, 5, 7, 8, ...) and test areas alternate."""
    tiles = vaihingen.AREAS[: config.target_tops]
    places = tuple((i % VAIHINGEN_COLUMNS, i // VAIHINGEN_COLUMNS) for i in range(len(tiles)))
    side = config.target_side
    return Site(TARGET_FOLDER, 1, tiles, places, side, TARGET, VAIHINGEN_ORIGIN, VAIHINGEN_CRS, _vaihingen_layers)


def _potsdam_layers(tile: str, shot: Shot) -> Iterator[tuple[str, NDArray]]:
    padded = "_".join(f"{int(number):02d}" for number in tile.split("_"))
    yield f"2_Ortho_RGB/top_potsdam_{tile}_RGB.tif", shot.image[RGB]
    yield f"3_Ortho_IRRG/top_potsdam_{tile}_IRRG.tif", shot.image[IRRG]
    yield f"1_DSM/dsm_potsdam_{padded}.tif", shot.dsm[None]
    yield f"5_Labels_all/top_potsdam_{tile}_label.tif", coloured(shot.label)
    yield f"5_Labels_all_noBoundary/top_potsdam_{tile}_label_noBoundary.tif", coloured(shot.label, BORDER_PX)


def _vaihingen_layers(tile: str, shot: Shot) -> Iterator[tuple[str, NDArray]]:
    yield f"top/top_mosaic_09cm_{tile}.tif", shot.image[IRRG]
    yield f"dsm/dsm_09cm_matching_{tile}.tif", shot.dsm[None]
    yield f"gts_for_participants/top_mosaic_09cm_{tile}.tif", coloured(shot.label)
    eroded = coloured(shot.label, BORDER_PX)
    yield f"gts_eroded_for_participants/top_mosaic_09cm_{tile}_noBoundary.tif", eroded


def coloured(label: NDArray[np.uint8], border: int = 0) -> NDArray[np.uint8]:
    """Class ids (H, W) in the ISPRS colours, uint8 (3, H, W); black within ``border`` pixels of another class."""
    colours = np.asarray(PALETTE, np.uint8)[label].transpose(2, 0, 1).copy()
    if border:
        colours[:, _near_border(label, border)] = 0
    return colours


def _near_border(label: NDArray[np.uint8], radius: int) -> NDArray[np.bool_]:
    """Where a disc of ``radius`` pixels holds another class."""
    height, width = label.shape
    near = np.zeros(label.shape, dtype=bool)
    for down in range(0, radius + 1):
        for right in range(-radius, radius + 1):
            if down * down + right * right > radius * radius or (down, right) <= (0, 0):
                continue
            here = (slice(0, height - down), slice(max(-right, 0), width - max(right, 0)))
            there = (slice(down, height), slice(max(right, 0), width - max(-right, 0)))
            differs = label[here] != label[there]
            near[here] |= differs
            near[there] |= differs
    return near


def _write_site(site: Site, config: SyntheticConfig) -> None:
    folder = config.root / site.folder
    plan = {"recipe": RECIPE, "seed": config.seed, "side": site.side, "tiles": site.tiles}
    name = digest({**plan, "look": dataclasses.asdict(site.look)})
    marker = _read_marker(folder)
    if marker is not None and marker.get("digest") == name and _is_whole(folder, marker):
        return
    if marker is None and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(
            f"{folder}: was not written by this command and is left alone; "
            "move it away or set synthetic.root to another folder"
        )
    partial = config.root / f".{site.folder}.partial"
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    sizes: dict[str, int] = {}
    for index in progress(range(len(site.tiles)), f"generating {site.folder}"):
        shot = render_top(site, index, config.seed)
        transform = _transform(site, index)
        for relative, bands in site.layers(site.tiles[index], shot):
            for path in _write_raster(partial / relative, bands, transform, site.crs):
                sizes[path.relative_to(partial).as_posix()] = path.stat().st_size
    write_json(partial / MARKER, {"digest": name, **plan, "files": dict(sorted(sizes.items()))})
    if folder.exists():
        shutil.rmtree(folder)
    partial.rename(folder)


def _read_marker(folder: Path) -> dict | None:
    """The marker of an archive this module wrote, or none."""
    try:
        marker = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError:
        return {}
    return marker if isinstance(marker, dict) else {}


def _is_whole(folder: Path, marker: dict) -> bool:
    """Whether every file is there with its size."""
    files = {relative: folder / relative for relative in marker.get("files", {})}
    return all(path.is_file() and path.stat().st_size == marker["files"][relative] for relative, path in files.items())


def _transform(site: Site, index: int) -> Affine:
    """Upper left corner (GeoTIFF's convention, half a pixel from the .tfw's)."""
    column, row = site.places[index]
    gsd = site.look.gsd_m
    x = site.origin[0] - gsd / 2 + column * site.side_m
    y = site.origin[1] + gsd / 2 - row * site.side_m
    return Affine(gsd, 0.0, x, 0.0, -gsd, y)


def _write_raster(path: Path, bands: NDArray, transform: Affine, crs: str) -> tuple[Path, Path]:
    """A GeoTIFF of (B, H, W) and its world file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = bands.shape
    profile = {
        "driver": "GTiff",
        "dtype": bands.dtype.name,
        "count": count,
        "height": height,
        "width": width,
        "crs": crs,
        "transform": transform,
        "compress": "deflate",
        "zlevel": 1,
        "predictor": 3 if bands.dtype.kind == "f" else 2,
    }
    if count == 3:
        profile |= {"interleave": "pixel", "photometric": "RGB"}
    with rasterio.open(path, "w", **profile) as file:
        file.write(bands)
    centre_x, centre_y = transform.c + transform.a / 2, transform.f + transform.e / 2
    numbers = (transform.a, transform.d, transform.b, transform.e, centre_x, centre_y)
    world = path.with_suffix(".tfw")
    world.write_text("".join(f"{number:.10f}\n" for number in numbers), encoding="ascii")
    return path, world
