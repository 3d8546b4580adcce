"""Station 1, archives: how label pixels become class ids (paper, Table I: six classes; all else is void).

Three codes cover what archives use: the ISPRS colours, which are corners of the RGB cube and are read with tolerance
(:class:`CubeCorners`), any other colours, read exactly (:class:`ExactColours`), and single-band values, read exactly
(:class:`ExactValues`). A code is a small immutable object, so an archive can be sent to another process.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

VOID = 255
"""The class id of pixels that are not labelled; losses and metrics leave them out."""

RGB = tuple[int, int, int]

# A channel of a cube-corner label that lies 64..191 is nearer to the decision level than to the corner: the pixel is
# "far". Measured on ISPRS-coloured labels of 128 px squares put through JPEG of quality 10 with 4:2:0 chroma, at most
# 25 % of the pixels are far (and 2.5 % are decoded wrongly); of 25 whole aerial photographs at least 71 % are.
FAR_FROM, FAR_TO = 64, 191
MAX_FAR_SHARE = 0.3


class LabelCode(Protocol):
    """Turns the raw bands of a label raster into class ids."""

    def decode(self, raw: np.ndarray, path: Path) -> np.ndarray:
        """Class ids, uint8 (H, W) with ``VOID``, of ``raw``, uint8 (bands, H, W); ``path`` is for the messages."""
        ...


@dataclass(frozen=True)
class CubeCorners:
    """The ISPRS colours: every channel is thresholded between 127 and 128 and the corner of the RGB cube looked up.

    The tolerance is needed: tile 4_12 of one Potsdam download is a lossy re-encoding with thousands of colours, and in
    6_7 the cars are (252, 255, 0). Corners that are no class (black: eroded borders; magenta) are void.
    """

    colours: tuple[RGB, ...]
    """One cube corner per class, in the order of the ids."""

    def __post_init__(self) -> None:
        assert all(channel in (0, 255) for colour in self.colours for channel in colour), self.colours
        assert len(set(self.colours)) == len(self.colours), self.colours

    def decode(self, raw: np.ndarray, path: Path) -> np.ndarray:
        """See :class:`LabelCode`.

        Raises ``ValueError`` when there are fewer than three bands, when more than ``MAX_FAR_SHARE`` of the pixels are
        far from every corner (an orthophoto in the label's place), or when everything is dark without being black
        (class ids in the label's place).
        """
        red, green, blue = _three_bands(raw, path)
        far = np.zeros(red.shape, dtype=bool)
        for channel in (red, green, blue):
            far |= (channel >= FAR_FROM) & (channel <= FAR_TO)
        count = int(far.sum())
        if count > MAX_FAR_SHARE * far.size:
            row, col = np.argwhere(far)[0]
            colour = tuple(int(band[row, col]) for band in (red, green, blue))
            raise ValueError(
                f"{path}: is no ISPRS label, {count} of {far.size} pixels are far from every label colour, "
                f"e.g. {colour}; put the label there or describe the archive's colours with archive.kind=described"
            )
        corner = (red >> 7) << 2 | (green >> 7) << 1 | blue >> 7
        if not corner.any() and raw.any():
            darkest = tuple(int(band.max()) for band in (red, green, blue))
            raise ValueError(
                f"{path}: is no ISPRS label, all {far.size} pixels are dark (brightest value {darkest}) but not black; "
                "if it holds class ids instead of colours, describe the archive with archive.kind=described"
            )
        return self._table()[corner]

    def _table(self) -> np.ndarray:
        table = np.full(8, VOID, dtype=np.uint8)
        for class_id, (red, green, blue) in enumerate(self.colours):
            table[(red >> 7) << 2 | (green >> 7) << 1 | blue >> 7] = class_id
        return table


@dataclass(frozen=True)
class ExactColours:
    """Three-band labels with exactly these colours; an unknown one is refused."""

    colours: tuple[RGB, ...]
    """One colour per class, in the order of the ids."""
    void: tuple[RGB, ...] = ((0, 0, 0),)
    """Colours that mean "not labelled"."""

    def decode(self, raw: np.ndarray, path: Path) -> np.ndarray:
        """See :class:`LabelCode`; raises ``ValueError`` for fewer than three bands and for an unknown colour."""
        packed = _packed(_three_bands(raw, path).astype(np.uint32))
        codes = [int(_packed(np.array(colour, dtype=np.uint32))) for colour in (*self.colours, *self.void)]
        ids, unknown = _look_up(packed, codes, len(self.colours))
        if unknown is not None:
            code = unknown[0]
            _refuse(path, f"colour ({code >> 16}, {code >> 8 & 255}, {code & 255})", *unknown[1:])
        return ids


@dataclass(frozen=True)
class ExactValues:
    """Single-band labels with exactly these values; an unknown one is refused."""

    values: tuple[int, ...]
    """One value per class, in the order of the ids."""
    void: tuple[int, ...] = ()
    """Values that mean "not labelled"."""

    def decode(self, raw: np.ndarray, path: Path) -> np.ndarray:
        """See :class:`LabelCode`; raises ``ValueError`` for several bands and for an unknown value."""
        if raw.shape[0] != 1:
            raise ValueError(
                f"{path}: label has {raw.shape[0]} bands but archive.classes gives single values; "
                "give colours in archive.classes or write the label with one band"
            )
        ids, unknown = _look_up(raw[0], [*self.values, *self.void], len(self.values))
        if unknown is not None:
            _refuse(path, f"value {unknown[0]}", *unknown[1:])
        return ids


def _three_bands(raw: np.ndarray, path: Path) -> np.ndarray:
    """The first three bands; a fourth is an alpha channel, which says nothing about classes."""
    assert raw.ndim == 3, raw.shape
    if raw.shape[0] < 3:
        raise ValueError(
            f"{path}: label has {raw.shape[0]} band(s) where three colour bands are needed; "
            "use the archive's original label or describe its values with archive.kind=described"
        )
    return raw[:3]


def _packed(colours: np.ndarray) -> np.ndarray:
    """Colours, uint32 (3, ...), as numbers 0xRRGGBB, uint32 (...)."""
    return colours[0] << 16 | colours[1] << 8 | colours[2]


def _look_up(
    pixels: np.ndarray, codes: Sequence[int], classes: int
) -> tuple[np.ndarray, tuple[int, int, int, int] | None]:
    """Ids of ``pixels``, and about unknown ones: most frequent code, its count, number of other codes, of all pixels.

    The position of a code in ``codes`` is its id; those from ``classes`` on are void.
    """
    assert classes < VOID
    ids = np.full(pixels.shape, VOID, dtype=np.uint8)
    known = np.zeros(pixels.shape, dtype=bool)
    for position, code in enumerate(codes):
        here = pixels == code
        known |= here
        if position < classes:
            np.putmask(ids, here, position)
    if known.all():
        return ids, None
    strange, counts = np.unique(pixels[~known], return_counts=True)
    most = int(counts.argmax())
    return ids, (int(strange[most]), int(counts[most]), len(strange) - 1, pixels.size)


def _refuse(path: Path, what: str, count: int, others: int, pixels: int) -> None:
    more = f" and {others} more unknown ones" if others else ""
    raise ValueError(
        f"{path}: label has the unknown {what} in {count} of {pixels} pixels{more}; "
        "add it to archive.classes or archive.void, or correct the file"
    )
