"""Station 2, stream: batches for training, in an order that is a function of the seed and the samples seen.

The clock is a *position*, counted over all ranks: at global step k, with b samples on each of w ranks, rank r takes the
b positions from (k w + r) b on. A position decides the samples and their augmentation, so the order is the same for any
number of ranks and workers, no rank ever waits for another, and a run resumes by naming another first step.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from drdg.config import DsmConfig
from drdg.tiles.order import draw, permutation, uniforms
from drdg.tiles.store import ShardStore

Order = Literal["permutation", "replacement"]
Batch = dict[str, torch.Tensor]


class PositionStream(Dataset[Batch]):
    """A map from positions to items; what both streams share."""

    def __getitem__(self, position: int) -> Batch:
        """The item at a position of the global clock."""
        raise NotImplementedError

    def batches(
        self, first_step: int, last_step: int, *, rank: int, world_size: int, batch_size: int, workers: int
    ) -> Iterator[Batch]:
        """One rank's batches of the global steps ``first_step`` up to, not including, ``last_step``.

        Every value of an item comes stacked along a first dimension of ``batch_size``. Starting at a late step costs
        nothing. Neither the number of ranks nor of loader processes (``workers``) changes the global order, and the
        random state of the process is left as it is.
        """
        assert 0 <= rank < world_size, (rank, world_size)
        assert batch_size >= 1
        assert 0 <= first_step <= last_step, (first_step, last_step)
        loader = DataLoader(
            self,
            batch_sampler=_Steps(first_step, last_step, rank, world_size, batch_size),
            num_workers=workers,
            pin_memory=torch.cuda.is_available(),
            # Without its own generator the loader draws from the global one, and a resumed run would differ.
            generator=torch.Generator(),
        )
        return iter(loader)


class _Steps:
    """The positions of each of one rank's steps."""

    def __init__(self, first: int, last: int, rank: int, world_size: int, batch_size: int) -> None:
        self.steps = range(first, last)
        self.rank, self.world_size, self.batch_size = rank, world_size, batch_size

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[list[int]]:
        for step in self.steps:
            start = (step * self.world_size + self.rank) * self.batch_size
            yield list(range(start, start + self.batch_size))


class _Shuffled:
    """Sample numbers of one store by position: every sample once per epoch, or drawn anew each time."""

    def __init__(self, length: int, order: Order, *key: str | int) -> None:
        self.length, self.order, self.key = length, order, key
        self._epoch = -1
        self._permutation = np.empty(0, dtype=np.int64)

    def __call__(self, position: int) -> int:
        if self.order == "replacement":
            return draw(self.length, *self.key, position)
        epoch, place = divmod(position, self.length)
        if epoch != self._epoch:
            self._epoch, self._permutation = epoch, permutation(self.length, *self.key, epoch)
        return int(self._permutation[place])


class UnpairedStream(PositionStream):
    """Unpaired (source, target) tiles for the translator.

    Each domain has its own order: with ``order="permutation"`` every sample comes once per epoch of its domain, with
    ``"replacement"`` each position is an independent draw. Items: ``source_image`` and ``target_image`` uint8
    (3, H, W); with ``need_dsm`` also ``source_dsm`` and ``target_dsm`` float32 (1, H, W), normalised by ``dsm``;
    ``position`` int64. Raises ``ValueError`` when ``need_dsm`` and a domain's heights cannot be had.
    """

    def __init__(
        self,
        source: ShardStore,
        target: ShardStore,
        *,
        seed: int,
        order: Order = "permutation",
        need_dsm: bool,
        dsm: DsmConfig,
    ) -> None:
        self.stores = {"source": source, "target": target}
        self.dsm = dsm
        self.need_dsm = need_dsm
        if need_dsm:
            for store in self.stores.values():
                store.require_rule(dsm)
        self._index = {name: _Shuffled(len(store), order, name, seed) for name, store in self.stores.items()}

    @property
    def content(self) -> list[str]:
        """What the samples are known by: the digests of both stores' plans."""
        return [store.manifest["plan"] for store in self.stores.values()]

    @property
    def epoch_size(self) -> int:
        """Positions in an epoch of training: as many as the larger domain has samples."""
        return max(len(store) for store in self.stores.values())

    def __getitem__(self, position: int) -> Batch:
        """The pair at ``position``."""
        item: dict[str, Any] = {"position": torch.tensor(position, dtype=torch.int64)}
        for name, store in self.stores.items():
            sample = store[self._index[name](position)]
            item[f"{name}_image"] = _channels_first(sample.image)
            if self.need_dsm:
                item[f"{name}_dsm"] = torch.from_numpy(store.normalised_dsm(sample, self.dsm)[None])
        return item


class LabelledStream(PositionStream):
    """Augmented crops of labelled tiles for the segmentor; every tile once per epoch.

    ``crop``: side in pixels of a random crop; ``flip``: probability of a horizontal, and of a vertical flip;
    ``quarter_turn``: probability of a turn by 90, 180 or 270 degrees, each equally likely. Items: ``image`` uint8
    (3, crop, crop), ``label`` uint8 (crop, crop), ``position`` int64. Raises ``ValueError`` when there are no labels or
    a tile is smaller than ``crop``.
    """

    def __init__(
        self, store: ShardStore, *, seed: int, crop: int, flip: float = 0.0, quarter_turn: float = 0.0
    ) -> None:
        if not store.has_label:
            raise ValueError(f"{store.folder}: these shards have no labels; build them from a labelled archive")
        if store.domain["tile"] < crop:
            raise ValueError(
                f"segmentation.crop={crop} is larger than the tiles of {store.folder} "
                f"({store.domain['tile']} pixels); take a smaller crop or larger tiles"
            )
        self.store = store
        self.seed, self.crop, self.flip, self.quarter_turn = seed, crop, flip, quarter_turn
        self._index = _Shuffled(len(store), "permutation", "labelled", seed)

    @property
    def epoch_size(self) -> int:
        """Positions in an epoch: as many as there are samples."""
        return len(self.store)

    def __getitem__(self, position: int) -> Batch:
        """The crop at ``position``."""
        sample = self.store[self._index(position)]
        assert sample.label is not None, sample.key
        image, label = self._augment(sample.image, sample.label, position)
        return {
            "image": _channels_first(image),
            "label": torch.from_numpy(label.copy()),
            "position": torch.tensor(position, dtype=torch.int64),
        }

    def _augment(self, image: np.ndarray, label: np.ndarray, position: int) -> tuple[np.ndarray, np.ndarray]:
        """Views of image (H, W, 3) and label (H, W), cropped, flipped and turned alike."""
        down, right, upside, mirror, turn, angle = uniforms(6, "augment", self.seed, position)
        row = int(down * (label.shape[0] - self.crop + 1))
        col = int(right * (label.shape[1] - self.crop + 1))
        step_row = -1 if upside < self.flip else 1
        step_col = -1 if mirror < self.flip else 1
        turns = 1 + int(angle * 3) if turn < self.quarter_turn else 0
        window = (slice(row, row + self.crop), slice(col, col + self.crop))
        flipped = (slice(None, None, step_row), slice(None, None, step_col))
        return np.rot90(image[window][flipped], turns), np.rot90(label[window][flipped], turns)


def _channels_first(image: np.ndarray) -> torch.Tensor:
    """uint8 (H, W, 3), any strides, read-only or not, to a contiguous tensor (3, H, W) of its own."""
    planes = np.empty((image.shape[2], *image.shape[:2]), dtype=np.uint8)
    for channel in range(image.shape[2]):
        planes[channel] = image[..., channel]
    return torch.from_numpy(planes)
