"""Station 5, maps: Cloud-Optimised GeoTIFFs of pieces, and virtual mosaics of several rasters, by GDAL's drivers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element, SubElement, tostring

import numpy as np
import rasterio.shutil
from rasterio.crs import CRS
from rasterio.io import MemoryFile
from rasterio.transform import Affine

from drdg.files import whole_file, write_text
from drdg.maps.ours import PLAN, SIDECAR, without_place
from drdg.maps.products import Product

BLOCK = 512  # side of a COG's inner tiles, GDAL's default for them
GDAL_TYPES = {"uint8": "Byte", "float32": "Float32"}


@dataclass(frozen=True)
class Source:
    """A file, and where on a grid its pixels lie; ``row`` and ``col`` may be between two of the grid's."""

    path: Path
    row: float
    col: float
    height: int
    width: int
    bands: tuple[int, ...] | None = None
    """Which of its bands are taken; None for all, in order."""
    low_high: tuple[float, float] | None = None
    """Values that become 0 and 255; None to take them as they are."""


@dataclass(frozen=True)
class Grid:
    """A raster's size and place."""

    height: int
    width: int
    crs: CRS | None
    transform: Affine


def write_piece(path: Path, pixels: np.ndarray) -> None:
    """A piece (bands, height, width) by itself, whole or not at all; where it lies is not in it."""
    count, height, width = pixels.shape
    profile = {
        "driver": "GTiff",
        "count": count,
        "height": height,
        "width": width,
        "dtype": pixels.dtype,
        "compress": "deflate",
        "zlevel": 1,  # it is read once and removed
        "interleave": "band",
    }
    if min(height, width) >= BLOCK:
        profile |= {"tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK}
    with MemoryFile() as memory:
        with without_place(), memory.open(**profile) as file:
            file.write(pixels)
        with whole_file(path) as whole:
            whole.write(memory.getbuffer())


def write_cog(path: Path, draft: Path, product: Product, grid: Grid, pieces: Sequence[Source], plan: str) -> None:
    """Write ``pieces`` as one GeoTIFF ``path``, whole or not at all; ``draft`` is a folder on the same disk."""
    virtual = draft / f"{path.stem}.vrt"
    write_text(virtual, piece_vrt(virtual, product, grid, pieces, {PLAN: plan}))
    copy_as_cog(virtual, path, draft, product.overviews)


def copy_as_cog(source: Path, path: Path, draft: Path, overviews: str) -> None:
    """A raster as a COG with everything that GDAL knows of it, made in the folder ``draft`` and then moved to ``path``
    with its sidecar. A block at a time is in memory.
    """
    made = draft / path.name
    sidecar = made.with_name(made.name + SIDECAR)
    for old in (made, sidecar):
        old.unlink(missing_ok=True)
    with without_place():
        rasterio.shutil.copy(
            source,
            made,
            driver="COG",
            compress="DEFLATE",
            predictor="YES",
            blocksize=str(BLOCK),
            overview_resampling=overviews,
            bigtiff="IF_SAFER",
            num_threads="2",
        )
    final = path.with_name(path.name + SIDECAR)
    if sidecar.exists():
        _sync(sidecar)
        sidecar.replace(final)
    else:
        final.unlink(missing_ok=True)
    _sync(made)
    made.replace(path)  # last: where it is, all is
    _sync(path.parent)


def piece_vrt(place: Path, product: Product, grid: Grid, sources: Sequence[Source], tags: dict[str, str]) -> str:
    """A GDAL virtual raster, to be kept at ``place``, of rasters that all have the bands of ``product``.

    Where they overlap, the last that has a value shows; sources are named relative to it.
    """
    root = Element("VRTDataset", rasterXSize=str(grid.width), rasterYSize=str(grid.height))
    if grid.crs is not None:
        SubElement(root, "SRS").text = grid.crs.to_wkt(version="WKT2_2019")
    if not grid.transform.is_identity:
        a, b, c, d, e, f = (repr(float(value)) for value in tuple(grid.transform)[:6])
        SubElement(root, "GeoTransform").text = f"{c}, {a}, {b}, {f}, {d}, {e}"
    described = {**tags, **{f"class_{number}": name for number, name in enumerate(product.classes)}}
    metadata = SubElement(root, "Metadata")
    for key, value in described.items():
        SubElement(metadata, "MDI", key=key).text = value
    for number, name in enumerate(product.bands, 1):
        band = SubElement(root, "VRTRasterBand", dataType=GDAL_TYPES[product.dtype], band=str(number))
        _describe(band, product, number, name)
        for source in sources:
            _add_source(band, place, number, source, product.nodata)
    return tostring(root, encoding="unicode")


def _describe(band: Element, product: Product, number: int, name: str) -> None:
    SubElement(band, "Description").text = name
    SubElement(band, "NoDataValue").text = repr(float(product.nodata))
    if product.unit:
        SubElement(band, "UnitType").text = product.unit
    if product.scale is not None:
        SubElement(band, "Scale").text = repr(product.scale)
    if product.classes:
        SubElement(band, "ColorInterp").text = "Palette"
        names = SubElement(band, "CategoryNames")
        for known in product.classes:
            SubElement(names, "Category").text = known
        table = SubElement(band, "ColorTable")
        for red, green, blue in product.palette:
            SubElement(table, "Entry", c1=str(red), c2=str(green), c3=str(blue), c4="255")
    elif product.name == "translated":
        SubElement(band, "ColorInterp").text = ("Red", "Green", "Blue")[number - 1]
    else:
        SubElement(band, "ColorInterp").text = "Gray" if number == 1 else "Undefined"


def _add_source(band: Element, place: Path, number: int, source: Source, nodata: float) -> None:
    element = SubElement(band, "ComplexSource")  # which looks at nodata, and a simple one does not
    relative = os.path.relpath(source.path.resolve(), place.parent.resolve())
    SubElement(element, "SourceFilename", relativeToVRT="1").text = relative
    SubElement(element, "SourceBand").text = str(number if source.bands is None else source.bands[number - 1])
    size = {"xSize": str(source.width), "ySize": str(source.height)}
    SubElement(element, "SrcRect", {"xOff": "0", "yOff": "0", **size})
    SubElement(element, "DstRect", {"xOff": repr(source.col), "yOff": repr(source.row), **size})
    if source.low_high is None:
        SubElement(element, "NODATA").text = repr(float(nodata))
        return
    low, high = source.low_high
    ratio = 255 / (high - low)
    SubElement(element, "ScaleOffset").text = repr(-low * ratio)
    SubElement(element, "ScaleRatio").text = repr(ratio)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
