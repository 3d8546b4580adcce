"""Station 5, maps: what is written of each pixel: class, probabilities, confidence, translated image, heights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from drdg.datasets import VOID

RGB = tuple[int, int, int]
SHARES = 254
"""The byte that a probability of 1 becomes; 255 is left for "no data"."""
NO_HEIGHT = -9999.0


@dataclass(frozen=True)
class Product:
    """A raster beside an input: its bands, and how they come from a network's values."""

    name: str
    """The last part of its file's name; "" for the map itself."""
    dtype: str
    nodata: float
    bands: tuple[str, ...]
    """What each band is, for people."""
    encode: Callable[[Tensor], Tensor]
    """Values float32 (channels, H, W) to pixels (bands, H, W) on the same device, all of them other than ``nodata``."""
    overviews: str
    """How GDAL makes smaller pixels of them."""
    classes: tuple[str, ...] = ()
    """Names of the values of a class map."""
    palette: tuple[RGB, ...] = ()
    """And their colours."""
    scale: float | None = None
    """What a pixel is to be multiplied with to get what it means."""
    unit: str = ""

    def pixels(self, values: Tensor, valid: np.ndarray | None) -> np.ndarray:
        """``values`` as they are written, (bands, H, W), with nodata where not ``valid``, bool (H, W), None for all."""
        encoded = self.encode(values).cpu().numpy()
        assert encoded.dtype == self.dtype, (self.name, encoded.dtype)
        if valid is not None:
            encoded = np.where(valid, encoded, np.array(self.nodata, encoded.dtype))
        return encoded


def class_map(classes: Sequence[str], palette: Sequence[RGB]) -> Product:
    """Class ids: the class with the largest probability."""
    assert len(classes) == len(palette), (classes, palette)
    return Product(
        "", "uint8", VOID, ("class",), _largest, "MODE", tuple(classes), tuple((r, g, b) for r, g, b in palette)
    )


def probabilities(classes: Sequence[str]) -> Product:
    """A band for each class, 0 to 254 for a probability of 0 to 1."""
    return Product("probabilities", "uint8", VOID, tuple(classes), _shares, "AVERAGE", scale=1 / SHARES)


def confidence() -> Product:
    """The probability of the class that the map has."""
    return Product("confidence", "uint8", VOID, ("confidence",), _sureness, "AVERAGE", scale=1 / SHARES)


def translated() -> Product:
    """The image in the target's look; black stands for no data, so that its own black is 1."""
    return Product("translated", "uint8", 0, ("band 1", "band 2", "band 3"), _image, "AVERAGE")


def heights(low_m: float, high_m: float, *, in_metres: bool) -> Product:
    """Predicted heights: 0 becomes ``low_m`` and 1 ``high_m``; without metres they stay shares."""

    def encode(values: Tensor) -> Tensor:
        return low_m + values[3:4] * (high_m - low_m)

    unit = "metre" if in_metres else ""
    return Product("dsm", "float32", NO_HEIGHT, ("height",), encode, "AVERAGE", unit=unit)


def _largest(values: Tensor) -> Tensor:
    # The first of equals, as argmax says, which takes ten times as long on a CPU.
    best, ids = values[0].clone(), torch.zeros(values.shape[1:], dtype=torch.uint8, device=values.device)
    for number, one in enumerate(values[1:], 1):
        ids.masked_fill_(one > best, number)
        torch.maximum(best, one, out=best)
    return ids[None]


def _shares(values: Tensor) -> Tensor:
    # A band at a time, as a copy of all would double what is held.
    return torch.stack([(band * SHARES).round_().clamp_(0, SHARES).to(torch.uint8) for band in values])


def _sureness(values: Tensor) -> Tensor:
    return _shares(values.amax(0, keepdim=True))


def _image(values: Tensor) -> Tensor:
    return values[:3].round().clamp_(1, 255).to(torch.uint8)
