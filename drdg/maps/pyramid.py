"""Station 5, maps: rasters on one grid as pyramids of small pictures that a browser shows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from drdg.files import whole_file
from drdg.maps.looks import class_ids, opened_raster
from drdg.panels import HEIGHTS, Palette

TILE = 512  # side of a picture in pixels
# Pictures of the finest level of a layer: 10 240 x 10 240 pixels, some 60 MB of an aerial image.
MOST_TILES = 400
JPEG_QUALITY = 85
LOOKED_AT = 512  # pixels along the longer side, by which values that are no bytes are scaled
CLEAR = 255  # of a picture with a palette: nothing there


@dataclass(frozen=True)
class Level:
    """One size of the whole: pixels of ``factor`` x ``factor`` pixels of the grid."""

    factor: int
    rows: int
    cols: int


@dataclass(frozen=True)
class Grid:
    """What all layers are brought to: the pixels of the map."""

    crs: Any
    transform: rasterio.Affine
    height: int
    width: int

    def levels(self, most: int = MOST_TILES) -> list[Level]:
        """From the whole in one picture to the finest of at most ``most`` pictures."""
        levels = []
        factor = 1
        while True:
            level = Level(factor, *(math.ceil(side / (TILE * factor)) for side in (self.height, self.width)))
            if level.rows * level.cols <= most:
                levels.append(level)
            if level.rows == level.cols == 1:
                return levels[::-1]
            factor *= 2


@dataclass(frozen=True)
class Layer:
    """A layer's pictures and what is said of it."""

    name: str
    kind: str
    """``classes``, ``image`` or ``values``."""
    tiles: list[str]
    """For each level, a letter for each picture, row by row: ``j`` JPEG, ``p`` PNG, ``-`` nothing there."""
    low_high: tuple[float, float] | None
    """The values of the first and the last colour, of ``values``."""


def grid_of(file: rasterio.DatasetReader) -> Grid:
    """A raster's own grid."""
    return Grid(file.crs, file.transform, file.height, file.width)


def write_layer(
    name: str, path: Path, grid: Grid, levels: Sequence[Level], folder: Path, palette: Palette | None
) -> Layer:
    """Write the raster ``path`` as pictures ``<level>/<row>_<col>.<kind>`` below ``folder``.

    With a ``palette`` it is a class map; else with three bands or more an image, with one or two a layer of values.
    Raises ``ValueError`` when it cannot be read, or lies on another grid without saying where.
    """
    with opened_raster(path) as own, _on_grid(own, path, grid) as file:
        if palette is not None:
            kind, low_high, draw = "classes", None, _classes(file, palette)
        elif file.count >= 3:
            low_high = None if file.dtypes[0] == "uint8" else _range(own, (1, 2, 3), (2, 98))
            kind, draw, low_high = "image", _image(file, low_high), None
        else:
            # Bytes that stand for shares of something keep their whole range, so that two maps can be compared.
            shares = own.dtypes[0] == "uint8" and own.scales[0] != 1
            found = (0.0, CLEAR - 1.0) if shares else _range(own, (1,), (0, 100))
            kind, draw = "values", _values(file, found)
            low_high = (found[0] * own.scales[0] + own.offsets[0], found[1] * own.scales[0] + own.offsets[0])
        tiles = []
        for number, level in enumerate(levels):
            letters = []
            for row in range(level.rows):
                for col in range(level.cols):
                    letters.append(_write(draw(*_window(grid, level, row, col)), folder / str(number), row, col))
            tiles.append("".join(letters))
    return Layer(name, kind, tiles, low_high)


def gradient() -> list[tuple[int, int, int]]:
    """The colours of values, from the lowest to the highest, for all but ``CLEAR``."""
    from matplotlib import colormaps

    shades = colormaps[HEIGHTS](np.linspace(0, 1, CLEAR), bytes=True)
    return [(int(red), int(green), int(blue)) for red, green, blue, _ in shades]


Draw = Callable[[Window, tuple[int, int]], Any]
"""A window of the grid and the size (height, width) that it is shown at, to a picture; None for nothing there."""


@contextmanager
def _on_grid(file: rasterio.DatasetReader, path: Path, grid: Grid) -> Iterator[Any]:
    """The raster on the grid, warped only if it is on another."""
    if (file.height, file.width) == (grid.height, grid.width) and (
        file.crs == grid.crs and file.transform.almost_equals(grid.transform, 1e-6 * abs(grid.transform.a))
    ):
        yield file
        return
    if file.crs is None or grid.crs is None:
        raise ValueError(
            f"{path}: is {file.height} x {file.width} pixels on another grid than the map, and without coordinate "
            "systems they cannot be laid over each other; give both one, for example with gdal_edit -a_srs"
        )
    with WarpedVRT(
        file,
        crs=grid.crs,
        transform=grid.transform,
        height=grid.height,
        width=grid.width,
        resampling=Resampling.nearest if file.count == 1 else Resampling.bilinear,
        add_alpha=file.count == 3 and file.nodata is None,
    ) as warped:
        yield warped


def _window(grid: Grid, level: Level, row: int, col: int) -> tuple[Window, tuple[int, int]]:
    """What a picture shows, and its height and width."""
    side = TILE * level.factor
    window = Window(col * side, row * side, min(side, grid.width - col * side), min(side, grid.height - row * side))
    return window, (math.ceil(window.height / level.factor), math.ceil(window.width / level.factor))


def _classes(file: Any, palette: Palette) -> Draw:
    def draw(window: Window, shape: tuple[int, int]) -> Any:
        ids = class_ids(file.read(1, window=window, out_shape=shape), file.nodata, len(palette))
        return _with_palette(ids, palette)

    return draw


def _values(file: Any, low_high: tuple[float, float]) -> Draw:
    shades = gradient()
    low, high = low_high

    def draw(window: Window, shape: tuple[int, int]) -> Any:
        values = file.read(1, window=window, out_shape=shape, masked=True).astype(np.float32)
        values = np.ma.masked_invalid(values)
        steps = ((values - low) / (high - low) * (CLEAR - 1)).clip(0, CLEAR - 1).round()
        return _with_palette(steps.filled(CLEAR).astype(np.uint8), shades)

    return draw


def _image(file: Any, low_high: tuple[float, float] | None) -> Draw:
    from PIL import Image

    def draw(window: Window, shape: tuple[int, int]) -> Any:
        size = {"window": window, "out_shape": (3, *shape), "resampling": Resampling.average}
        bands = file.read((1, 2, 3), **size)
        if low_high is not None:
            low, high = low_high
            bands = ((bands.astype(np.float32) - low) / (high - low) * 255).clip(0, 255).astype(np.uint8)
        mask = file.dataset_mask(window=window, out_shape=shape)
        if not mask.any():
            return None
        pixels = bands.transpose(1, 2, 0)
        return Image.fromarray(pixels if mask.all() else np.dstack([pixels, mask]))

    return draw


def _with_palette(ids: np.ndarray, palette: Sequence[tuple[int, int, int]]) -> Any:
    """A picture of ``ids``, uint8 (H, W), in their colours, clear where there is none; None where there is nothing."""
    from PIL import Image

    if (ids == CLEAR).all():
        return None
    picture = Image.fromarray(ids).convert("L")
    colours = np.zeros((256, 3), dtype=np.uint8)
    colours[: len(palette)] = palette
    picture = picture.copy()
    picture.putpalette(colours.tobytes())
    picture.info["transparency"] = CLEAR
    return picture


def _write(picture: Any, folder: Path, row: int, col: int) -> str:
    """Write one picture; the letter for its kind."""
    if picture is None:
        return "-"
    jpeg = picture.mode == "RGB"
    options: Mapping[str, Any] = {"format": "JPEG", "quality": JPEG_QUALITY} if jpeg else {"format": "PNG"}
    with whole_file(folder / f"{row}_{col}.{'jpg' if jpeg else 'png'}", durable=False) as file:
        picture.save(file, **options)
    return "j" if jpeg else "p"


def _range(file: rasterio.DatasetReader, bands: tuple[int, ...], percent: tuple[float, float]) -> tuple[float, float]:
    """The values that become the first and the last colour, from a small reading of the whole."""
    factor = max(1.0, max(file.height, file.width) / LOOKED_AT)
    shape = (max(1, round(file.height / factor)), max(1, round(file.width / factor)))
    values = np.ma.masked_invalid(file.read(bands, out_shape=(len(bands), *shape), masked=True).astype(np.float64))
    known = values.compressed()
    low, high = np.percentile(known, percent) if known.size else (0.0, 1.0)
    return (float(low), float(high)) if high > low else (float(low) - 0.5, float(low) + 0.5)
