"""Station 5, maps: what is finished of a raster that is being mapped, so that after a kill only the rest is computed.

The pieces themselves are the journal: each is a file that is whole or not there. They lie beside the output in a hidden
folder that is named by the digest of all that decides their content, so that pieces of another model, input or knob are
never taken for these.
"""

from __future__ import annotations

import glob
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from drdg.files import clear_abandoned
from drdg.maps.cog import Source, write_piece
from drdg.maps.products import Product
from drdg.maps.windows import Piece

SUFFIX = ".parts"


class Journal:
    """The pieces of one raster on their way through one network; ``folder`` holds them until they are put together.

    ``what``: which network, as another rank may be at the next one's pieces of the same raster already.
    """

    def __init__(self, out: Path, stem: str, what: str, plan: str):
        self._out, self._begin = out, f".{stem}-{what}-"
        self.folder = out / f"{self._begin}{plan}{SUFFIX}"

    def open(self) -> None:
        """Make the folder, and remove what a killed process left half written."""
        self.folder.mkdir(parents=True, exist_ok=True)
        clear_abandoned(self.folder)

    def path(self, product: Product, piece: Piece) -> Path:
        """Where a piece of a product lies."""
        return self.folder / f"{product.name or 'map'}-{piece.strip:04d}-{piece.band:06d}.tif"

    def has(self, products: Sequence[Product], piece: Piece) -> bool:
        """Whether a piece of all products is finished."""
        return all(self.path(product, piece).is_file() for product in products)

    def keep(self, product: Product, piece: Piece, pixels: np.ndarray) -> None:
        """Note that a piece is finished, by writing it."""
        write_piece(self.path(product, piece), pixels)

    def sources(self, product: Product, pieces: Sequence[Piece]) -> list[Source]:
        """The pieces of a product and their places; all must be finished."""
        return [
            Source(self.path(product, piece), float(w.row), float(w.col), w.height, w.width)
            for piece in pieces
            for w in (piece.window,)
        ]

    def close(self) -> None:
        """Remove the pieces, and those of the same raster by other plans, which nobody will finish."""
        for folder in self._out.glob(f"{glob.escape(self._begin)}{'[0-9a-f]' * 16}{SUFFIX}"):
            shutil.rmtree(folder, ignore_errors=True)
