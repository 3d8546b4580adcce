"""Station 2, adaptation: what a segmentor learns from besides labelled crops, where its objective asks for more."""

from __future__ import annotations

from collections.abc import Callable

import torch

from drdg.shards.buffers import Buffers
from drdg.shards.store import ShardStore
from drdg.shards.stream import LABELLED, Batch, CropStream, LabelledStream, PositionStream

TARGET = ("adaptation target", "augment target")  # under what the order and the crops of target tiles are drawn
IMAGE = {"image": "image.npy"}


class AdaptationStream(PositionStream):
    """The labelled crops of :class:`LabelledStream`, to the byte, and beside them what their objective needs.

    ``target``: unlabelled tiles, in an order of their own, each once per epoch of theirs, with windows, flips and turns
    of their own. ``original``: what the labelled tiles were before their translation, one for one, cropped and turned
    as those are. ``crop``, ``flip``, ``quarter_turn``: as for :class:`CropStream`, for all of them. On the device, all
    uint8: ``image`` (B, 3, crop, crop), ``label`` (B, crop, crop) and, with their stores, ``target_image`` and
    ``original_image`` (B, 3, crop, crop); ``position`` int64 (B). Raises ``ValueError`` when there are no labels, when
    a tile is smaller than ``crop``, and when ``original`` does not go with ``labelled``.
    """

    alike = 3

    def __init__(
        self,
        labelled: ShardStore,
        *,
        target: ShardStore | None = None,
        original: ShardStore | None = None,
        seed: int,
        crop: int,
        flip: float = 0.0,
        quarter_turn: float = 0.0,
    ) -> None:
        def images(store: ShardStore, uses: tuple[str, str]) -> CropStream:
            return CropStream(
                store, members=IMAGE, uses=uses, seed=seed, crop=crop, flip=flip, quarter_turn=quarter_turn
            )

        self.labelled = LabelledStream(labelled, seed=seed, crop=crop, flip=flip, quarter_turn=quarter_turn)
        self.parts: dict[str, CropStream] = {"": self.labelled}
        """What a batch is made of, by what its names begin with."""
        if target is not None:
            self.parts["target_"] = images(target, TARGET)
        if original is not None:
            _refuse_others(labelled, original)
            self.parts["original_"] = images(original, LABELLED)

    @property
    def content(self) -> list[str]:
        """What the samples are known by: the digests of all stores' plans."""
        return [digest for part in self.parts.values() for digest in part.content]

    @property
    def epoch_size(self) -> int:
        """Positions in an epoch: as many as there are labelled samples."""
        return self.labelled.epoch_size

    def to_device(self, batch: Batch, device: torch.device) -> Batch:
        """The objective's input, on ``device``, from one of the ``batches``."""
        ready: Batch = {}
        for prefix, part in self.parts.items():
            own = {name: batch[prefix + name] for name in (*part.members, "symmetry", "position")}
            ready |= {prefix + name: value for name, value in part.to_device(own, device).items()}
        return {name: value for name, value in ready.items() if name == "position" or not name.endswith("_position")}

    def _begin(self, positions: range, buffers: Buffers) -> Callable[[], Batch]:
        reads = {prefix: part._begin(positions, buffers) for prefix, part in self.parts.items()}
        return lambda: {prefix + name: value for prefix, read in reads.items() for name, value in read().items()}


def _refuse_others(labelled: ShardStore, original: ShardStore) -> None:
    """Raise ``ValueError`` unless both have the same samples, in number, order and size."""
    both = f"{original.name} and {labelled.name}"
    cure = "translate these original tiles again, at their own size, or name the ones that were translated"
    for what, values in (
        ("tiles", (len(original), len(labelled))),
        ("pixels on a side", (original.domain["tile"], labelled.domain["tile"])),
    ):
        if values[0] != values[1]:
            raise ValueError(f"{both} have {values[0]} and {values[1]} {what}; {cure}")
    for number in range(len(original)):
        if original[number].key != labelled[number].key:
            raise ValueError(f"{both} differ in tile {number}; {cure}")
