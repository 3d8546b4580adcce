"""Station 2, store: a finished folder of shards as one sequence of samples, memory-mapped, in any order.

The tar files stay as they are; the index beside each says where an array's bytes lie, so that reading a sample parses
no tar and copies nothing.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
import json
import mmap
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from drdg.config import DsmConfig
from drdg.tiles.dsm import normalise, to_metres
from drdg.tiles.ground import GroundPatch, upsample
from drdg.tiles.writer import index_path, read_manifest

# A mapping holds a file open; this stays well below the usual limit of 1024 open files.
OPEN_SHARDS = 256


@dataclass(frozen=True)
class Sample:
    """One tile. Arrays are read-only views of the shard.

    ``image`` uint8 (H, W, 3); ``dsm_steps`` uint16 (H, W) or None; ``ground_steps`` uint16 (cells) or None; ``label``
    uint8 (H, W) class ids, 255 void, or None; ``meta``: TOP, window, CRS, transform, GSD, offsets.
    """

    key: str
    image: np.ndarray
    dsm_steps: np.ndarray | None
    ground_steps: np.ndarray | None
    label: np.ndarray | None
    meta: dict[str, Any]

    @property
    def dsm_m(self) -> np.ndarray | None:
        """Heights, float32 (H, W) metres, computed anew each time; None without a DSM."""
        return None if self.dsm_steps is None else to_metres(self.dsm_steps, self.meta["dsm_offset_m"])

    @property
    def ground_m(self) -> np.ndarray | None:
        """Ground under each pixel, float32 (H, W) metres, computed anew each time; None where it is unknown."""
        if self.ground_steps is None:
            return None
        cells = to_metres(self.ground_steps, self.meta["ground_offset_m"])
        row, col = self.meta["ground_origin_px"]
        return upsample(GroundPatch(cells, (row, col), self.meta["ground_cell_px"]), *self.image.shape[:2])


class ShardStore:
    """The samples of one folder, by number. May be pickled and forked; each process opens its own files.

    Raises ``ValueError`` when the folder is not finished, or a shard is missing, truncated or changed in size.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        manifest = read_manifest(self.folder)
        if manifest is None:
            raise ValueError(f"{folder}: is not a finished folder of shards; run shards/build.py to the end")
        self.manifest = manifest
        self._ends = list(itertools.accumulate(entry["samples"] for entry in self.manifest["shards"]))
        for entry in self.manifest["shards"]:
            self._require_size(entry)
        self._open: OrderedDict[int, tuple[mmap.mmap, list[dict[str, Any]]]] = OrderedDict()

    def __len__(self) -> int:
        return self._ends[-1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict()}

    @property
    def domain(self) -> dict[str, Any]:
        """What the samples are: archive, split, tile, stride, gsd_m, classes, palette, dsm, label."""
        return self.manifest["domain"]

    @property
    def has_dsm(self) -> bool:
        """Whether its samples have heights."""
        return bool(self.domain["dsm"])

    @property
    def has_ground(self) -> bool:
        """Whether its samples have a ground surface: they have heights and a known GSD."""
        return self.has_dsm and self.domain["gsd_m"] is not None

    @property
    def has_label(self) -> bool:
        """Whether its samples have labels."""
        return bool(self.domain["label"])

    def __getitem__(self, index: int) -> Sample:
        """Sample ``index`` of 0 to ``len - 1``; raises ``IndexError`` beyond."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        shard = bisect.bisect_right(self._ends, index)
        mapped, samples = self._shard(shard)
        entry = samples[index - (self._ends[shard - 1] if shard else 0)]
        members = entry["members"]
        meta = members["json"]
        return Sample(
            key=entry["key"],
            image=_view(mapped, members["image.npy"]),
            dsm_steps=_view(mapped, members["dsm.npy"]) if "dsm.npy" in members else None,
            ground_steps=_view(mapped, members["ground.npy"]) if "ground.npy" in members else None,
            label=_view(mapped, members["label.npy"]) if "label.npy" in members else None,
            meta=json.loads(mapped[meta["offset"] : meta["offset"] + meta["size"]]),
        )

    def require_rule(self, config: DsmConfig) -> None:
        """Raise ``ValueError`` unless its heights can be normalised by ``config.rule``."""
        name = self.domain["archive"]
        if not self.has_dsm:
            raise ValueError(
                f"archive {name} has no DSM but the configuration learns depth; set loss.depth_supervised=0 "
                "and loss.depth_cycle_consistency=0, or give the archive a DSM"
            )
        if config.rule == "height_above_ground" and not self.has_ground:
            raise ValueError(
                f"archive {name} has no georeference, so dsm.rule=height_above_ground cannot know the ground; "
                "put world files beside its TOPs or take dsm.rule=dataset"
            )

    def normalised_dsm(self, sample: Sample, config: DsmConfig) -> np.ndarray:
        """Heights of one of its samples as the networks' input, float32 (H, W); see :func:`require_rule`."""
        heights = sample.dsm_m
        assert heights is not None, "no DSM: call require_rule first"
        return normalise(
            heights,
            config,
            dataset_range_m=self.manifest["dsm_range_m"],
            top_range_m=self.manifest["tops"][sample.meta["top"]]["dsm_range_m"],
            ground_m=sample.ground_m if config.rule == "height_above_ground" else None,
        )

    def _shard(self, number: int) -> tuple[mmap.mmap, list[dict[str, Any]]]:
        if number not in self._open:
            entry = self.manifest["shards"][number]
            self._require_size(entry)
            path = self.folder / entry["file"]
            text = index_path(path).read_bytes() if index_path(path).is_file() else b""
            if hashlib.sha256(text).hexdigest() != entry["index_sha256"]:
                raise _changed(index_path(path), "its checksum is not the manifest's")
            with path.open("rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            if len(self._open) >= OPEN_SHARDS:
                self._open.popitem(last=False)  # closed when the last view of it is gone
            self._open[number] = (mapped, json.loads(text)["samples"])
        self._open.move_to_end(number)
        return self._open[number]

    def _require_size(self, entry: dict[str, Any]) -> None:
        path = self.folder / entry["file"]
        size = path.stat().st_size if path.is_file() else None
        if size != entry["bytes"]:
            found = "is missing" if size is None else f"has {size} bytes instead of {entry['bytes']}"
            raise _changed(path, f"it {found}")


def _changed(path: Path, how: str) -> ValueError:
    return ValueError(f"{path}: {how}; it was damaged after it was built, run the same build again to mend it")


def _view(mapped: mmap.mmap, place: dict[str, Any]) -> np.ndarray:
    shape = place["shape"]
    count = int(np.prod(shape))
    return np.frombuffer(mapped, dtype=place["dtype"], count=count, offset=place["data"]).reshape(shape)
