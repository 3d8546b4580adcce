"""Station 5, maps: one raster of any size through one network, to finished GeoTIFFs, in bounded memory.

What is held at once, whatever the raster's height and width: sums of all channels for a strip of at most
``windows.STRIP_COLS`` columns and one window's rows, the rows of one band beside them, and three batches of windows;
see :func:`bound_bytes`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from drdg import __version__
from drdg.config import EvaluationConfig, digest
from drdg.distributed.group import Group
from drdg.maps.blend import OWN_PIXELS, ROWS_AT_ONCE, Network, pieces_of
from drdg.maps.cog import Grid, write_cog
from drdg.maps.inputs import IMAGE_BANDS, Reading, Scene
from drdg.maps.journal import Journal
from drdg.maps.ours import plan_of
from drdg.maps.products import Product
from drdg.maps.ranks import runs, share
from drdg.maps.request import product_path
from drdg.maps.windows import COLUMNS, Layout, Piece
from drdg.progress import progress
from drdg.shards.threads import AHEAD
from drdg.tiles.raster import block_cache

FORMAT = 1  # to be raised when the same model and input come out as other bytes
CACHE_BYTES = 128 << 20
"""Decoded blocks that GDAL keeps, of inputs and of pieces."""
SAME_GSD = 0.05
"""Share of its GSD by which a raster may differ from the network's without being resampled: what the model card allows,
and more than the 3 % by which tiles of one data set differ from its nominal GSD by their own notes."""
MOST_BYTES = 2 << 30
"""What :func:`bound_bytes` may say of a raster; pieces are made smaller until it does."""
LEAST_ROWS, LEAST_COLUMNS = 8, 64
"""Of a piece. Smaller ones would be more files than bytes."""
FLOAT = 4


@dataclass(frozen=True)
class Task:
    """A network and what is written of what it says."""

    what: str
    network: Network
    products: tuple[Product, ...]
    window: EvaluationConfig
    """``window``, ``overlap`` and ``batch_size`` of the windows."""
    gsd_m: float | None
    """Metres per pixel that the network knows; None to give it the raster's own pixels."""
    identity: dict[str, Any]
    """What the network is known by, and all knobs that change its answers."""


def paths_of(out: Path, stem: str, products: Sequence[Product]) -> dict[Product, Path]:
    """Where each product of the raster ``stem`` is written."""
    return {product: product_path(out, stem, product.name) for product in products}


def map_scene(path: Path, reading: Reading, task: Task, out: Path, group: Group, *, quiet: bool = False) -> bool:
    """Write the products of ``task`` for the raster ``path`` to the folder ``out``; all of ``group``'s ranks call this.

    What is finished is not done again. Returns whether anything had to be done. Only rank 0 has the finished files when
    it returns. Raises ``ValueError`` as :class:`Scene` does.
    """
    with Scene(path, reading) as scene, Scene(path, reading) as second, block_cache(CACHE_BYTES):
        layout = layout_of(scene, task)
        plan = _digest(scene, task, layout)
        paths = paths_of(out, path.stem, task.products)
        journal = Journal(out, path.stem, task.what, plan)
        if all(plan_of(made) == plan for made in paths.values()):
            if group.is_first:
                journal.close()  # a process that was killed right before may have left them
            return False
        journal.open()
        own = share(layout.pieces, group.rank, group.world_size)
        todo = runs(own, lambda piece: journal.has(task.products, piece))
        left = sum(map(len, todo))
        speed = Speed()
        work = (done for run in todo for done in _finished(scene, second, task, layout, run, journal))
        what = f"{task.what} {path.name}"
        silent = quiet or not group.is_first or not left
        if task.gsd_m is not None and not silent and (said := _resampling(scene, task.gsd_m, layout)):
            print(f"{what}: {said}", file=sys.stderr, flush=True)
        for piece in progress(work, what, total=len(own), start=len(own) - left, note=speed.say, quiet=silent):
            speed.add(piece)
        group.barrier()
        if group.is_first:
            if not all(journal.has(task.products, piece) for piece in layout.pieces):
                raise ValueError(f"{journal.folder}: pieces of other ranks are not there; let all ranks see --output")
            grid = Grid(scene.height, scene.width, scene.crs, scene.transform)
            for product, made in paths.items():
                write_cog(made, journal.folder, product, grid, journal.sources(product, layout.pieces), plan)
            journal.close()
    return True


def layout_of(scene: Scene, task: Task) -> Layout:
    """How ``scene`` is cut for the task's network."""
    height, width = scene.height, scene.width
    if task.gsd_m is not None:
        if scene.gsd_m is None:
            raise ValueError(
                f"{scene.path}: nobody knows its GSD, to be brought to the network's {task.gsd_m:g} m; give it a "
                "transform, or --gsd 0 to take its pixels as they are"
            )
        height, width = (
            side if abs(own - task.gsd_m) <= SAME_GSD * task.gsd_m else max(1, round(side * own / task.gsd_m))
            for side, own in zip((height, width), scene.gsd_m, strict=True)
        )
    knobs = task.window
    stride = max(1, round(knobs.window * (1 - knobs.overlap)))
    layout = Layout(scene.height, scene.width, height, width, knobs.window, stride, knobs.batch_size)
    return _fitting(layout, scene, task)


def _fitting(layout: Layout, scene: Scene, task: Task) -> Layout:
    """``layout`` with pieces so small that they fit into ``MOST_BYTES``."""
    while (bound := bound_bytes(layout, task.network.channels)) > MOST_BYTES:
        # Where the working grid is much finer, few own rows are many of its rows.
        if layout.work_height > layout.height and layout.band_rows > LEAST_ROWS:
            layout = replace(layout, band_rows=layout.band_rows // 2)
        elif layout.strip_cols > COLUMNS:
            layout = replace(layout, strip_cols=layout.strip_cols // 2)
        elif layout.columns > LEAST_COLUMNS:
            layout = replace(layout, columns=layout.columns // 2)
        else:
            own = "unknown" if scene.gsd_m is None else f"{scene.gsd_m[1]:.3g} m"
            seen = f"{task.gsd_m:g} m" if task.gsd_m is not None else "the same"
            raise ValueError(
                f"{scene.path}: its GSD is {own} and the network's {seen}, which with windows of {layout.side} pixels "
                f"would take {bound / 2**30:.1f} GiB; give a --gsd nearer to the raster's, or a smaller window or batch"
            )
    return layout


def _resampling(scene: Scene, gsd_m: float, layout: Layout) -> str:
    """What to say of a raster that is not seen at its own GSD; "" of one that is."""
    if (layout.work_height, layout.work_width) == (layout.height, layout.width):
        return ""
    assert scene.gsd_m is not None, "else it would have been refused"
    down, across = scene.gsd_m
    own = f"{across:.3g} m" if abs(across - down) <= SAME_GSD * down else f"{across:.3g} x {down:.3g} m"
    return f"resampled from its pixels of {own} to {gsd_m:g} m, as the network knows"


def bound_bytes(layout: Layout, channels: int) -> int:
    """The most that the arrays of this station hold at once.

    The network's own come on top, GDAL's cache (``CACHE_BYTES``), and what the system's allocator does not give back at
    once (with glibc's own settings, up to a half again was seen; with ``MALLOC_MMAP_THRESHOLD_=1048576``, nothing).
    """
    rows, _ = layout.from_work
    held = max(stop - start for start, stop in (rows.support(p.window.row, p.window.rows.stop) for p in layout.pieces))
    most = 0.0
    for strip in layout.strips:
        wide, cols = strip.right - strip.left, strip.cols[1] - strip.cols[0]
        sums = layout.side * wide
        rows_done = 2 * ROWS_AT_ONCE * wide  # divided by their weights, and those that the next piece needs too
        pieces = held * wide + 2 * layout.band_rows * cols  # and resampled along one side and the other
        # A row of windows, and of what it is made of as much as is read at once.
        down, across = (max(1.0, axis.step) for axis in layout.to_work)
        own_rows, own_cols = min(layout.side * down, layout.height), min((wide + 2) * across, layout.width)
        own = min(own_rows * own_cols, max(OWN_PIXELS, min(2 * down + 1, own_rows) * own_cols))
        read = IMAGE_BANDS * (2 * layout.side * wide + (1 + 2 * FLOAT) * own)
        most = max(most, FLOAT * channels * (sums + rows_done + pieces) + read)
    return int(most + (AHEAD + 2) * IMAGE_BANDS * layout.batch * layout.side**2)


class Speed:
    """Pixels of the raster a second, since the first piece was begun."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock, self._began, self._pixels = clock, clock(), 0

    def add(self, piece: Piece) -> None:
        """Count a piece."""
        self._pixels += piece.window.height * piece.window.width

    def say(self) -> str:
        """For a progress bar."""
        return f"{self._pixels / max(self._clock() - self._began, 1e-9) / 1e6:.2f} Mpixel/s"


def _finished(
    scene: Scene, second: Scene, task: Task, layout: Layout, run: list[Piece], journal: Journal
) -> Iterator[Piece]:
    """Compute the pieces of a run and write each, in another thread, while the next one is computed."""
    with ThreadPoolExecutor(1, thread_name_prefix="drdg-write") as writer:
        writing: Future[None] | None = None
        for piece, values in pieces_of(scene, task.network, layout, run):
            valid = second.valid(piece.window)
            pixels = [product.pixels(values, valid) for product in task.products]
            if writing is not None:
                writing.result()
            writing = writer.submit(_keep, journal, task.products, piece, pixels)
            yield piece
        if writing is not None:
            writing.result()


def _keep(journal: Journal, products: Sequence[Product], piece: Piece, pixels: list[np.ndarray]) -> None:
    for product, one in zip(products, pixels, strict=True):
        journal.keep(product, piece, one)


def _digest(scene: Scene, task: Task, layout: Layout) -> str:
    """Sixteen hex digits of all that decides what is written."""
    products = [replace(product, encode=None) for product in task.products]  # type: ignore[arg-type]
    return digest(
        {
            "format": FORMAT,
            "version": __version__,
            "content": scene.content(),
            "roles": scene.roles(),
            "place": [str(scene.crs), *scene.transform],
            "reading": scene.reading,
            "layout": [layout.height, layout.width, layout.work_height, layout.work_width],
            "windows": [layout.side, layout.stride, layout.batch, layout.band_rows, layout.strip_cols, layout.columns],
            "task": task.identity,
            "products": products,
        },
        ignore=(),
    )
