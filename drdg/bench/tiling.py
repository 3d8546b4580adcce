"""Station 7, bench: the build of shards beside the field's way, a plain copy, more ranks, and a larger archive.

All sides have the archive's files in the page cache; what a side left behind is removed, and the disk is synced,
before the next one starts.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import rasterio
from rasterio.windows import Window

from drdg.bench.machine import one_core
from drdg.bench.once import build_in_child
from drdg.bench.png import make_folders, write_list, write_tile
from drdg.bench.result import Comparison, dearer, efficiency, faster
from drdg.bench.sheets import domain_of, files_of
from drdg.bench.sizes import Sizes
from drdg.bench.timing import Measure, interleave, say, stopwatch
from drdg.config import DomainConfig, ShardsConfig
from drdg.datasets import open_archive
from drdg.shards.build import build_shards
from drdg.shards.crew import Alone
from drdg.tiles.dsm import to_steps, whole_steps
from drdg.tiles.windows import grid

GOAL_OPEN_PER_TILE, GOAL_COPY, GOAL_EFFICIENCY, GOAL_MEMORY = 15.0, 2.0, 0.9, 1.1
RANKS = 2
COPY_BLOCK = 8 << 20
OURS, ZSTD, OPEN_PER_TILE, COPY = "our build, raw", "our build, zstd", "open per tile, PNG", "plain copy"


def measure_build(shards: ShardsConfig, sizes: Sizes, repeats: int, archive: Path, root: Path) -> list[Comparison]:
    """Our build of one TOP with labels, in this process, beside its peers: on one core, and on all that there are.

    Writes under ``root``.
    """
    domain = domain_of(archive, sizes.tile, sizes.stride)
    folder = root / "out"
    # Built once beforehand to know how many bytes a copy has to write.
    _build(domain, shards, folder, "raw")
    inputs, outputs = files_of(open_archive(domain.archive)), sizes_of(folder)
    memory = np.ones(sum(path.stat().st_size for path in inputs), dtype=np.uint8)
    say(
        f"build: one TOP of {sizes.side} x {sizes.side} pixels in tiles of {sizes.tile}, stride {sizes.stride}: reads "
        f"{memory.size / 1e6:.0f} MB, writes {sum(outputs) / 1e6:.0f} MB in {len(outputs)} files"
    )
    works: dict[str, Callable[[], object]] = {
        OURS: lambda: _build(domain, shards, folder, "raw"),
        COPY: lambda: plain_copy(inputs, outputs, folder, memory),
        ZSTD: lambda: _build(domain, shards, folder, "zstd"),
        OPEN_PER_TILE: lambda: open_per_tile(domain, folder),
    }
    with one_core():
        measures = {name: stopwatch(work, before=lambda: start_afresh(folder)) for name, work in works.items()}
        on_one = interleave(measures, repeats)
    on_all = interleave({name: measures[name] for name in (OURS, COPY, ZSTD)}, repeats)
    start_afresh(folder)
    png, copy = "beside open-per-tile rasterio and PNG", "beside a plain copy of what it reads and writes"
    return [
        faster(f"build of one TOP on one core {png}", on_one[OURS], on_one[OPEN_PER_TILE], GOAL_OPEN_PER_TILE),
        dearer(f"build of one TOP on all cores {copy}", on_all[OURS], on_all[COPY], "s", GOAL_COPY),
        dearer(f"build of one TOP on one core {copy}", on_one[OURS], on_one[COPY], "s", GOAL_COPY),
        dearer("build of one TOP on all cores, zstd beside raw", on_all[ZSTD], on_all[OURS], "s"),
    ]


def measure_ranks(shards: ShardsConfig, sizes: Sizes, repeats: int, archive: Path, root: Path) -> list[Comparison]:
    """Seconds of a build of all TOPs on two MPI ranks and on one.

    Each is a fresh ``mpiexec``. The ranks' own clock counts, from when all have started to when all are done: starting
    Python and MPI takes the same on any number of ranks and is no part of a build that takes minutes.
    """
    say(f"ranks: {sizes.tops} TOPs of {sizes.side} x {sizes.side} pixels")
    folder = root / "out"

    def seconds_on(ranks: int) -> Measure:
        return lambda: _afresh(folder, shards, sizes, archive, ranks)["seconds"]

    seconds = interleave({f"{ranks} ranks": seconds_on(ranks) for ranks in (1, RANKS)}, repeats)
    start_afresh(folder)
    what = f"build of {sizes.tops} TOPs on {RANKS} MPI ranks beside 1"
    return [efficiency(what, seconds[f"{RANKS} ranks"], seconds["1 ranks"], RANKS, GOAL_EFFICIENCY)]


def measure_memory(
    shards: ShardsConfig, sizes: Sizes, repeats: int, archives: tuple[Path, Path], root: Path
) -> list[Comparison]:
    """Peak memory of a build of one TOP and of one of all TOPs, each in a process of its own, without MPI."""
    one, all_of_them = archives
    say(f"memory: 1 TOP and {sizes.tops}")
    folder = root / "out"

    def peak_of(archive: Path) -> Measure:
        return lambda: _afresh(folder, shards, sizes, archive, 0)["peak_mb"]

    peaks = interleave({"1 TOP": peak_of(one), "all TOPs": peak_of(all_of_them)}, repeats, warm_up=False)
    start_afresh(folder)
    what = f"peak memory of a build of {sizes.tops} TOPs beside one of 1"
    return [dearer(what, peaks["all TOPs"], peaks["1 TOP"], "MB", GOAL_MEMORY)]


def open_per_tile(domain: DomainConfig, folder: Path) -> None:
    """The field's way: for each tile open image, DSM and label anew, read the window, write three PNG files.

    The pixels are those of our shards; heights have 16 bits and nothing is waited for until it is on the disk.
    """
    archive = open_archive(domain.archive)
    make_folders(folder)
    names = []
    for top in archive.split(domain.split, need_label=True):
        assert top.dsm is not None, top.id
        assert top.label is not None, top.id
        with rasterio.open(top.image) as file:
            windows = grid(file.height, file.width, domain.tile, domain.stride, domain.edge)
        for place in windows:
            window = Window(place.col, place.row, place.width, place.height)
            with rasterio.open(top.image) as file:
                image = np.ascontiguousarray(np.moveaxis(file.read(list(archive.bands), window=window), 0, -1))
            with rasterio.open(top.dsm) as file:
                heights = file.read(1, window=window)
            with rasterio.open(top.label) as file:
                label = archive.decode_label(file.read(window=window), top.label)
            names.append(f"{top.id}-{place.row}-{place.col}")
            steps, _ = to_steps(whole_steps(heights), names[-1])
            write_tile(folder, names[-1], image, steps, label)
    write_list(folder, names)


def plain_copy(inputs: Sequence[Path], outputs: Sequence[int], folder: Path, memory: np.ndarray) -> None:
    """Read every byte of ``inputs`` into ``memory`` and write files of so many bytes as ``outputs`` from it, synced.

    ``memory`` is uint8, as large as all inputs together, and used before, so that its pages are there.
    """
    assert memory.size == sum(path.stat().st_size for path in inputs), memory.size
    folder.mkdir(parents=True, exist_ok=True)
    view = memory.data
    place = 0
    for path in inputs:
        with path.open("rb", buffering=0) as file:
            while read := file.readinto(view[place : place + COPY_BLOCK]):
                place += read
    place = 0
    for number, size in enumerate(outputs):
        with (folder / f"{number:06d}").open("wb", buffering=0) as output:
            while size:
                written = output.write(view[place : place + min(COPY_BLOCK, size)])
                size -= written
                place = (place + written) % len(view)
            os.fsync(output.fileno())


def sizes_of(folder: Path) -> list[int]:
    """Bytes of every file under a folder."""
    return [path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()]


def start_afresh(folder: Path) -> None:
    """Remove a folder and wait until no file is on its way to the disk any more."""
    if folder.exists():
        shutil.rmtree(folder)
    os.sync()


def _build(domain: DomainConfig, shards: ShardsConfig, folder: Path, codec: str) -> None:
    here = shards.model_copy(update={"root": folder, "codec": codec})
    build_shards(domain, here, need_label=True, crew=Alone(quiet=True))


def _afresh(folder: Path, shards: ShardsConfig, sizes: Sizes, archive: Path, ranks: int) -> dict[str, float]:
    start_afresh(folder)
    here = shards.model_copy(update={"root": folder, "codec": "raw"})
    return build_in_child(domain_of(archive, sizes.tile, sizes.stride), here, ranks)
