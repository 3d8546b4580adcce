"""Station 5, inference: class probabilities of a whole TOP from overlapping windows, in memory for one band of rows.

Windows stand on a grid whose last row and column are moved inwards, so that every pixel is seen. Where windows overlap,
their probabilities are averaged with a weight that falls smoothly from a window's middle to its border, because a
network knows least about what it sees at the border. A row of pixels is done as soon as no later window touches it, and
leaves at once: what is held is one window high, however large the TOP.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from drdg.config import EvaluationConfig
from drdg.models.segmentor import side_multiple
from drdg.progress import progress
from drdg.tiles.windows import Window, grid


class Pixels(Protocol):
    """What is slid over: a TOP's reader, or anything else that has a size and gives windows of an image."""

    height: int
    width: int

    def read_image(self, window: Window) -> np.ndarray:
        """The image in ``window``, uint8 (height, width, 3)."""
        ...


def predict_top(
    segmentor: nn.Module, pixels: Pixels, config: EvaluationConfig, *, what: str = "predict", quiet: bool = False
) -> np.ndarray:
    """Class ids of a whole TOP, uint8 (H, W): the class with the largest blended probability at every pixel.

    ``segmentor`` is in evaluation mode and works on the device it is on. Raises ``ValueError`` for a window size that
    it cannot take.
    """
    ids = np.empty((pixels.height, pixels.width), dtype=np.uint8)
    bands = probability_bands(segmentor, pixels, config)
    total = len({window.row for window in window_grid(pixels, config)})
    for row, probabilities in progress(bands, what, total=total, quiet=quiet):
        ids[row : row + probabilities.shape[1]] = probabilities.argmax(0).to(torch.uint8).cpu().numpy()
    return ids


@torch.inference_mode()
def probability_bands(segmentor: nn.Module, pixels: Pixels, config: EvaluationConfig) -> Iterator[tuple[int, Tensor]]:
    """Pairs of a first row and the class probabilities from there on, float32 (C, rows, W), from top to bottom.

    The bands are on the segmentor's device, join without gap or overlap, and sum to 1 over the classes at every pixel.
    """
    assert not segmentor.training, "call eval() first"
    check_window(segmentor, config)
    windows = window_grid(pixels, config)
    width = windows[-1].cols.stop
    device = next(segmentor.parameters()).device
    weight = border_weight(config.window)
    row_total = weight_total(weight, sorted({window.row for window in windows})).to(device)
    col_total = weight_total(weight, sorted({window.col for window in windows})).to(device)
    weight = weight.to(device)
    weights = torch.outer(weight, weight).float()
    sums = torch.empty(0)
    first = 0  # the TOP's row that ``sums`` begins with

    def done(rows: int) -> tuple[int, Tensor]:
        total = torch.outer(row_total[first : first + rows], col_total[: pixels.width]).float()
        return first, sums[:, :rows, : pixels.width] / total

    for batch, images in _batches(pixels, windows, config.batch_size):
        probabilities = _logits(segmentor, images.to(device)).softmax(1)
        if not sums.numel():
            sums = torch.zeros(probabilities.shape[1], config.window, width, device=device)
        for window, probability in zip(batch, probabilities, strict=True):
            if window.row > first:
                rows = window.row - first
                yield done(rows)
                sums = torch.cat((sums[:, rows:], torch.zeros_like(sums[:, :rows])), 1)
                first = window.row
            sums[:, :, window.cols].addcmul_(probability, weights)
    yield done(pixels.height - first)


@torch.inference_mode()
def window_classes(
    segmentor: nn.Module, pixels: Pixels, windows: list[Window], batch_size: int
) -> Iterator[tuple[Window, np.ndarray]]:
    """Each window and its class ids, uint8 (side, side), predicted by itself: nothing is blended with its neighbours.

    ``windows`` are of one size, which the segmentor can take, row by row; ``batch_size`` of them go through at once.
    """
    assert not segmentor.training, "call eval() first"
    device = next(segmentor.parameters()).device
    for batch, images in _batches(pixels, windows, batch_size):
        ids = _logits(segmentor, images.to(device)).argmax(1).to(torch.uint8).cpu().numpy()
        yield from zip(batch, ids, strict=True)


def _logits(segmentor: nn.Module, images: Tensor) -> Tensor:
    """What the segmentor says, float32 (N, C, H, W), of images uint8 (N, H, W, 3) on its device."""
    dtype = next(segmentor.parameters()).dtype
    logits: Tensor = segmentor(images.permute(0, 3, 1, 2).to(dtype) / 255)
    return logits.float()


def window_grid(pixels: Pixels, config: EvaluationConfig) -> list[Window]:
    """The windows, row by row; where the TOP is smaller than a window they reach over its right and lower edge."""
    stride = max(1, round(config.window * (1 - config.overlap)))
    height, width = max(pixels.height, config.window), max(pixels.width, config.window)
    return grid(height, width, config.window, stride, "shift")


def check_window(segmentor: nn.Module, config: EvaluationConfig) -> None:
    """Raise ``ValueError`` unless the segmentor can take windows of the configured size."""
    multiple = side_multiple(segmentor)
    if config.window % multiple:
        below = config.window // multiple * multiple
        raise ValueError(
            f"evaluation.window={config.window} is not a multiple of {multiple}, which the segmentor needs; "
            f"take {below} or {below + multiple}"
        )


def border_weight(side: int) -> Tensor:
    """Weights (side,) float64 along a window: a Hann window sampled at the pixels' centres, so nowhere zero.

    At an overlap of one half the weights of neighbours sum to 1.
    """
    return torch.sin((torch.arange(side, dtype=torch.float64) + 0.5) * (math.pi / side)) ** 2


def weight_total(weight: Tensor, starts: Sequence[int]) -> Tensor:
    """Sum of the weights of all windows that begin at ``starts``, along one side of the grid."""
    total = torch.zeros(starts[-1] + len(weight), dtype=weight.dtype)
    for start in starts:
        total[start : start + len(weight)] += weight
    return total


def _batches(pixels: Pixels, windows: list[Window], size: int) -> Iterator[tuple[list[Window], Tensor]]:
    """Windows in order, ``size`` at a time (fewer at the end), with their images, uint8 (N, side, side, 3)."""
    strip_row, strip = -1, np.empty(0)
    for start in range(0, len(windows), size):
        batch = windows[start : start + size]
        images = []
        for window in batch:
            if window.row != strip_row:
                strip_row, strip = window.row, _strip(pixels, window)
            images.append(strip[:, window.cols])
        yield batch, torch.from_numpy(np.stack(images))


def _strip(pixels: Pixels, window: Window) -> np.ndarray:
    """The TOP's whole width in the rows of ``window``; what a window lacks is mirrored at the right and lower edge."""
    rows = min(window.height, pixels.height - window.row)
    strip = pixels.read_image(Window(window.row, 0, rows, pixels.width))
    missing = ((0, window.height - rows), (0, max(0, window.width - pixels.width)), (0, 0))
    return np.pad(strip, missing, mode="reflect") if rows < window.height or pixels.width < window.width else strip
