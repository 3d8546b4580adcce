"""Station 5, maps: one raster of any size through one network, to finished GeoTIFFs, in bounded memory.

What is held at once, whatever the raster's height and width: sums of all channels for a strip of at most
``windows.STRIP_COLS`` columns and one window's rows, the rows of one band beside them, and three batches of windows;
see :func:`bound_bytes`.
"""

from __future__ import annotations

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
from drdg.maps.blend import ROWS_AT_ONCE, Network, pieces_of
from drdg.maps.cog import Grid, plan_of, write_cog
from drdg.maps.inputs import IMAGE_BANDS, Reading, Scene
from drdg.maps.journal import Journal
from drdg.maps.products import Product
from drdg.maps.ranks import runs, share
from drdg.maps.windows import Layout, Piece
from drdg.progress import progress
from drdg.shards.threads import AHEAD
from drdg.tiles.raster import block_cache

FORMAT = 1  # to be raised when the same model and input come out as other bytes
CACHE_BYTES = 128 << 20
"""Decoded blocks that GDAL keeps, of inputs and of pieces."""
SAME_GSD = 0.01
"""Share of its GSD by which a raster may differ from the network's without being resampled."""
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
    return {product: out / f"{stem}{'_' * bool(product.name)}{product.name}.tif" for product in products}


def map_scene(path: Path, reading: Reading, task: Task, out: Path, group: Group, *, quiet: bool = False) -> bool:
    """Write the products of ``task`` for the raster ``path`` to the folder ``out``; all of ``group``'s ranks call this.

    What is finished is not done again. Returns whether anything had to be done. Only rank 0 has the finished files when
    it returns. Raises ``ValueError`` as :class:`Scene` does.
    """
    with Scene(path, reading) as scene, Scene(path, reading) as second, block_cache(CACHE_BYTES):
        layout = layout_of(scene, task)
        plan = _digest(scene, task, layout)
        paths = paths_of(out, path.stem, task.products)
        if all(plan_of(made) == plan for made in paths.values()):
            return False
        journal = Journal(out, path.stem, task.what, plan)
        journal.open()
        own = share(layout.pieces, group.rank, group.world_size)
        todo = runs(own, lambda piece: journal.has(task.products, piece))
        left = sum(map(len, todo))
        speed = Speed()
        work = (done for run in todo for done in _finished(scene, second, task, layout, run, journal))
        what = f"{task.what} {path.name}"
        silent = quiet or not group.is_first or not left
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
    return Layout(scene.height, scene.width, height, width, knobs.window, stride, knobs.batch_size)


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
        coarse = max(1.0, layout.to_work[0].step) * max(1.0, layout.to_work[1].step)
        read = IMAGE_BANDS * layout.side * wide * (2 + (1 + 2 * FLOAT) * coarse)  # a row of windows, and as it was read
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
            "place": [str(scene.crs), *scene.transform],
            "reading": scene.reading,
            "layout": [layout.height, layout.width, layout.work_height, layout.work_width],
            "windows": [layout.side, layout.stride, layout.batch, layout.band_rows, layout.strip_cols],
            "task": task.identity,
            "products": products,
        },
        ignore=(),
    )
