"""Station 2, unpack: each TOP read once, from its first row to its last, into plain arrays that tiles are cut from.

Tiles overlap and are spread over the shards, so cutting them from the archive's files would decode every pixel several
times. The arrays lie in the shards' folder while it is built: image uint8 (H, W, 3), DSM int32 (H, W) centimetres,
label uint8 (H, W) class ids. What the pass finds of the heights (:class:`drdg.tiles.ground.Surface`) stays.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import xxhash

from drdg.files import whole_file, write_json, xxh128
from drdg.shards.codec import npy_header
from drdg.shards.crew import ALONE, Crew
from drdg.shards.plan import Plan, refuse_changed, slug
from drdg.shards.threads import at_once
from drdg.shards.writer import write_array
from drdg.tiles import ground
from drdg.tiles.dsm import whole_steps
from drdg.tiles.raster import TopReader, block_cache
from drdg.tiles.windows import Window

# Beside the shards while they are built.
SCRATCH = "scratch"
# Beside the shards for good: range and ground of each TOP's heights, so that a shard can be rebuilt by itself.
SURFACES = "surfaces"
# Rows read at once: those of a 6000 pixel wide TOP are some 50 MB as they are read and worked on, however tall it is.
BAND_ROWS, BAND_PIXELS = 512, 512 * 6000
# Blocks that GDAL keeps, in rows of blocks: bands end within a block, and each block is to be decoded once. By default
# they would grow to 5 % of all memory. (GDAL's GTIFF_DIRECT_IO would read uncompressed files at three times the rate,
# but takes a file cut short for a whole one.)
ROWS_OF_BLOCKS, LEAST_CACHE_BYTES = 1.5, 16 << 20


@dataclass(frozen=True)
class UnpackedTop:
    """One TOP's pixels, mapped from disk; ``steps``, ``label`` and ``surface`` are None without DSM or label."""

    image: np.ndarray
    steps: np.ndarray | None
    label: np.ndarray | None
    surface: ground.Surface | None


def unpack_top(plan: Plan, number: int, folder: Path, crew: Crew = ALONE) -> None:
    """Read one TOP of the plan into ``folder``, unless it is there whole; its layers at once if there are the cores.

    Raises ``ValueError`` when a file of it cannot be read, has gaps, or is no longer the one that was planned.
    """
    record = _stem(plan, number, folder / SCRATCH).with_suffix(".json")
    if has_surface(plan, number, folder) and _is_unpacked(record, crew.poll):
        return
    with ExitStack() as files:
        reader = files.enter_context(TopReader(plan.archive, plan.tops[number]))
        cache = max(LEAST_CACHE_BYTES, int(ROWS_OF_BLOCKS * reader.row_of_blocks_bytes))
        files.enter_context(block_cache(cache))
        survey = ground.Survey(reader.gsd_m)
        bands = list(reader.row_bands(_band_rows(reader.width, survey.cell_px)))
        arrays = {
            name: files.enter_context(_Array(record.with_suffix(f".{name}.npy"), shape, dtype))
            for name, (shape, dtype) in _layers(plan, reader).items()
        }

        def unpack_layer(name: str) -> Iterator[None]:
            for band in bands:
                arrays[name].append(_read_layer(reader, name, band, survey))
                yield

        at_once([unpack_layer(name) for name in arrays], crew.cores, crew.poll)
    refuse_changed(plan, number)
    if plan.with_dsm:
        _save_surface(plan, number, folder, survey.surface())
    digests = {array.path.name: array.hash.hexdigest() for array in arrays.values()}
    write_json(record, digests)


def _read_layer(reader: TopReader, name: str, band: Window, survey: ground.Survey) -> np.ndarray:
    """A band of rows of one layer as it is kept; heights are shown to the ``survey`` on the way."""
    if name == "image":
        return reader.read_image(band)
    if name == "label":
        return reader.read_label(band)
    heights = reader.read_dsm(band)
    survey.see(heights)
    return whole_steps(heights)


def has_surface(plan: Plan, number: int, folder: Path) -> bool:
    """Whether what is to be kept of a TOP's heights is there and can be read."""
    try:
        if plan.with_dsm:
            _load_surface(plan, number, folder)
    except (OSError, EOFError, ValueError, KeyError, TypeError):  # not there, or no more what was written
        return False
    return True


def unsurveyed(plan: Plan, folder: Path) -> set[int]:
    """The TOPs of which nothing is known in ``folder``, by a listing of it (see ``drdg.shards.build``)."""
    if not plan.with_dsm:
        return set()
    there = {path.name for path in (folder / SURFACES).iterdir()} if (folder / SURFACES).is_dir() else set()
    stems = (_stem(plan, number, folder) for number in range(len(plan.tops)))
    return {number for number, stem in enumerate(stems) if f"{stem.name}.json" not in there}


def height_range_m(plan: Plan, number: int, folder: Path) -> list[float]:
    """Lowest and highest height of a TOP that has been unpacked, in metres."""
    low, high = json.loads(_stem(plan, number, folder / SURFACES).with_suffix(".json").read_bytes())["range_m"]
    return [low, high]


class UnpackedTops:
    """The unpacked TOPs of a plan by number.

    Only one stays mapped: what has been read of a mapping counts as memory of the process, which is not to grow with
    the archive. Tiles come shuffled, so that with several TOPs nearly every tile maps one anew: a millisecond of five.
    """

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.plan, self.folder = plan, folder
        self._last: tuple[int, UnpackedTop] | None = None

    def __getitem__(self, number: int) -> UnpackedTop:
        """One TOP, which must have been unpacked."""
        if self._last is None or self._last[0] != number:
            self._last = number, self._map(number)
        return self._last[1]

    def _map(self, number: int) -> UnpackedTop:
        record = _stem(self.plan, number, self.folder / SCRATCH)

        def layer(name: str) -> np.ndarray:
            return np.load(record.with_suffix(f".{name}.npy"), mmap_mode="r")

        with_dsm = self.plan.with_dsm
        return UnpackedTop(
            layer("image"),
            layer("dsm") if with_dsm else None,
            layer("label") if self.plan.with_label else None,
            _load_surface(self.plan, number, self.folder) if with_dsm else None,
        )


class _Array:
    """An array file that grows by bands of rows; a context manager, whole or not there.

    It need not outlast a power cut, so the disk is not waited for; its hash tells whether it has.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: type) -> None:
        self.path, self.shape, self.dtype = path, shape, dtype
        self.hash = xxhash.xxh3_128()
        self._stack = ExitStack()
        self._file: IO[bytes]

    def __enter__(self) -> _Array:
        self._file = self._stack.enter_context(whole_file(self.path, durable=False))
        self._write(npy_header(self.shape, np.dtype(self.dtype)))
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def append(self, rows: np.ndarray) -> None:
        self._write(np.ascontiguousarray(rows, dtype=self.dtype).data.cast("B"))

    def _write(self, data: bytes | memoryview) -> None:
        self.hash.update(data)
        self._file.write(data)


def _layers(plan: Plan, reader: TopReader) -> dict[str, tuple[tuple[int, ...], type]]:
    """Shape and dtype of what is unpacked."""
    size = (reader.height, reader.width)
    layers: dict[str, tuple[tuple[int, ...], type]] = {"image": ((*size, len(plan.archive.bands)), np.uint8)}
    if plan.with_dsm:
        layers["dsm"] = (size, np.int32)
    if plan.with_label:
        layers["label"] = (size, np.uint8)
    return layers


def _band_rows(width: int, cell_px: int) -> int:
    rows = min(BAND_ROWS, BAND_PIXELS // width)
    return max(1, rows // cell_px) * cell_px


def _is_unpacked(record: Path, poll: Callable[[], None]) -> bool:
    """Whether the arrays of an interrupted build are there, as they were written."""
    try:
        digests = json.loads(record.read_bytes())
        return all(xxh128(record.with_name(name), poll) == digest for name, digest in digests.items())
    except (FileNotFoundError, ValueError, AttributeError):  # not there, or a record that is none
        return False


def _stem(plan: Plan, number: int, folder: Path) -> Path:
    return folder / f"{number:05d}-{slug(plan.tops[number].id)}"


def _save_surface(plan: Plan, number: int, folder: Path, surface: ground.Surface) -> None:
    stem = _stem(plan, number, folder / SURFACES)
    if surface.ground_m is not None:
        write_array(stem.with_suffix(".npy"), surface.ground_m)
    values = {
        "range_m": [surface.low_m, surface.high_m],
        "cell_px": surface.cell_px,
        "ground": surface.ground_m is not None,
    }
    write_json(stem.with_suffix(".json"), values)


def _load_surface(plan: Plan, number: int, folder: Path) -> ground.Surface:
    stem = _stem(plan, number, folder / SURFACES)
    values = json.loads(stem.with_suffix(".json").read_bytes())
    cells = np.load(stem.with_suffix(".npy"), mmap_mode="r") if values["ground"] else None
    low, high = values["range_m"]
    return ground.Surface(low, high, cells, values["cell_px"])
