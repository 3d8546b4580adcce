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

# Pixels looked at together, so that the dozen passes over them stay in a core's own cache.
CHUNK = 1 << 16


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
        bands = _three_bands(raw, path)
        red, green, blue = bands
        pixels, corner = bands.reshape(3, -1), np.empty(red.shape, dtype=np.uint8)
        count = 0
        for start in range(0, corner.size, CHUNK):
            here = slice(start, start + CHUNK)
            count += _find_corners(pixels[:, here], corner.reshape(-1)[here])
        if count > MAX_FAR_SHARE * corner.size:
            far = np.any([(channel >= FAR_FROM) & (channel <= FAR_TO) for channel in (red, green, blue)], axis=0)
            row, col = np.argwhere(far)[0]
            colour = tuple(int(band[row, col]) for band in (red, green, blue))
            raise ValueError(
                f"{path}: is no ISPRS label, {count} of {corner.size} pixels are far from every label colour, "
                f"e.g. {colour}; put the label there or describe the archive's colours with archive.kind=described"
            )
        if not corner.any() and raw.any():
            darkest = tuple(int(band.max()) for band in (red, green, blue))
            raise ValueError(
                f"{path}: is no ISPRS label, all {corner.size} pixels are dark (brightest value {darkest}) but not "
                "black; if it holds class ids instead of colours, describe the archive with archive.kind=described"
            )
        # Three times as fast as NumPy's own look-up, which makes an index of 8 bytes of every pixel.
        return np.frombuffer(corner.tobytes().translate(self._table()), dtype=np.uint8).reshape(corner.shape)

    def _table(self) -> bytes:
        table = bytearray([VOID] * 256)
        for class_id, (red, green, blue) in enumerate(self.colours):
            table[(red >> 7) << 2 | (green >> 7) << 1 | blue >> 7] = class_id
        return bytes(table)


def _find_corners(pixels: np.ndarray, corner: np.ndarray) -> int:
    """Write the cube corner of each of the ``pixels``, (3, n), one bit for each channel; return how many are far."""
    red, green, blue = pixels
    np.bitwise_or((red >> 7) << 2, (green >> 7) << 1, out=corner)
    corner |= blue >> 7
    span = np.uint8(FAR_TO - FAR_FROM)
    far = (red - np.uint8(FAR_FROM)) <= span  # what is below wraps round to the largest
    far |= (green - np.uint8(FAR_FROM)) <= span
    far |= (blue - np.uint8(FAR_FROM)) <= span
    return int(np.count_nonzero(far))


@dataclass(frozen=True)
class ExactColours:
    """Three-band labels with exactly these colours; an unknown one is refused."""

    colours: tuple[RGB, ...]
    """One colour per class, in the order of the ids."""
    void: tuple[RGB, ...] = ((0, 0, 0),)
    """Colours that mean "not labelled"."""

    def decode(self, raw: np.ndarray, path: Path) -> np.ndarray:
        """See :class:`LabelCode`; raises ``ValueError`` for fewer than three bands and for an unknown colour."""
        ids, unknown = _look_up(_three_bands(raw, path), [*self.colours, *self.void], len(self.colours))
        if unknown is not None:
            _refuse(path, f"colour ({', '.join(map(str, unknown[0]))})", *unknown[1:])
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
        ids, unknown = _look_up(raw, [(value,) for value in (*self.values, *self.void)], len(self.values))
        if unknown is not None:
            _refuse(path, f"value {unknown[0][0]}", *unknown[1:])
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


def _look_up(
    raw: np.ndarray, codes: Sequence[tuple[int, ...]], classes: int
) -> tuple[np.ndarray, tuple[tuple[int, ...], int, int, int] | None]:
    """Ids of the pixels of ``raw``, uint8 (bands, H, W), and about unknown ones: most frequent code, its count, number
    of other codes, of all pixels.

    The position of a code in ``codes``, one value for each band, is its id; those from ``classes`` on are void.
    """
    assert classes < VOID
    ids = np.full(raw[0].size, VOID, dtype=np.uint8)
    pixels = raw.reshape(len(raw), -1)
    known = 0
    for start in range(0, ids.size, CHUNK):
        known += _look_up_chunk(pixels[:, start : start + CHUNK], codes, classes, ids[start : start + CHUNK])
    ids = ids.reshape(raw.shape[1:])
    if known == ids.size:
        return ids, None
    everywhere = np.zeros(ids.size, dtype=bool)
    for code in set(codes):
        everywhere |= (pixels == np.array(code, dtype=raw.dtype)[:, None]).all(axis=0)
    strange, counts = np.unique(pixels[:, ~everywhere], axis=1, return_counts=True)
    most = int(counts.argmax())
    code = tuple(int(value) for value in strange[:, most])
    return ids, (code, int(counts[most]), len(counts) - 1, ids.size)


def _look_up_chunk(pixels: np.ndarray, codes: Sequence[tuple[int, ...]], classes: int, ids: np.ndarray) -> int:
    """Write the ids of a few ``pixels``, (bands, n), over ``ids``, which are void; return how many are known."""
    known = 0
    for position, code in enumerate(dict.fromkeys(codes)):
        here = pixels[0] == code[0]
        for band, value in zip(pixels[1:], code[1:], strict=True):
            here &= band == value
        count = int(np.count_nonzero(here))
        known += count
        if count and position < classes:
            # Faster than a mask: VOID xor (VOID xor id) is id.
            ids ^= here.view(np.uint8) * np.uint8(VOID ^ position)
    return known


def _refuse(path: Path, what: str, count: int, others: int, pixels: int) -> None:
    more = f" and {others} more unknown ones" if others else ""
    raise ValueError(
        f"{path}: label has the unknown {what} in {count} of {pixels} pixels{more}; "
        "add it to archive.classes or archive.void, or correct the file"
    )
