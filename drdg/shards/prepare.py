"""Station 2, prepare: from stored values to the networks' input, on the device, a batch at a time.

The same numbers, in the same order of operations, as ``drdg.tiles.dsm`` and ``drdg.tiles.ground`` give for one sample
in NumPy. Nothing here waits for the device. Steps are converted first, as torch hardly calculates with ``uint16``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from drdg.tiles.dsm import STEP_M


def channels_first(images: Tensor) -> Tensor:
    """Images (B, H, W, C) as (B, C, H, W), contiguous."""
    return images.permute(0, 3, 1, 2).contiguous()


def heights(steps: Tensor, scaling: Tensor, ground_m: Tensor | None, symmetric: bool) -> Tensor:
    """Heights as the networks' input: float32 (B, 1, H, W), clipped to [0, 1], or to [-1, 1] when ``symmetric``.

    ``steps``: uint16 (B, H, W); ``scaling``: float64 (B, 3), for each sample the numbers of
    :meth:`drdg.shards.store.ShardStore.dsm_scaling`; ``ground_m``: float32 (B, H, W) metres, or None without one.
    """
    offset, low, factor = scaling.float().T[..., None, None]
    scaled = _to_metres(steps, offset)
    scaled -= low if ground_m is None else ground_m
    scaled *= factor
    scaled.clamp_(0, 1)
    if symmetric:
        scaled *= 2
        scaled -= 1
    return scaled[:, None]


def ground(steps: Tensor, cells: Tensor, height: int, width: int) -> Tensor:
    """Ground under each pixel, float32 (B, height, width) metres: bilinear between cell centres, constant beyond them.

    ``steps``: uint16 (B, R, C), each sample's cells and, right and below of them, padding that is not looked at;
    ``cells``: float64 (B, 6), for each sample the metres of step 0, row and column of its first cell's centre in
    pixels, pixels to a cell, rows and columns of cells.
    """
    offset, row_origin, col_origin, size, rows, cols = cells.T[..., None]
    metres = _to_metres(steps, offset.float()[..., None])
    row, after_row, row_share = _weights(height, row_origin, size, rows)
    col, after_col, col_share = _weights(width, col_origin, size, cols)
    # Columns first: that is few rows of cells.
    left, right = (metres.gather(2, at[:, None].expand(-1, metres.shape[1], -1)) for at in (col, after_col))
    wide = left + (right - left) * col_share[:, None]
    upper, lower = (wide.gather(1, at[..., None].expand(-1, -1, width)) for at in (row, after_row))
    return upper + (lower - upper) * row_share[..., None]


def turned(images: Tensor, symmetries: Tensor) -> Tensor:
    """``images`` (B, C, S, S), each flipped and transposed as its row of ``symmetries``, bool (B, 3), says.

    In this order: turn the rows' order around, turn the columns' order around, make rows of the columns.
    """
    upside, mirror, transpose = symmetries.T[..., None, None, None]
    images = torch.where(upside, images.flip(-2), images)
    images = torch.where(mirror, images.flip(-1), images)
    return torch.where(transpose, images.transpose(-1, -2), images)


def _to_metres(steps: Tensor, offset: Tensor) -> Tensor:
    metres = steps.to(torch.float32)
    metres *= STEP_M
    metres += offset
    return metres


def _weights(length: int, origin: Tensor, size: Tensor, count: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For each pixel centre the cell before it, the cell after it, and that one's share; (B, length) from (B, 1)."""
    pixels = torch.arange(length, dtype=torch.float64, device=origin.device) + 0.5
    place = ((pixels - origin) / size).clamp(min=0).minimum(count - 1)
    before = place.floor()
    after = (before + 1).minimum(count - 1)
    return before.long(), after.long(), (place - before).float()
