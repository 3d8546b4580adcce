"""Station 7, bench: other ways to get batches of pairs of tiles, each with the pixels that our stream delivers.

A batch holds, for source and target, the images uint8 (B, H, W, 3) and the heights uint16 (B, H, W) in centimetres.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from drdg.bench.png import make_folders, read_list, read_png, write_list, write_tile
from drdg.shards.store import ShardStore
from drdg.tiles.order import permutation

Pixels = torch.Tensor | np.ndarray
PairBatch = tuple[Pixels, Pixels, Pixels, Pixels]
"""Source images, source heights, target images, target heights."""


def write_png_set(store: ShardStore, root: Path) -> None:
    """The samples of a store, in its order, as a folder of PNG files."""
    make_folders(root)
    names = []
    for number in range(len(store)):
        sample = store[number]
        assert sample.dsm_steps is not None, sample.key
        write_tile(root, sample.key, sample.image, sample.dsm_steps, sample.label)
        names.append(sample.key)
    write_list(root, names)


class PngPairs(Dataset[tuple[np.ndarray, ...]]):
    """Pairs of the tiles of two PNG folders; the smaller folder begins again at its end.

    It does less than the released code's loader, which goes on to float32: the pixels stay as they are decoded.
    """

    def __init__(self, source: Path, target: Path) -> None:
        self.sets = [(root, read_list(root)) for root in (source, target)]

    def __len__(self) -> int:
        return max(len(names) for _, names in self.sets)

    def __getitem__(self, number: int) -> tuple[np.ndarray, ...]:
        """Image and heights of source tile and of target tile ``number``."""
        if number >= len(self):
            raise IndexError(number)
        pixels = []
        for root, names in self.sets:
            name = names[number % len(names)]
            pixels += [read_png(root / "images" / f"{name}.png"), read_png(root / "dsms" / f"{name}.png")]
        return tuple(pixels)


def png_batches(source: Path, target: Path, batch_size: int) -> Iterator[PairBatch]:
    """A torch ``DataLoader`` in this process over two PNG folders, once through, without the incomplete batch."""
    return iter(DataLoader(PngPairs(source, target), batch_size=batch_size, num_workers=0, drop_last=True))


def webdataset_batches(source: Sequence[str], target: Sequence[str], batch_size: int) -> Iterator[PairBatch]:
    """Stock webdataset over the tars of both domains, once through, without the incomplete batch."""
    import webdataset

    def batches(urls: Sequence[str]) -> Iterator[tuple[Pixels, Pixels]]:
        samples = webdataset.WebDataset(list(urls), shardshuffle=False, empty_check=False).decode()
        return iter(samples.to_tuple("image.npy", "dsm.npy").batched(batch_size, partial=False))

    for (source_images, source_dsm), (target_images, target_dsm) in zip(batches(source), batches(target), strict=False):
        yield source_images, source_dsm, target_images, target_dsm


class MemoryPairs:
    """The tiles of two stores in plain memory, copied tile by tile in shuffled order into one batch that is reused."""

    def __init__(self, source: ShardStore, target: ShardStore, batch_size: int) -> None:
        self.tiles = [_pixels(store) for store in (source, target)]
        self.length = min(len(source), len(target))
        # Zeros would be mapped page by page during the first batch; ones are there.
        self.batch = [np.ones((batch_size, *layer.shape[1:]), layer.dtype) for tiles in self.tiles for layer in tiles]
        self.batch_size = batch_size

    def batches(self, count: int) -> Iterator[PairBatch]:
        """``count`` batches; each overwrites the one before."""
        position = 0
        for _ in range(count):
            for place in range(self.batch_size):
                epoch, step = divmod(position, self.length)
                if step == 0:
                    orders = [
                        permutation(len(tiles[0]), "bench", domain, epoch) for domain, tiles in enumerate(self.tiles)
                    ]
                for domain, (images, heights) in enumerate(self.tiles):
                    number = orders[domain][step]
                    np.copyto(self.batch[2 * domain][place], images[number])
                    np.copyto(self.batch[2 * domain + 1][place], heights[number])
                position += 1
            yield self.batch[0], self.batch[1], self.batch[2], self.batch[3]


def _pixels(store: ShardStore) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (N, H, W, 3) and heights uint16 (N, H, W) of all its samples."""
    samples = [store[number] for number in range(len(store))]
    heights = [sample.dsm_steps for sample in samples if sample.dsm_steps is not None]
    return np.stack([sample.image for sample in samples]), np.stack(heights)
