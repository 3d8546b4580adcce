"""Small class maps for the tests of what is made of a finished map."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import rasterio
from rasterio import Affine
from scipy import ndimage

CLASSES = ("water", "paved_road", "tree", "building")
PALETTE = ((0, 0, 255), (200, 200, 200), (0, 160, 0), (255, 0, 0))
UTM = "EPSG:32632"
AT_UTM = Affine(0.5, 0, 5e5, 0, -0.5, 5e6)


def speckled(height: int, width: int, seed: int = 0, coarse: float = 3.0) -> np.ndarray:
    """Class ids (height, width) in patches of some pixels, with single pixels strewn in."""
    random = np.random.default_rng(seed)
    ids = ndimage.gaussian_filter(random.random((len(CLASSES), height, width)), (0, coarse, coarse)).argmax(0)
    stray = random.random((height, width)) < 0.03
    ids[stray] = random.integers(0, len(CLASSES), int(stray.sum()))
    return ids.astype(np.uint8)


def save_map(
    path: Path, ids: np.ndarray, crs: str | None = UTM, transform: Affine = AT_UTM, nodata: int | None = 255
) -> Path:
    """Write ids (H, W), or an image (3, H, W), as a GeoTIFF."""
    bands = ids if ids.ndim == 3 else ids[None]
    shape = {"count": bands.shape[0], "height": bands.shape[1], "width": bands.shape[2], "dtype": bands.dtype}
    with rasterio.open(path, "w", driver="GTiff", crs=crs, transform=transform, nodata=nodata, **shape) as file:
        file.write(bands)
    return path
