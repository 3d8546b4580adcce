"""Station 2, raster: windows of one TOP's image, surface model and label, read from its files and checked."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import rasterio
import rasterio.windows
from rasterio.env import get_gdal_config, set_gdal_config
from rasterio.errors import CRSError, NotGeoreferencedWarning, RasterioError

from drdg.datasets.base import Archive, Top
from drdg.tiles.windows import Window

# No land lies outside (Dead Sea -430 m, Everest 8849 m), so such a height is an undeclared "no data" (-9999, say).
LOWEST_M, HIGHEST_M = -500.0, 9000.0
# Pixels may differ this much in width and height before they count as not square.
SQUARE_TOLERANCE = 0.01
CACHE = "GDAL_CACHEMAX"


class TopReader:
    """One TOP, opened; a context manager.

    Opening raises ``ValueError`` when a file is missing or unreadable, has too few bands or is not uint8, when DSM or
    label have another size than the image, or when the georeference is rotated or in degrees.

    Attributes: ``height``, ``width`` in pixels; ``gsd_m``, metres per pixel, None without a georeference; ``crs``, as
    text, or None; ``transform``, the six numbers a, b, c, d, e, f of x = a col + b row + c, y = d col + e row + f.
    """

    def __init__(self, archive: Archive, top: Top) -> None:
        self.archive = archive
        self.top = top
        self._files = ExitStack()
        try:
            self._open()
        except BaseException:
            self._files.close()
            raise

    def _open(self) -> None:
        top = self.top
        self._image = self._files.enter_context(_open(top.image))
        self.height, self.width = self._image.height, self._image.width
        needed = max(self.archive.bands)
        if self._image.count < needed:
            raise ValueError(
                f"{top.image}: has {self._image.count} bands but band {needed} is wanted; "
                "name bands it has in the archive's 'bands' or give the file that has them"
            )
        _require_uint8(self._image, top.image, self.archive.bands)
        self._label = self._dsm = None
        if top.dsm is not None:
            self._dsm = self._files.enter_context(_open(top.dsm))
            self._require_size(self._dsm, top.dsm, "DSM", lacking=int(top.dsm_repeat_last_column))
        if top.label is not None:
            self._label = self._files.enter_context(_open(top.label))
            self._require_size(self._label, top.label, "label", lacking=0)
            _require_uint8(self._label, top.label, self._label.indexes)
        transform = self._image.transform
        self.transform: tuple[float, ...] = tuple(float(value) for value in transform)[:6]
        self.crs: str | None = self._image.crs.to_string() if self._image.crs else None
        self.gsd_m = None if transform.is_identity else _gsd(self._image, top.image)

    def _require_size(self, file: rasterio.DatasetReader, path: Path, what: str, *, lacking: int) -> None:
        """``lacking``: how many columns the file may be narrower than the image (one known ISPRS file is)."""
        if file.height == self.height and 0 <= self.width - file.width <= lacking:
            return
        raise ValueError(
            f"{path}: this {what} is {file.height} x {file.width} pixels but its TOP {self.top.image} is "
            f"{self.height} x {self.width}; bring it onto the TOP's grid, for example with gdalwarp -te -ts"
        )

    def __enter__(self) -> TopReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close its files."""
        self._files.close()

    @property
    def has_dsm(self) -> bool:
        """Whether it has a surface model."""
        return self._dsm is not None

    @property
    def has_label(self) -> bool:
        """Whether it has a label."""
        return self._label is not None

    @property
    def row_of_blocks_bytes(self) -> int:
        """Bytes of what GDAL must decode at once to read rows: a row of blocks of each file, all bands."""
        files = [file for file in (self._image, self._dsm, self._label) if file is not None]
        return sum(
            file.width * file.block_shapes[0][0] * sum(np.dtype(kind).itemsize for kind in file.dtypes)
            for file in files
        )

    def row_bands(self, rows: int) -> Iterator[Window]:
        """Windows of the full width and at most ``rows`` rows that together cover the TOP."""
        for row in range(0, self.height, rows):
            yield Window(row, 0, min(rows, self.height - row), self.width)

    def read_image(self, window: Window) -> np.ndarray:
        """The image in ``window``, uint8 (height, width, 3), in the archive's band order."""
        bands = self._read(self._image, self.top.image, window, list(self.archive.bands))
        image = np.empty((window.height, window.width, len(bands)), dtype=np.uint8)
        # A band at a time is six times as fast as a transposed copy, and faster than GDAL's own interleaving.
        for number, band in enumerate(bands):
            image[..., number] = band
        return image

    def read_dsm(self, window: Window) -> np.ndarray:
        """Heights in ``window``, float32 (height, width) metres.

        Raises ``ValueError`` that counts the pixels without a height.
        """
        assert self._dsm is not None, f"{self.top.id} has no DSM"
        assert self.top.dsm is not None
        missing = max(0, window.cols.stop - self._dsm.width)
        col = min(window.col, self._dsm.width - 1)
        kept = Window(window.row, col, window.height, min(window.cols.stop, self._dsm.width) - col)
        raw = self._read(self._dsm, self.top.dsm, kept, 1)
        heights = raw.astype(np.float32, copy=False)
        count = _count_gaps(heights, raw, self._dsm.nodata)
        if count:
            raise ValueError(
                f"{self.top.dsm}: {count} pixels in {kept} have no height (NaN, infinite, nodata or outside "
                f"{LOWEST_M:.0f} to {HIGHEST_M:.0f} m); fill the gaps, for example with gdal_fillnodata"
            )
        return np.pad(heights, ((0, 0), (0, missing)), mode="edge")[:, -window.width :] if missing else heights

    def read_label(self, window: Window) -> np.ndarray:
        """Class ids in ``window``, uint8 (height, width), ``VOID`` where there is none."""
        assert self._label is not None, f"{self.top.id} has no label"
        assert self.top.label is not None
        return self.archive.decode_label(self._read(self._label, self.top.label, window, None), self.top.label)

    def _read(
        self, file: rasterio.DatasetReader, path: Path, window: Window, bands: list[int] | int | None
    ) -> np.ndarray:
        assert 0 <= window.row < window.rows.stop <= self.height, window
        assert 0 <= window.col < window.cols.stop <= self.width, window
        try:
            place = rasterio.windows.Window(window.col, window.row, window.width, window.height)
            return file.read(bands, window=place)
        except RasterioError as error:
            raise _damaged(path, error) from error


@contextmanager
def block_cache(size: int) -> Iterator[None]:
    """Let GDAL keep ``size`` bytes of decoded blocks, of all files and threads, in the block, and then what it kept."""
    before = get_gdal_config(CACHE)
    set_gdal_config(CACHE, size)  # rasterio.Env would not put the old size back
    try:
        yield
    finally:
        set_gdal_config(CACHE, before)


def _count_gaps(heights: np.ndarray, raw: np.ndarray, nodata: float | None) -> int:
    """How many of the heights are none; ``raw`` is as read, which is what nodata is compared with."""
    low, high = heights.min(), heights.max()
    # One look at the extremes does for a surface without gaps; NaN, if there is any, is both of them.
    if low >= LOWEST_M and high <= HIGHEST_M and not (nodata is not None and low <= nodata <= high):
        return 0
    # Written as "not inside" so that NaN, which compares false to everything, counts as a gap too.
    gaps = ~((heights >= LOWEST_M) & (heights <= HIGHEST_M))
    if nodata is not None:
        gaps |= raw == nodata
    return int(np.count_nonzero(gaps))


def _open(path: Path) -> rasterio.DatasetReader:
    if not path.is_file():
        raise ValueError(f"{path}: no such file; put it there or correct the archive's root")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            return rasterio.open(path)
    except RasterioError as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> ValueError:
    cause = str(error.__cause__ or error).strip().splitlines()[0]
    return ValueError(f"{path}: cannot be read ({cause}); it is damaged or cut short, copy or download it again")


def _require_uint8(file: rasterio.DatasetReader, path: Path, bands: tuple[int, ...]) -> None:
    for band in bands:
        kind = file.dtypes[band - 1]
        if kind != "uint8":
            raise ValueError(
                f"{path}: band {band} is {kind}, not uint8; convert it, for example with gdal_translate -ot Byte -scale"
            )


def _gsd(file: rasterio.DatasetReader, path: Path) -> float:
    """Metres per pixel; a CRS without unit, or none at all, is taken to be in metres."""
    step = file.transform
    if abs(step.b) + abs(step.d) > SQUARE_TOLERANCE * (abs(step.a) + abs(step.e)) or step.a <= 0 or step.e >= 0:
        raise ValueError(f"{path}: its georeference is rotated or flipped; warp it north up, for example with gdalwarp")
    if abs(step.a + step.e) > SQUARE_TOLERANCE * step.a:
        raise ValueError(
            f"{path}: its pixels are {step.a:g} x {-step.e:g}, not square; warp it, for example with gdalwarp -tr"
        )
    if file.crs is None:
        return float(step.a)
    if file.crs.is_geographic:
        raise ValueError(
            f"{path}: its coordinates are degrees ({file.crs}); warp it to a projection in metres, "
            "for example with gdalwarp -t_srs and the local UTM zone"
        )
    try:
        _, metres_per_unit = file.crs.linear_units_factor
    except CRSError:
        metres_per_unit = 1.0
    return float(step.a * metres_per_unit)
