"""Station 2, store: a finished place of shards as one sequence of samples, memory-mapped, in any order.

The tar files stay as they are; the index beside each says where an array's bytes lie, so that reading a sample parses
no tar, and of an array that is not compressed nothing is copied. The separate ``wids`` package also reads tars by
number, but finds the members by walking each tar anew in every process, decodes each into a copy, and always the whole
sample; nor does it know a tar that was cut off from a whole one before it has read it.
"""

from __future__ import annotations

import bisect
import itertools
import json
import mmap
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from drdg.config import DsmConfig
from drdg.shards.codec import read_array, read_into
from drdg.shards.location import Location
from drdg.tiles.dsm import normalise, scaling, to_metres
from drdg.tiles.ground import GroundPatch, upsample

# A mapping holds a file open; this stays well below the usual limit of 1024 open files.
OPEN_SHARDS = 256


class Sample:
    """One tile; its arrays are read when they are first asked for, and are read-only.

    ``key``: its name. ``image`` uint8 (H, W, 3); ``dsm_steps`` uint16 (H, W) or None; ``ground_steps`` uint16 (cells)
    or None; ``label`` uint8 (H, W) class ids, 255 void, or None: views of the shard where it is not compressed.
    ``meta``: TOP, window, CRS, transform, GSD, offsets; not to be changed, as it is read once and kept for the next to
    ask. Raises ``ValueError`` when what is asked for is damaged.
    """

    def __init__(self, path: Path, entry: dict[str, Any], mapped: mmap.mmap) -> None:
        self.key: str = entry["key"]
        self._path, self._entry, self._mapped = path, entry, mapped

    def read(self, name: str) -> np.ndarray:
        """The array ``name``: ``image.npy``, ``dsm.npy``, ``ground.npy`` or ``label.npy``, read anew."""
        try:
            return read_array(self._mapped, self._entry["members"][name])
        except ValueError as error:
            raise self._damaged(name, error) from error

    def read_into(self, name: str, out: np.ndarray) -> None:
        """Write the array ``name`` straight into ``out``, which has its shape and dtype."""
        try:
            read_into(self._mapped, self._entry["members"][name], out)
        except ValueError as error:
            raise self._damaged(name, error) from error

    def copy(self, name: str, out: np.ndarray) -> Callable[[], None]:
        """What writes the array ``name`` into ``out`` as :meth:`read_into` does, with all but the work done now."""
        if "data" in self._entry["members"][name]:
            return partial(np.copyto, out, self.read(name))
        return partial(self.read_into, name, out)

    @cached_property
    def image(self) -> np.ndarray:
        """The TOP's pixels."""
        return self.read("image.npy")

    @cached_property
    def dsm_steps(self) -> np.ndarray | None:
        """Heights in centimetres above ``meta["dsm_offset_m"]``."""
        return self._optional("dsm.npy")

    @cached_property
    def ground_steps(self) -> np.ndarray | None:
        """The ground at the centres of cells, in centimetres above ``meta["ground_offset_m"]``."""
        return self._optional("ground.npy")

    @cached_property
    def label(self) -> np.ndarray | None:
        """Class ids."""
        return self._optional("label.npy")

    @property
    def meta(self) -> dict[str, Any]:
        """All but the arrays."""
        meta = self._entry.get("meta")
        if meta is None:
            place = self._entry["members"]["json"]
            text = self._mapped[place["offset"] : place["offset"] + place["size"]]
            meta = self._entry["meta"] = json.loads(text)
        return meta

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

    def _optional(self, name: str) -> np.ndarray | None:
        return self.read(name) if name in self._entry["members"] else None

    def _damaged(self, name: str, error: ValueError) -> ValueError:
        return ValueError(
            f"{self._path}: {name} of sample {self.key} cannot be read ({error}); it was damaged after it was built, "
            "run the same build again to mend it"
        )


@dataclass(frozen=True)
class _Shard:
    """What is remembered of a shard once it was open: its file, and of each sample what the index says."""

    path: Path
    samples: list[dict[str, Any]]


class ShardStore:
    """The samples of one folder or other :class:`Location`, by number.

    May be used by several threads at once. May be pickled and forked; each process opens its own files. Raises
    ``ValueError`` when the shards are not finished, or one is missing, truncated or changed in size.
    """

    def __init__(self, place: Path | str | Location) -> None:
        self.location = place if isinstance(place, Location) else Location(place)
        self.manifest = self.location.manifest()
        for entry in self.manifest["shards"]:
            self.location.check(entry)
        self._ends = list(itertools.accumulate(entry["samples"] for entry in self.manifest["shards"]))
        self._forget()

    def _forget(self) -> None:
        # Indices stay when mappings go: 3 kB a sample, 5 with its meta, and to parse one again takes as long as to copy
        # the sample.
        self._shards: dict[int, _Shard] = {}
        self._mapped: OrderedDict[int, mmap.mmap] = OrderedDict()
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_shards", "_mapped", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def __len__(self) -> int:
        return self._ends[-1]

    @property
    def name(self) -> str:
        """The place it reads, as a person gave it."""
        return self.location.name

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
        if not 0 <= index < self._ends[-1]:
            raise IndexError(index)
        number = bisect.bisect_right(self._ends, index)
        with self._lock:
            mapped = self._mapped.get(number)
            if mapped is not None:
                self._mapped.move_to_end(number)
        if mapped is None:
            mapped = self._open(number)
        shard = self._shards[number]
        return Sample(shard.path, shard.samples[index - self._ends[number]], mapped)

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

    def dsm_scaling(self, sample: Sample, config: DsmConfig) -> tuple[float, float, float]:
        """The numbers that make the heights of one of its samples the networks' input; see :func:`require_rule`.

        They are the metres of its step 0, the metres that become 0 (beside the ground, if the rule takes that), and
        the factor of what is above.
        """
        meta = sample.meta
        top_range_m = self.manifest["tops"][meta["top"]]["dsm_range_m"]
        return meta["dsm_offset_m"], *scaling(config, self.manifest["dsm_range_m"], top_range_m)

    def _open(self, number: int) -> mmap.mmap:
        """Map a shard. Not under the lock: who waits for a download must not hold up who reads other shards."""
        entry = self.manifest["shards"][number]
        shard = self._shards.get(number)
        if shard is not None and shard.path.is_file():
            self.location.check(entry)
        else:
            path, index = self.location.fetch(entry)
            shard = _Shard(path, index["samples"])
        with shard.path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        with self._lock:
            self._shards[number] = shard
            self._mapped[number] = mapped
            if len(self._mapped) > OPEN_SHARDS:
                self._mapped.popitem(last=False)  # closed when the last view of it is gone
        return mapped
