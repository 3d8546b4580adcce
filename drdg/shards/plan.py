"""Station 2, plan: which window of which TOP becomes which sample of which shard.

A pure function of configuration and archive, so that any number of processes can build from it, a killed build can go
on, and a rebuilt shard has the same bytes.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from drdg.config import DomainConfig, ShardsConfig, digest
from drdg.datasets.base import Archive, Top
from drdg.shards.codec import Codec
from drdg.shards.threads import in_order
from drdg.tiles.order import permutation
from drdg.tiles.raster import TopReader
from drdg.tiles.windows import Window, grid

# Part of every digest: raise it when the same plan would give other bytes.
FORMAT = 2
# Two TOPs whose GSD differs by more than this are not one domain; less is rounding in world files.
GSD_TOLERANCE = 0.01
# A file is known by its size and this many blocks, so that 10 GB need not be read to see that it is another file. A few
# pixels painted over in a file without compression can escape that; the README says what to do then.
FINGERPRINT_BLOCKS, FINGERPRINT_BLOCK_BYTES = 64, 4096
# Files are looked at by this many threads, because what takes time is their file system's answer.
READERS = 8
# Leaves room for the numbers around it in the 100 characters that a tar header has for a name.
LONGEST_SLUG = 48


@dataclass(frozen=True)
class PlannedTop:
    """What the plan knows of a TOP; ``files`` are the fingerprints of image, DSM and label."""

    id: str
    height: int
    width: int
    gsd_m: float | None
    crs: str | None
    transform: tuple[float, ...]
    files: tuple[str | None, ...]


@dataclass(frozen=True)
class Tile:
    """One sample to be: its key in the shard, its TOP's place in the plan, its window."""

    key: str
    top: int
    window: Window


@dataclass(frozen=True)
class Plan:
    """The whole work of one build."""

    archive: Archive
    domain: DomainConfig
    tops: tuple[Top, ...]
    planned: tuple[PlannedTop, ...]
    shards: tuple[tuple[Tile, ...], ...]
    with_dsm: bool
    with_label: bool
    codec: Codec
    digest: str

    @property
    def name(self) -> str:
        """Name of the shards' folder."""
        domain = self.domain
        return f"{self.archive.name}-{domain.split}-{domain.tile}-{domain.stride}-{self.digest[:8]}"

    @property
    def gsd_m(self) -> float | None:
        """Metres per pixel, of the first TOP; the others differ by less than ``GSD_TOLERANCE``."""
        return self.planned[0].gsd_m

    @property
    def num_tiles(self) -> int:
        """Number of samples."""
        return sum(len(tiles) for tiles in self.shards)

    @property
    def num_bytes(self) -> int:
        """Bytes of all arrays but the small ground ones: 3 a pixel for the image, 2 for the DSM, 1 for the label."""
        return self.num_tiles * self.domain.tile**2 * (3 + 2 * self.with_dsm + self.with_label)

    def describe(self) -> dict[str, Any]:
        """The domain in plain values, for the manifest."""
        return {
            "archive": self.archive.name,
            "split": self.domain.split,
            "tile": self.domain.tile,
            "stride": self.domain.stride,
            "edge": self.domain.edge,
            "gsd_m": self.gsd_m,
            "classes": list(self.archive.classes),
            "palette": [list(colour) for colour in self.archive.palette],
            "dsm": self.with_dsm,
            "label": self.with_label,
            "codec": self.codec.name,
        }


def make_plan(archive: Archive, domain: DomainConfig, shards: ShardsConfig, *, need_label: bool) -> Plan:
    """Open every TOP of the domain's split once and lay its windows out over the shards in a seeded global shuffle.

    Labels are planned only when ``need_label``, so that the shards of a target do not hold what nobody may read.
    Raises ``ValueError`` when a TOP cannot be used, has no label though one is needed, holds no window, or has another
    GSD than the first.
    """
    tops = archive.split(domain.split, need_label=need_label)
    with_dsm = tops[0].dsm is not None
    assert all((top.dsm is not None) == with_dsm for top in tops), f"{archive.name}: only some TOPs have a DSM"
    planned: list[PlannedTop] = []
    windows: list[tuple[int, Window]] = []
    fingerprints = in_order([partial(_fingerprints, top, need_label) for top in tops], READERS)
    for number, top in enumerate(tops):
        with TopReader(archive, top) as reader:
            here = grid(reader.height, reader.width, domain.tile, domain.stride, domain.edge)
            if not here:
                raise ValueError(
                    f"{top.image}: no window of tile={domain.tile} fits into its {reader.height} x {reader.width} "
                    "pixels; take a smaller tile or leave this TOP out of the split"
                )
            files = next(fingerprints)
            planned.append(
                PlannedTop(top.id, reader.height, reader.width, reader.gsd_m, reader.crs, reader.transform, files)
            )
        windows.extend((number, window) for window in here)
    _require_one_gsd(tops, planned)
    name = _digest(archive, domain, shards, planned, need_label)
    order = permutation(len(windows), "plan", shards.seed)
    tiles = [
        Tile(f"{place:07d}-{slug(tops[number].id)}-{window.row}-{window.col}", number, window)
        for place, (number, window) in enumerate(windows[index] for index in order)
    ]
    size = shards.samples_per_shard
    cut = tuple(tuple(tiles[start : start + size]) for start in range(0, len(tiles), size))
    codec = Codec(shards.codec, shards.zstd_level)
    return Plan(archive, domain, tops, tuple(planned), cut, with_dsm, need_label, codec, name)


def _fingerprints(top: Top, need_label: bool) -> tuple[str | None, str | None, str | None]:
    return fingerprint(top.image), fingerprint(top.dsm), fingerprint(top.label if need_label else None)


def refuse_changed(plan: Plan, number: int) -> None:
    """Raise ``ValueError`` when a file of a TOP is not the one that the plan was made of."""
    top = plan.tops[number]
    found = _fingerprints(top, plan.with_label)
    for path, before, now in zip((top.image, top.dsm, top.label), plan.planned[number].files, found, strict=True):
        if before != now:
            raise ValueError(f"{path}: was changed while shards were built from it; start again when it is complete")


def slug(name: str) -> str:
    """A TOP's id as part of a file name; a WebDataset key ends at its first dot."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", name)[:LONGEST_SLUG]


def _digest(
    archive: Archive, domain: DomainConfig, shards: ShardsConfig, planned: list[PlannedTop], need_label: bool
) -> str:
    return digest(
        {
            "format": FORMAT,
            "archive": archive.name,
            "bands": archive.bands,
            "classes": archive.classes,
            "palette": archive.palette,
            "domain": domain,
            "samples_per_shard": shards.samples_per_shard,
            "seed": shards.seed,
            "codec": [shards.codec, shards.zstd_level if shards.codec == "zstd" else None],
            "label": need_label,
            "tops": [asdict(top) for top in planned],
        },
        ignore=("root", "domain.shards"),
    )


def _require_one_gsd(tops: tuple[Top, ...], planned: list[PlannedTop]) -> None:
    first = planned[0].gsd_m
    for top, other in zip(tops, planned, strict=True):
        here = other.gsd_m
        if here == first or (first and here and abs(here - first) <= GSD_TOLERANCE * first):
            continue
        raise ValueError(
            f"{top.image}: its GSD is {_metres(here)} but that of {tops[0].image} is {_metres(first)}; "
            "one domain has one GSD, so resample it or put it into another archive"
        )


def _metres(gsd_m: float | None) -> str:
    return "unknown (no georeference)" if gsd_m is None else f"{gsd_m:.4g} m"


def fingerprint(path: Path | None) -> str | None:
    """What a file is known by, None for no file: 16 hex digits of its size and a few of its blocks."""
    if path is None:
        return None
    size = path.stat().st_size
    seen = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for block in range(FINGERPRINT_BLOCKS):
            file.seek(block * max(0, size - FINGERPRINT_BLOCK_BYTES) // (FINGERPRINT_BLOCKS - 1))
            seen.update(file.read(FINGERPRINT_BLOCK_BYTES))
    return seen.hexdigest()[:16]
