"""Station 5, maps: the rasters that are to be mapped, found, opened, checked and read as the network wants them."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
import rasterio.windows
from rasterio.crs import CRS
from rasterio.enums import MaskFlags
from rasterio.errors import RasterioError
from rasterio.transform import Affine
from rasterio.warp import transform_bounds

from drdg.maps.measures import pixel_m
from drdg.maps.ours import sources_of, without_place
from drdg.shards.plan import fingerprint
from drdg.tiles.raster import HIGHEST_M, LOWEST_M
from drdg.tiles.windows import Window

# What is taken out of a folder; a file that is named may have any suffix that GDAL reads.
SUFFIXES = (".tif", ".tiff", ".vrt", ".jp2", ".img")
IMAGE_BANDS = 3
# A hundredth of a pixel over the whole raster: less is rounding.
ROTATION = 1e-2
# A surface model may end this share of a pixel before the image, as both were rounded.
COVER_PX = 0.5


@dataclass(frozen=True)
class Reading:
    """How pixels are read."""

    bands: tuple[int, ...] = (1, 2, 3)
    """Bands in the order that the network wants, counted from 1."""
    low_high: tuple[float, float] | None = None
    """Values that become 0 and 255, linearly, clipped; needed for anything but uint8."""
    need_crs: bool = True
    """Whether a raster without a CRS is refused."""

    def __post_init__(self) -> None:
        if len(self.bands) != IMAGE_BANDS or min(self.bands) < 1:
            said = ",".join(map(str, self.bands))
            raise ValueError(f"--bands {said}: the network takes three bands, counted from 1; write --bands 1,2,3")
        if self.low_high and not self.low_high[0] < self.low_high[1]:
            low, high = self.low_high
            raise ValueError(f"--scale {low:g} {high:g}: is no range; write the value that is to become black first")


def find_inputs(given: Sequence[str]) -> list[Path]:
    """The files that are named, those in a folder that is named, and those that a pattern matches, each once.

    Raises ``ValueError`` when there is nothing under a name.
    """
    found: dict[Path, None] = {}
    for name in given:
        path = Path(name)
        if path.is_dir():
            here = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES and _is_shown(file))
            if not here:
                raise ValueError(f"{path}: no raster ({', '.join(SUFFIXES)}) is in this folder; name the files")
        elif path.is_file():
            here = [path]
        else:
            here = sorted(Path(match) for match in glob.glob(name, recursive=True))  # noqa: PTH207 -- may be absolute
            here = [file for file in here if file.is_file()]
            if not here:
                cure = "write it before --input" if "=" in name else "correct --input"
                raise ValueError(f"{name}: no such file, and no file matches it; {cure}")
        found.update(dict.fromkeys(here))
    return list(found)


def _is_shown(path: Path) -> bool:
    return path.is_file() and not path.name.startswith(".")


class Scene:
    """One raster, opened; a context manager. For one thread at a time.

    Opening raises ``ValueError`` when it is empty, damaged, rotated, without a CRS (see ``Reading``), of too few bands
    or of a type that needs a scaling.

    Attributes: ``height``, ``width`` in pixels; ``crs``, None if it has none; ``transform``; ``gsd_m``, metres per
    pixel down and across, None when they cannot be known; ``is_whole``: whether no pixel can lack a value.
    """

    def __init__(self, path: Path, reading: Reading):
        self.path, self.reading = path, reading
        self._file = open_raster(path)
        try:
            self._check()
        except BaseException:
            self._file.close()
            raise

    def _check(self) -> None:
        file, path, reading = self._file, self.path, self.reading
        self.height, self.width = file.height, file.width
        if max(reading.bands) > file.count:
            raise ValueError(
                f"{path}: has {file.count} band{'s' * (file.count > 1)}, but band {max(reading.bands)} is wanted; "
                "name three that it has by --bands"
            )
        kinds = {np.dtype(file.dtypes[band - 1]) for band in reading.bands}
        if any(kind.kind == "c" for kind in kinds):
            raise ValueError(f"{path}: its values are complex numbers, not an image; convert it, or name another file")
        if reading.low_high is None and kinds != {np.dtype(np.uint8)}:
            named = next(kind.name for kind in kinds if kind != np.uint8)
            raise ValueError(
                f"{path}: its values are {named}, not uint8; say by --scale LOW HIGH which values are black and white"
            )
        self.crs: CRS | None = file.crs
        self.transform: Affine = file.transform
        if self.crs is None and reading.need_crs:
            raise ValueError(
                f"{path}: has no CRS, so nobody knows where it lies; add one (gdal_edit -a_srs) or --no-crs"
            )
        if self.crs is not None or not self.transform.is_identity:
            require_north_up(path, self.transform, self.height, self.width)
        self.gsd_m: tuple[float, float] | None = None
        if not self.transform.is_identity:
            across, down = pixel_m(self.crs, self.transform, self.height, self.width)
            self.gsd_m = down, across
        self._may_be_nan = any(kind.kind == "f" for kind in kinds)
        self.is_whole = not self._may_be_nan and all(flags == [MaskFlags.all_valid] for flags in file.mask_flag_enums)

    def __enter__(self) -> Scene:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, window: Window) -> tuple[np.ndarray, np.ndarray | None]:
        """The image in ``window``, uint8 (height, width, 3), 0 where it has no value, and where it has one, bool
        (height, width), None for everywhere.
        """
        place = rasterio.windows.Window(window.col, window.row, window.width, window.height)
        try:
            raw = self._file.read(list(self.reading.bands), window=place)
            valid = None if self.is_whole else self._file.dataset_mask(window=place) != 0
        except RasterioError as error:
            raise damaged(self.path, error) from error
        if valid is not None:
            if self._may_be_nan:
                valid &= np.isfinite(raw).all(0)
            if valid.all():
                valid = None
        if self.reading.low_high is not None:
            raw = _to_bytes(raw, *self.reading.low_high)
        image = np.empty((window.height, window.width, len(raw)), dtype=np.uint8)
        for number, band in enumerate(raw):  # six times as fast as a transposed copy
            image[..., number] = band
        if valid is not None:
            image[~valid] = 0
        return image, valid

    def valid(self, window: Window) -> np.ndarray | None:
        """Where ``window`` has values, bool (height, width); None for everywhere."""
        return None if self.is_whole else self.read(window)[1]

    def content(self) -> list[tuple[str | None, int, int]]:
        """What its files are known by: samples of their bytes, their sizes and when they were written (ns), those of a
        VRT's sources too, and of their sources.
        """
        return [
            (fingerprint(file), seen.st_size, seen.st_mtime_ns)
            for file in sources_of(self.path)
            for seen in (file.stat(),)
        ]

    def roles(self) -> list[str]:
        """What decides which pixels have values: nodata, masks, and which bands are colours or an alpha band.

        A sidecar may change these without a byte of the raster.
        """
        file = self._file
        flags = [[flag.name for flag in band] for band in file.mask_flag_enums]
        return [repr(file.nodatavals), repr(flags), repr([band.name for band in file.colorinterp])]


def open_raster(path: Path) -> rasterio.DatasetReader:
    """A raster that GDAL can open and that has pixels. Raises ``ValueError`` for any other file."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file; correct its path")
    if path.stat().st_size == 0:
        raise ValueError(f"{path}: is empty, a file of 0 bytes; copy or download it again")
    try:
        with without_place():
            file = rasterio.open(path)
    except RasterioError as error:
        raise damaged(path, error) from error
    if not file.count:
        file.close()
        raise ValueError(f"{path}: has no raster bands of its own; name one of its parts, or another file")
    return file


def damaged(path: Path, error: Exception) -> ValueError:
    """What to say of a raster that cannot be read."""
    cause = str(error.__cause__ or error).strip().splitlines()[0].rstrip(".")
    return ValueError(f"{path}: cannot be read ({cause}); it is damaged, cut short or no raster, copy it again")


def require_north_up(path: Path, transform: Affine, height: int, width: int) -> None:
    """Raise ``ValueError`` unless columns go east and rows go south."""
    turned = max(abs(transform.b) * height / abs(transform.a or 1), abs(transform.d) * width / abs(transform.e or 1))
    if transform.a <= 0 or transform.e >= 0 or turned > ROTATION:
        raise ValueError(f"{path}: its transform is rotated or flipped; warp it north up, for example with gdalwarp")


def height_range(path: Path, scene: Scene) -> tuple[float, float]:
    """Lowest and highest value in metres of the surface model ``path``, which must cover ``scene``.

    Raises ``ValueError`` when it does not, has no heights, or some that are none: gaps that nobody declared.
    """
    with open_raster(path) as file:
        if (file.crs is None) != (scene.crs is None):
            raise ValueError(
                f"{path}: one of this DSM and its image {scene.path} has no CRS; give both one, or neither"
            )
        require_north_up(path, file.transform, file.height, file.width)
        image = rasterio.transform.array_bounds(scene.height, scene.width, scene.transform)
        if scene.crs is not None and file.crs != scene.crs:
            image = transform_bounds(scene.crs, file.crs, *image)
        slack = COVER_PX * abs(file.transform.a), COVER_PX * abs(file.transform.e)
        own = file.bounds
        if (
            own.left > image[0] + slack[0]
            or own.bottom > image[1] + slack[1]
            or own.right < image[2] - slack[0]
            or own.top < image[3] - slack[1]
        ):
            raise ValueError(f"{path}: this DSM does not cover its image {scene.path}; give one that does")
        low, high = np.inf, -np.inf
        try:
            for _, block in file.block_windows(1):
                heights = file.read(1, window=block, masked=True)
                heights = np.ma.masked_invalid(heights)
                if heights.count():
                    low, high = min(low, float(heights.min())), max(high, float(heights.max()))
        except RasterioError as error:
            raise damaged(path, error) from error
    if low > high:
        raise ValueError(f"{path}: this DSM has no height at all; give one that has")
    if low < LOWEST_M or high > HIGHEST_M:
        raise ValueError(
            f"{path}: this DSM has heights from {low:g} to {high:g} m, and none on earth is outside {LOWEST_M:.0f} to "
            f"{HIGHEST_M:.0f} m; declare what stands for no value, for example with gdal_edit -a_nodata"
        )
    return low, high


def _to_bytes(raw: np.ndarray, low: float, high: float) -> np.ndarray:
    scaled = raw.astype(np.float32)
    scaled -= low
    scaled *= 255 / (high - low)
    # NaN stays NaN in clip and is made black where it is masked; its cast would warn.
    np.nan_to_num(scaled, copy=False, posinf=255, neginf=0)
    return np.rint(scaled.clip(0, 255, out=scaled)).astype(np.uint8)
