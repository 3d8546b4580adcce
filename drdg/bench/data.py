"""Station 7, bench: the stream of pairs beside other ways to the same pixels, on one core.

What is counted are tiles in batches on the host, image and heights: what a rank has before it moves them to its device.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from drdg.bench import peers
from drdg.bench.machine import caches, one_core
from drdg.bench.result import Comparison, dearer, more
from drdg.bench.sheets import domain_of
from drdg.bench.sizes import Sizes
from drdg.bench.timing import Runs, interleave, say, stopwatch
from drdg.config import Config, ShardsConfig
from drdg.shards.build import build_shards
from drdg.shards.crew import Alone
from drdg.shards.store import ShardStore
from drdg.shards.stream import UnpairedStream

GOAL_PNG_FOLDER, GOAL_WEBDATASET, GOAL_MEMORY_COPY = 50.0, 4.0, 0.7
OURS, ZSTD = "our stream, raw", "our stream, zstd"
PNG_FOLDER, WEBDATASET, MEMORY_COPY = "DataLoader over PNG folders", "webdataset", "memory copy"


@dataclass(frozen=True)
class Side:
    """One way to batches: ``tiles`` delivered by one run of ``work``."""

    work: Callable[[], object]
    tiles: int


def measure_stream(
    config: Config, sizes: Sizes, repeats: int, archives: tuple[Path, Path], root: Path
) -> list[Comparison]:
    """Our stream over the shards of two archives of one sheet each, beside its peers. Writes under ``root``."""
    say("stream: shards and PNG folders of the same tiles")
    folders = {
        codec: [_shards(config.shards, sizes, archive, root / codec, codec) for archive in archives]
        for codec in ("raw", "zstd")
    }
    stores = [ShardStore(folder) for folder in folders["raw"]]
    sets = [root / "png" / folder.parent.name for folder in folders["raw"]]
    for store, folder in zip(stores, sets, strict=True):
        peers.write_png_set(store, folder)
    say(f"stream: {_working_set(stores)}; batches of {sizes.batch} pairs; one core")
    torch.set_num_threads(1)
    os.sync()  # what was written just now is not to be on its way to the disk while others are measured
    with one_core():
        sides = _sides(config, sizes, folders, stores, sets)
        seconds = interleave({name: stopwatch(side.work) for name, side in sides.items()}, repeats)
    rates = {name: runs.rates(sides[name].tiles) for name, runs in seconds.items()}
    ours, unit = rates[OURS], "tiles/s"
    return [
        more("stream beside a DataLoader over PNG folders", ours, rates[PNG_FOLDER], unit, GOAL_PNG_FOLDER),
        more("stream beside stock webdataset on the same tars", ours, rates[WEBDATASET], unit, GOAL_WEBDATASET),
        more("stream beside a memory copy of the same bytes", ours, rates[MEMORY_COPY], unit, GOAL_MEMORY_COPY),
        more("stream of zstd shards beside raw ones", rates[ZSTD], ours, unit),
        dearer(
            "size of a tile (image, heights), zstd beside raw", _size(folders["zstd"]), _size(folders["raw"]), "bytes"
        ),
    ]


def _sides(
    config: Config, sizes: Sizes, folders: dict[str, list[Path]], stores: list[ShardStore], sets: list[Path]
) -> dict[str, Side]:
    batch = sizes.batch
    steps = min(len(store) for store in stores) // batch
    if steps == 0:
        raise ValueError(
            f"the archives have {len(stores[0])} tiles, fewer than the {batch} of a batch; take more pixels"
        )
    tiles = 2 * steps * batch
    source_tars, target_tars = ([str(path) for path in sorted(folder.glob("*.tar"))] for folder in folders["raw"])
    memory = peers.MemoryPairs(stores[0], stores[1], batch)
    many, few = sizes.passes, max(1, sizes.passes // 4)
    raw, zstd = (stream_of(config, *folders[codec]) for codec in ("raw", "zstd"))

    def webdataset() -> Iterator[peers.PairBatch]:
        for _ in range(few):
            yield from peers.webdataset_batches(source_tars, target_tars, batch)

    return {
        OURS: Side(lambda: drain(host_batches(raw, many * steps, batch)), many * tiles),
        MEMORY_COPY: Side(lambda: drain(memory.batches(many * steps)), many * tiles),
        ZSTD: Side(lambda: drain(host_batches(zstd, few * steps, batch)), few * tiles),
        WEBDATASET: Side(lambda: drain(webdataset()), few * tiles),
        PNG_FOLDER: Side(lambda: drain(peers.png_batches(sets[0], sets[1], batch)), tiles),
    }


def stream_of(config: Config, source: Path, target: Path) -> UnpairedStream:
    """The stream that training would have over two folders of shards."""
    return UnpairedStream(ShardStore(source), ShardStore(target), seed=0, need_dsm=True, dsm=config.dsm)


def host_batches(stream: UnpairedStream, steps: int, batch_size: int) -> Iterable[dict[str, torch.Tensor]]:
    """The batches of the first ``steps`` as one rank gets them in this process, without workers."""
    return stream.batches(0, steps, rank=0, world_size=1, batch_size=batch_size, workers=0)


def drain(batches: Iterable[object]) -> None:
    """Take every batch and keep none."""
    for _ in batches:
        pass


def _shards(shards: ShardsConfig, sizes: Sizes, archive: Path, root: Path, codec: str) -> Path:
    """Shards of one archive without labels, which the stream of pairs does not read, in a folder of their own."""
    domain = domain_of(archive, sizes.tile, sizes.tile)
    here = shards.model_copy(update={"root": root / archive.name, "codec": codec})
    return build_shards(domain, here, need_label=False, crew=Alone(quiet=True))


def _working_set(stores: list[ShardStore]) -> str:
    pixels = sum(len(store) * store.domain["tile"] ** 2 for store in stores)
    known = ", ".join(f"{level} {size / 1e6:.0f} MB" for level, size in caches().items()) or "caches unknown"
    return f"{sum(map(len, stores))} tiles, {pixels * 5 / 1e6:.0f} MB of image and heights ({known})"


def _size(folders: list[Path]) -> Runs:
    """Bytes of a tile in its shard, the mean over both domains."""
    size = sum(path.stat().st_size for folder in folders for path in folder.glob("*.tar"))
    return Runs((size / sum(len(ShardStore(folder)) for folder in folders),))
