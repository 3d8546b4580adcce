"""Station 5, maps: one side of a raster at another number of pixels, computable for any part of it by itself.

The kernel is the triangle of bilinear interpolation, widened where pixels grow, so that each old one counts: what
``torch.nn.functional.interpolate(mode="bilinear", antialias=True)`` computes of a whole image, and what rows of the
table are rescaled by (``drdg/models/resize.py``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Taps:
    """Which old pixels make each new one: ``index`` (n, taps) int64, counted from ``first``, and ``weight`` (n, taps)
    float32, which sums to 1 along the taps.
    """

    first: int
    stop: int
    index: Tensor
    weight: Tensor


class Axis:
    """One side of a grid of ``old`` pixels as one of ``new`` pixels over the same ground."""

    def __init__(self, old: int, new: int):
        assert old >= 1, old
        assert new >= 1, new
        self.old, self.new = old, new
        self.step = old / new
        """Old pixels in a new one."""
        self._reach = max(1.0, self.step)

    @property
    def is_identity(self) -> bool:
        """Whether nothing is to be done."""
        return self.old == self.new

    def support(self, start: int, stop: int) -> tuple[int, int]:
        """First old pixel that the new ones from ``start`` to ``stop`` are made of, and the one after the last."""
        assert 0 <= start < stop <= self.new, (start, stop)
        if self.is_identity:
            return start, stop
        return self._ends(start)[0], self._ends(stop - 1)[1]

    def taps(self, start: int, stop: int, device: torch.device | None = None) -> Taps:
        """What the new pixels from ``start`` to ``stop`` are made of."""
        first, last = self.support(start, stop)
        number = torch.arange(start, stop, dtype=torch.float64)
        centre = (number + 0.5) * self.step
        begin = (centre - self._reach + 0.5).floor().clamp(min=0)
        width = 2 * math.ceil(self._reach) + 1
        index = begin[:, None] + torch.arange(width, dtype=torch.float64)
        # Past the end a tap counts nothing, and reads the last pixel.
        weight = (1 - ((index + 0.5 - centre[:, None]) / self._reach).abs()).clamp(min=0)
        weight = weight.where(index < self.old, torch.zeros((), dtype=torch.float64))
        weight = weight / weight.sum(1, keepdim=True)
        index = index.clamp(max=last - 1).long() - first
        return Taps(first, last, index.to(device), weight.float().to(device))

    def _ends(self, number: int) -> tuple[int, int]:
        centre = (number + 0.5) * self.step
        return max(0, math.floor(centre - self._reach + 0.5)), min(self.old, math.floor(centre + self._reach + 0.5))


def apply(values: Tensor, rows: Taps, cols: Taps) -> Tensor:
    """``values`` float32 (C, H, W), which are the old pixels from ``first`` to ``stop`` of both sides, as new ones."""
    assert values.shape[1:] == (rows.stop - rows.first, cols.stop - cols.first), (values.shape, rows, cols)
    return _along(_along(values, rows, 1), cols, 2)


def _along(values: Tensor, taps: Taps, dim: int) -> Tensor:
    shape = [1, 1, 1]
    shape[dim] = -1
    total = torch.zeros(())
    for number in range(taps.index.shape[1]):
        part = values.index_select(dim, taps.index[:, number]) * taps.weight[:, number].view(shape)
        total = part if number == 0 else total.add_(part)
    return total
