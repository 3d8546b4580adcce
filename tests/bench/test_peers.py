"""The peers of the stream deliver the stream's pixels; that is what makes them peers."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_bench import TINY

from drdg.bench import peers
from drdg.bench.data import host_batches
from drdg.bench.png import read_png, write_png
from drdg.bench.sheets import domain_of
from drdg.config import DsmConfig, ShardsConfig
from drdg.shards.build import build_shards
from drdg.shards.store import ShardStore
from drdg.shards.stream import UnpairedStream

BATCH = 2


@pytest.fixture(scope="module")
def folders(sheets: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Shards of four tiles of each of two sheets, three in a shard."""
    root = tmp_path_factory.mktemp("shards")
    shards = ShardsConfig(root=root, samples_per_shard=3)
    domains = [domain_of(sheets / name, TINY.tile, TINY.tile) for name in ("one", "another")]
    return [build_shards(domain, shards, need_label=False) for domain in domains]


@pytest.fixture(scope="module")
def stores(folders: list[Path]) -> list[ShardStore]:
    return [ShardStore(folder) for folder in folders]


def tars(folder: Path) -> list[str]:
    found = [str(path) for path in sorted(folder.glob("*.tar"))]
    assert len(found) == 2
    return found


def in_order(store: ShardStore) -> tuple[np.ndarray, np.ndarray]:
    samples = [store[number] for number in range(len(store))]
    heights = [sample.dsm_steps for sample in samples]
    assert all(steps is not None for steps in heights)
    return np.stack([sample.image for sample in samples]), np.stack([np.asarray(steps) for steps in heights])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_png_files_hold_every_bit(dtype: type, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    shapes = [(7, 5), (7, 5, 3)] if dtype is np.uint8 else [(7, 5)]
    for number, shape in enumerate(shapes):
        pixels = random.integers(0, np.iinfo(dtype).max, size=shape, dtype=dtype, endpoint=True)
        write_png(tmp_path / f"{number}.png", pixels)
        read = read_png(tmp_path / f"{number}.png")
        assert read.dtype == dtype
        assert np.array_equal(read, pixels)


def test_the_png_folders_give_the_pixels_of_the_shards(stores: list[ShardStore], tmp_path: Path) -> None:
    for store, name in zip(stores, ("source", "target"), strict=True):
        peers.write_png_set(store, tmp_path / name)
    batches = list(peers.png_batches(tmp_path / "source", tmp_path / "target", BATCH))
    check(batches, stores)


def test_webdataset_gives_the_pixels_of_the_shards(folders: list[Path], stores: list[ShardStore]) -> None:
    batches = list(peers.webdataset_batches(tars(folders[0]), tars(folders[1]), BATCH))
    check(batches, stores)


def check(batches: list[peers.PairBatch], stores: list[ShardStore]) -> None:
    """Both peers go through the samples in the store's order."""
    assert len(batches) == len(stores[0]) // BATCH
    expected = [layer for store in stores for layer in in_order(store)]
    for number, layer in enumerate(expected):
        whole = np.concatenate([np.asarray(batch[number]) for batch in batches])
        assert whole.dtype == layer.dtype
        assert np.array_equal(whole, layer)


def tiles_seen(images: np.ndarray, heights: np.ndarray) -> Counter[tuple[bytes, bytes]]:
    return Counter((image.tobytes(), steps.tobytes()) for image, steps in zip(images, heights, strict=True))


def test_the_memory_copy_gives_every_tile_once_in_each_pass(stores: list[ShardStore]) -> None:
    memory = peers.MemoryPairs(stores[0], stores[1], BATCH)
    steps = len(stores[0]) // BATCH
    # The buffers are used again, so what is to be kept must be copied.
    batches = [[layer.copy() for layer in map(np.asarray, batch)] for batch in memory.batches(2 * steps)]
    for first in (0, steps):
        layers = [np.concatenate(parts) for parts in zip(*batches[first : first + steps], strict=True)]
        assert tiles_seen(layers[0], layers[1]) == tiles_seen(*in_order(stores[0]))
        assert tiles_seen(layers[2], layers[3]) == tiles_seen(*in_order(stores[1]))
    assert [batch[0].tobytes() for batch in batches[:steps]] != [batch[0].tobytes() for batch in batches[steps:]]


def test_the_memory_copy_writes_into_one_batch(stores: list[ShardStore]) -> None:
    first, second = peers.MemoryPairs(stores[0], stores[1], BATCH).batches(2)
    assert all(one is other for one, other in zip(first, second, strict=True))


def test_our_stream_gives_the_same_tiles(stores: list[ShardStore]) -> None:
    stream = UnpairedStream(stores[0], stores[1], seed=0, need_dsm=True, dsm=DsmConfig())
    seen: dict[str, list[np.ndarray]] = {}
    for batch in host_batches(stream, len(stores[0]) // BATCH, BATCH):
        for name, values in stream.to_device(batch, torch.device("cpu")).items():
            seen.setdefault(name, []).extend(values.numpy().copy())
    for name, store in (("source", stores[0]), ("target", stores[1])):
        images = Counter(np.moveaxis(image, 0, -1).tobytes() for image in seen[f"{name}_image"])
        assert images == Counter(store[number].image.tobytes() for number in range(len(store)))
        assert len(seen[f"{name}_dsm"]) == len(store)


def test_our_host_batches_are_no_smaller_than_the_peers(folders: list[Path], stores: list[ShardStore]) -> None:
    """Otherwise a comparison of rates would be one of different work."""
    stream = UnpairedStream(stores[0], stores[1], seed=0, need_dsm=True, dsm=DsmConfig())
    batch = next(iter(host_batches(stream, 1, BATCH)))
    ours = sum(values.nbytes for values in batch.values())
    peer = next(iter(peers.webdataset_batches(tars(folders[0]), tars(folders[1]), BATCH)))
    assert ours >= sum(values.nbytes for values in peer)
