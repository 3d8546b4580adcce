"""Station 5, maps: what a network says of a strip, from overlapping windows that a smooth weight blends.

The same sum as in :mod:`drdg.inference.sliding`, cut in both directions. What is held is one window high and a strip
wide; windows without any value are not computed; the next ones are read while the network is at these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from drdg.maps.resample import Axis, apply
from drdg.maps.windows import Layout, Piece, Strip
from drdg.shards.threads import in_order
from drdg.tiles.windows import Window

ROWS_AT_ONCE = 64
"""Rows that are divided by their weights at once; few, so that what they take is little beside the sums."""
OWN_PIXELS = 1 << 24
"""Of the raster's own that are read and resampled at once: more than a row of windows needs unless its GSD is much
finer than the network's."""


class Source(Protocol):
    """What is read from: a scene, or anything else that gives an image and where it has values."""

    def read(self, window: Window) -> tuple[np.ndarray, np.ndarray | None]:
        """uint8 (height, width, 3); bool (height, width), None for everywhere."""
        ...


class Network(Protocol):
    """What says something of each pixel of a window."""

    channels: int
    device: torch.device

    def __call__(self, images: Tensor) -> Tensor:
        """Images uint8 (N, side, side, 3) on ``device`` to values float32 (N, channels, side, side)."""
        ...


@torch.inference_mode()
def pieces_of(source: Source, network: Network, layout: Layout, run: list[Piece]) -> Iterator[tuple[Piece, Tensor]]:
    """The pieces of ``run``, which follow each other down one strip, and their values float32 (channels, height, width)
    on the network's device: means of the windows there, weighted, resampled to the raster's own grid.

    ``source`` is read in another thread. The values are good until the next piece.
    """
    strip = layout.strips[run[0].strip]
    rows, cols = layout.from_work
    support = [rows.support(piece.window.rows.start, piece.window.rows.stop) for piece in run]
    same = rows.is_identity and cols.is_identity
    across = None if same else cols.taps(*strip.cols, device=network.device)
    ready = sweep(source, network, layout, strip, support[0][0], support[-1][1])
    # Rows that the next piece needs too, each part with the number of its first.
    left: list[tuple[int, Tensor]] = []
    most = max(end - begin for begin, end in support)
    buffer = torch.empty(network.channels, most, strip.work[1] - strip.work[0], device=network.device)
    for number, (piece, (begin, end)) in enumerate(zip(run, support, strict=True)):
        until = support[number + 1][0] if number + 1 < len(run) else end
        held = buffer[:, : end - begin]
        kept = [(top, part) for top, part in left if top + part.shape[1] > until]
        for top, part in left:
            _copy(part, top, held, begin)
        reached = left[-1][0] + left[-1][1].shape[1] if left else begin
        while reached < end:
            top, part = next(ready)
            _copy(part, top, held, begin)
            reached = top + part.shape[1]
            if reached > until:
                kept.append((max(top, until), part[:, max(until - top, 0) :].clone()))
        left = kept
        values = held
        if across is not None:
            down = rows.taps(piece.window.rows.start, piece.window.rows.stop, device=network.device)
            values = apply(values, down, across)
        yield piece, values
    assert next(ready, None) is None, "rows below the last piece"


def _copy(part: Tensor, top: int, values: Tensor, begin: int) -> None:
    """Copy what ``part``, whose first row is number ``top``, has of the rows from ``begin`` that ``values`` holds."""
    first, stop = max(begin, top), min(begin + values.shape[1], top + part.shape[1])
    values[:, first - begin : stop - begin] = part[:, first - top : stop - top]


@torch.inference_mode()
def sweep(
    source: Source, network: Network, layout: Layout, strip: Strip, first: int, stop: int
) -> Iterator[tuple[int, Tensor]]:
    """Rows ``first`` to ``stop`` of the working grid in the strip's columns, from top to bottom in parts float32
    (channels, rows, columns), each with the number of its first row; the next one is where this one was.

    Where all windows are without values, the parts are 0.
    """
    device, side = network.device, layout.side
    row_total, col_total = (total.to(device) for total in layout.totals)
    col_total = col_total[strip.work[0] : strip.work[1]]
    weight = layout.weight.to(device)
    weights = torch.outer(weight, weight).float()
    inner = slice(strip.work[0] - strip.left, strip.work[1] - strip.left)
    packs = layout.packs(strip, first, stop)
    top = next(start for start in layout.row_starts if start + side > first)
    sums = torch.zeros(network.channels, side, strip.right - strip.left, device=device)
    done = torch.empty(network.channels, ROWS_AT_ONCE, strip.work[1] - strip.work[0], device=device)

    def finished(until: int) -> Iterator[tuple[int, Tensor]]:
        """The rows above ``until``, which no later window touches."""
        nonlocal top
        while top < until:
            rows = min(until - top, side)
            begin, end = max(first - top, 0), min(stop - top, rows)
            for start in range(begin, end, ROWS_AT_ONCE):
                some = slice(start, min(start + ROWS_AT_ONCE, end))
                total = torch.outer(row_total[top + some.start : top + some.stop], col_total).float()
                part = done[:, : some.stop - some.start]
                torch.div(sums[:, some, inner], total, out=part)
                yield top + some.start, part
            for start in range(0, side - rows, rows):  # no more at a time than is free above
                size = min(rows, side - rows - start)
                sums[:, start : start + size] = sums[:, start + rows : start + rows + size]
            sums[:, side - rows :] = 0
            top += rows

    for corners, images in in_order(_reads(Reader(source, layout, strip), packs), 1):
        if not corners:
            continue
        # No name holds the batch before while this one is in the network.
        for (row, col), value in zip(corners, network(images.to(device)), strict=True):
            if row + side <= first or row >= stop:
                continue  # above or below these rows, computed for its company
            yield from finished(row)
            sums[:, :, col - strip.left : col - strip.left + side].addcmul_(value, weights)
        del images, value
    yield from finished(stop)


Corners = list[tuple[int, int]]


def _reads(reader: Reader, packs: list[range]) -> Iterator[Callable[[], tuple[Corners, Tensor]]]:
    """Jobs that read one batch after the other."""
    layout = reader.layout
    for pack in packs:
        corners = [(layout.row_starts[number], col) for number in pack for col in reader.strip.starts]
        for start in range(0, len(corners), layout.batch):
            yield partial(reader.batch, corners[start : start + layout.batch])


class Reader:
    """Windows of one strip, read on the working grid; a row of windows is read at once. For one thread at a time."""

    def __init__(self, source: Source, layout: Layout, strip: Strip):
        self.source, self.layout, self.strip = source, layout, strip
        self._row = -1
        self._image = np.empty(0, np.uint8)
        self._valid: np.ndarray | None = None

    def batch(self, corners: Corners) -> tuple[Corners, Tensor]:
        """Those of the windows at ``corners`` that have a value, and their images, uint8 (N, side, side, 3)."""
        side = self.layout.side
        kept, images = [], []
        for row, col in corners:
            if row != self._row:
                self._row = row
                self._image, self._valid = self._read_row(row)
            across = slice(col - self.strip.left, col - self.strip.left + side)
            if self._valid is None or self._valid[:, across].any():
                kept.append((row, col))
                images.append(self._image[:, across])
        return kept, torch.from_numpy(np.stack(images)) if images else torch.empty(0)

    def _read_row(self, row: int) -> tuple[np.ndarray, np.ndarray | None]:
        """The strip in a row of windows; what the grid lacks is mirrored at its right and lower edge."""
        layout, strip = self.layout, self.strip
        stop = min(row + layout.side, layout.work_height), min(strip.right, layout.work_width)
        image, valid = read_resampled(self.source, layout.to_work, (row, stop[0]), (strip.left, stop[1]))
        lacking = (0, row + layout.side - stop[0]), (0, strip.right - stop[1])
        if lacking != ((0, 0), (0, 0)):
            image = np.pad(image, (*lacking, (0, 0)), mode="reflect")
            valid = None if valid is None else np.pad(valid, lacking)
        return image, valid


def read_resampled(
    source: Source, axes: tuple[Axis, Axis], rows: tuple[int, int], cols: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray | None]:
    """What ``source`` reads, of ``rows`` and ``cols`` of the grid that ``axes`` lead to; a pixel has a value where one
    that it is made of has.
    """
    (top, bottom), (left, right) = axes[0].support(*rows), axes[1].support(*cols)
    parts = min(-(-(bottom - top) * (right - left) // OWN_PIXELS), rows[1] - rows[0])
    if parts == 1:
        return _read_resampled(source, axes, rows, cols)
    edges = [rows[0] + (rows[1] - rows[0]) * number // parts for number in range(parts + 1)]
    image = np.empty((rows[1] - rows[0], cols[1] - cols[0], 3), np.uint8)
    valid = np.ones(image.shape[:2], bool)
    for begin, end in pairwise(edges):
        part, known = _read_resampled(source, axes, (begin, end), cols)
        place = slice(begin - rows[0], end - rows[0])
        image[place] = part
        if known is not None:
            valid[place] = known
    return image, None if valid.all() else valid


def _read_resampled(
    source: Source, axes: tuple[Axis, Axis], rows: tuple[int, int], cols: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray | None]:
    (top, bottom), (left, right) = axes[0].support(*rows), axes[1].support(*cols)
    image, valid = source.read(Window(top, left, bottom - top, right - left))
    if axes[0].is_identity and axes[1].is_identity:
        return image, valid
    down, across = axes[0].taps(*rows), axes[1].taps(*cols)
    values = apply(torch.from_numpy(image).permute(2, 0, 1).float(), down, across)
    if valid is not None:
        # Pixels without a value are black: without this they would darken their neighbours.
        share = apply(torch.from_numpy(valid)[None].float(), down, across)
        values /= share.clamp(min=torch.finfo(torch.float32).eps)
        valid = (share[0] > 0).numpy()
        valid = None if valid.all() else valid
    return values.round_().clamp_(0, 255).to(torch.uint8).permute(1, 2, 0).contiguous().numpy(), valid
