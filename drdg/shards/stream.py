"""Station 2, stream: batches for training, in an order that is a function of the seed and the samples seen.

The clock is a *position*, counted over all ranks: at global step k, with b samples on each of w ranks, rank r takes the
b positions from (k w + r) b on. A position decides the samples and their augmentation, so the order is the same for any
number of ranks and workers, no rank ever waits for another, and a run resumes by naming another first step.

On the host a batch is what is stored, each array copied once, from the shard to its place in the batch. All arithmetic
is the device's (``drdg.shards.prepare``).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch

from drdg.config import DsmConfig
from drdg.shards import prepare
from drdg.shards.buffers import Buffers
from drdg.shards.store import Sample, ShardStore
from drdg.shards.threads import AHEAD, in_order
from drdg.tiles.order import draw, permutation, uniforms

Order = Literal["permutation", "replacement"]
Batch = dict[str, torch.Tensor]

LABELLED = ("labelled", "augment")  # under what the order and the crops of labelled tiles are drawn


class PositionStream(ABC):
    """A map from positions to samples; what all streams share."""

    alike = 2
    """How many buffers of one kind a batch may take: two domains' images may have one shape."""

    def batches(
        self, first_step: int, last_step: int, *, rank: int, world_size: int, batch_size: int, workers: int
    ) -> Iterator[Batch]:
        """One rank's batches of the global steps ``first_step`` up to, not including, ``last_step``.

        They are on the host and hold what is stored, along a first dimension of ``batch_size``; :meth:`to_device` makes
        the networks' input of them. Starting at a late step costs nothing. Neither the number of ranks nor of loader
        threads (``workers``) changes the global order, and the random state of the process is left as it is.
        """
        assert 0 <= rank < world_size, (rank, world_size)
        assert batch_size >= 1
        assert 0 <= first_step <= last_step, (first_step, last_step)
        # For as many batches as are ahead, and the two that a loop holds while it asks for the next.
        buffers = Buffers(spare=self.alike * (AHEAD * workers + 2), pinned=torch.cuda.is_available())
        starts = ((step * world_size + rank) * batch_size for step in range(first_step, last_step))
        return in_order((self._begin(range(start, start + batch_size), buffers) for start in starts), workers)

    @abstractmethod
    def to_device(self, batch: Batch, device: torch.device) -> Batch:
        """The networks' input, on ``device``, from one of the ``batches``."""

    @abstractmethod
    def _begin(self, positions: range, buffers: Buffers) -> Callable[[], Batch]:
        """What reads the batch at ``positions``, in whatever thread; its samples and buffers are settled here.

        Page-locked memory belongs to the device that is current in this thread; another thread's would be device 0.
        """


class _Shuffled:
    """Sample numbers of one store by position: every sample once per epoch, or drawn anew each time."""

    def __init__(self, length: int, order: Order, *key: str | int) -> None:
        self.length, self.order, self.key = length, order, key
        self._latest = (-1, np.empty(0, dtype=np.int64))

    def __call__(self, position: int) -> int:
        if self.order == "replacement":
            return draw(self.length, *self.key, position)
        epoch, place = divmod(position, self.length)
        latest, numbers = self._latest
        if epoch != latest:
            numbers = permutation(self.length, *self.key, epoch)
            self._latest = (epoch, numbers)
        return int(numbers[place])


class UnpairedStream(PositionStream):
    """Unpaired (source, target) tiles for the translator.

    Each domain has its own order: with ``order="permutation"`` every sample comes once per epoch of its domain, with
    ``"replacement"`` each position is an independent draw. On the device: ``source_image`` and ``target_image`` uint8
    (B, 3, H, W); with ``need_dsm`` also ``source_dsm`` and ``target_dsm`` float32 (B, 1, H, W), normalised by ``dsm``;
    ``position`` int64 (B). Raises ``ValueError`` when ``need_dsm`` and a domain's heights cannot be had.
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
        self.need_ground = need_dsm and dsm.rule == "height_above_ground"
        if need_dsm:
            for store in self.stores.values():
                store.require_rule(dsm)
        self._index = {name: _Shuffled(len(store), order, name, seed) for name, store in self.stores.items()}
        self._sides = {name: store.domain["tile"] for name, store in self.stores.items()}

    @property
    def content(self) -> list[str]:
        """What the samples are known by: the digests of both stores' plans."""
        return [store.manifest["plan"] for store in self.stores.values()]

    @property
    def epoch_size(self) -> int:
        """Positions in an epoch of training: as many as the larger domain has samples."""
        return max(len(store) for store in self.stores.values())

    def to_device(self, batch: Batch, device: torch.device) -> Batch:
        """The networks' input, on ``device``, from one of the ``batches``."""
        there = _moved(batch, device)
        ready = {"position": there["position"]}
        for name in self.stores:
            ready[f"{name}_image"] = prepare.channels_first(there[f"{name}_image"])
            if self.need_dsm:
                steps, scaling, ground_m = there[f"{name}_dsm"], there[f"{name}_scaling"], None
                if self.need_ground:
                    ground_m = prepare.ground(there[f"{name}_ground"], there[f"{name}_cells"], *steps.shape[1:])
                ready[f"{name}_dsm"] = prepare.heights(steps, scaling, ground_m, self.dsm.range == "symmetric")
        return ready

    def _begin(self, positions: range, buffers: Buffers) -> Callable[[], Batch]:
        numbers = {name: [index(position) for position in positions] for name, index in self._index.items()}
        batch = {}
        for name, side in self._sides.items():
            batch[f"{name}_image"] = buffers.take((len(positions), side, side, 3), torch.uint8)
            if self.need_dsm:
                batch[f"{name}_dsm"] = buffers.take((len(positions), side, side), torch.uint16)
        batch["position"] = _tensor(positions)
        return lambda: self._read(numbers, batch)

    def _read(self, numbers: dict[str, list[int]], batch: Batch) -> Batch:
        copies: list[Callable[[], None]] = []
        for name, store in self.stores.items():
            samples = [store[number] for number in numbers[name]]
            copies += _copies(samples, "image.npy", batch[f"{name}_image"])
            if self.need_dsm:
                copies += _copies(samples, "dsm.npy", batch[f"{name}_dsm"])
                batch[f"{name}_scaling"] = _tensor([store.dsm_scaling(sample, self.dsm) for sample in samples])
            if self.need_ground:
                batch[f"{name}_ground"], batch[f"{name}_cells"] = _read_ground(samples)
        # Last, and together: megabytes that pass drive the interpreter out of the caches, and what it does right after
        # takes several times as long.
        for copy in copies:
            copy()
        return batch


class CropStream(PositionStream):
    """Augmented crops of one store's tiles; every tile once per epoch.

    ``members``: the arrays that are cropped, alike, by the names they get; ``uses``: under what the order of tiles and
    the crops are drawn from ``seed``, so that other uses have others. ``crop``: side in pixels of a random crop;
    ``flip``: probability of a horizontal, and of a vertical flip; ``quarter_turn``: probability of a turn by 90, 180 or
    270 degrees, each equally likely. On the device: ``image`` uint8 (B, 3, crop, crop), other members uint8
    (B, crop, crop), ``position`` int64 (B). Raises ``ValueError`` when a tile is smaller than ``crop``.
    """

    def __init__(
        self,
        store: ShardStore,
        *,
        members: dict[str, str],
        uses: tuple[str, str],
        seed: int,
        crop: int,
        flip: float = 0.0,
        quarter_turn: float = 0.0,
    ) -> None:
        if store.domain["tile"] < crop:
            raise ValueError(
                f"segmentation.crop={crop} is larger than the tiles of {store.name} "
                f"({store.domain['tile']} pixels); take a smaller crop or larger tiles"
            )
        self.store, self.members = store, members
        self.seed, self.crop, self.flip, self.quarter_turn = seed, crop, flip, quarter_turn
        order, self._use = uses
        self._index = _Shuffled(len(store), "permutation", order, seed)

    @property
    def content(self) -> list[str]:
        """What the samples are known by: the digest of the store's plan."""
        return [self.store.manifest["plan"]]

    @property
    def epoch_size(self) -> int:
        """Positions in an epoch: as many as there are samples."""
        return len(self.store)

    def to_device(self, batch: Batch, device: torch.device) -> Batch:
        """The segmentor's input, on ``device``, from one of the ``batches``."""
        there = _moved(batch, device)
        ready = {"position": there["position"]}
        for name in self.members:
            stored = there[name]
            planes = prepare.channels_first(stored) if stored.dim() == 4 else stored[:, None]
            if self.flip or self.quarter_turn:
                planes = prepare.turned(planes, there["symmetry"])
            ready[name] = (planes if stored.dim() == 4 else planes[:, 0]).contiguous()
        return ready

    def _begin(self, positions: range, buffers: Buffers) -> Callable[[], Batch]:
        numbers = [self._index(position) for position in positions]
        crops = (len(positions), self.crop, self.crop)
        batch = {
            name: buffers.take((*crops, 3) if name == "image" else crops, torch.uint8) for name in self.members
        } | {"position": _tensor(positions)}
        return lambda: self._read(positions, numbers, batch)

    def _read(self, positions: range, numbers: list[int], batch: Batch) -> Batch:
        plans = [self._augmentation(position) for position in positions]
        batch["symmetry"] = _tensor([symmetry for _, symmetry in plans])
        samples = [self.store[number] for number in numbers]
        for name, member in self.members.items():
            for (window, _), sample, place in zip(plans, samples, batch[name].numpy(), strict=True):
                np.copyto(place, sample.read(member)[window])
        return batch

    def _augmentation(self, position: int) -> tuple[tuple[slice, slice], tuple[bool, bool, bool]]:
        """The window of a tile that is cropped, and how the crop is turned (:func:`drdg.shards.prepare.turned`)."""
        down, right, upside, mirror, turn, angle = uniforms(6, self._use, self.seed, position)
        row, col = (int(share * (self.store.domain["tile"] - self.crop + 1)) for share in (down, right))
        turns = 1 + int(angle * 3) if turn < self.quarter_turn else 0
        # After the flips come the quarter turns, anticlockwise: one is a flip of the columns and a transposition.
        upside_down, mirrored = upside < self.flip, mirror < self.flip
        symmetry = (upside_down ^ (turns in (2, 3)), mirrored ^ (turns in (1, 2)), turns in (1, 3))
        return (slice(row, row + self.crop), slice(col, col + self.crop)), symmetry


class LabelledStream(CropStream):
    """Augmented crops of labelled tiles for the segmentor; every tile once per epoch.

    On the device: ``image`` uint8 (B, 3, crop, crop), ``label`` uint8 (B, crop, crop), ``position`` int64 (B). Raises
    ``ValueError`` when there are no labels or a tile is smaller than ``crop``.
    """

    def __init__(
        self, store: ShardStore, *, seed: int, crop: int, flip: float = 0.0, quarter_turn: float = 0.0
    ) -> None:
        if not store.has_label:
            raise ValueError(f"{store.name}: these shards have no labels; build them from a labelled archive")
        super().__init__(
            store,
            members={"image": "image.npy", "label": "label.npy"},
            uses=LABELLED,
            seed=seed,
            crop=crop,
            flip=flip,
            quarter_turn=quarter_turn,
        )


def _moved(batch: Batch, device: torch.device) -> Batch:
    return {name: value.to(device, non_blocking=True) for name, value in batch.items()}


def _tensor(values: Sequence[Any]) -> torch.Tensor:
    return torch.from_numpy(np.array(values))


def _copies(samples: list[Sample], member: str, out: torch.Tensor) -> list[Callable[[], None]]:
    """What writes one array of each sample into its place in the batch."""
    return [sample.copy(member, place) for sample, place in zip(samples, out.numpy(), strict=True)]


def _read_ground(samples: list[Sample]) -> tuple[torch.Tensor, torch.Tensor]:
    """Cells of samples, which differ in number by where a tile begins, and all else that ``prepare.ground`` takes."""
    grounds = [sample.read("ground.npy") for sample in samples]
    rows, cols = (max(lengths) for lengths in zip(*(ground.shape for ground in grounds), strict=True))
    steps = np.zeros((len(samples), rows, cols), dtype=np.uint16)
    for place, ground in zip(steps, grounds, strict=True):
        place[: ground.shape[0], : ground.shape[1]] = ground
    cells = [
        (
            sample.meta["ground_offset_m"],
            *sample.meta["ground_origin_px"],
            sample.meta["ground_cell_px"],
            *ground.shape,
        )
        for sample, ground in zip(samples, grounds, strict=True)
    ]
    return torch.from_numpy(steps), _tensor(cells)
