"""Station 2, build: an archive's tiles into shards, from the plan; a killed build goes on where it was."""

from __future__ import annotations

import json
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from drdg.config import DomainConfig, ShardsConfig
from drdg.datasets import open_archive
from drdg.files import write_json
from drdg.progress import progress
from drdg.tiles import ground
from drdg.tiles.dsm import STEP_M, to_steps
from drdg.tiles.plan import Plan, Tile, make_plan, slug
from drdg.tiles.raster import TopReader
from drdg.tiles.writer import (
    MANIFEST,
    discard_changed,
    finish,
    is_whole,
    read_manifest,
    shard_name,
    write_array,
    write_shard,
)

# Opening a TOP costs milliseconds and tiles come shuffled; three files each stay well below the usual limit of 1024.
OPEN_TOPS = 64
# Beside the shards: what one pass over each TOP's DSM found, so that a killed build need not pass again.
SURFACES = "surfaces"


def build_shards(domain: DomainConfig, shards: ShardsConfig, *, need_label: bool) -> Path:
    """Build the shards of ``domain`` under ``shards.root`` and return their folder; nothing is done twice.

    The folder is named by archive, split, tile, stride and the plan's digest, and is finished when it has its
    manifest. Labels are written only when ``need_label``. Raises ``ValueError`` with one sentence when the archive
    or a file of it cannot be used (see :func:`drdg.tiles.plan.make_plan`) or the folder cannot be written.
    """
    plan = make_plan(open_archive(domain.archive), domain, shards, need_label=need_label)
    folder = shards.root / plan.name
    try:
        if not is_finished(folder, plan.digest):
            folder.mkdir(parents=True, exist_ok=True)
            _build(plan, folder)
    except OSError as error:
        raise ValueError(
            f"{folder}: cannot be written ({error.strerror or error}); make room there or set shards.root elsewhere, "
            "then start again: what is whole is kept"
        ) from error
    return folder


def find_shards(domain: DomainConfig, shards: ShardsConfig, *, need_label: bool) -> Path:
    """The folder that :func:`build_shards` has built for the same arguments; nothing is written.

    Raises ``ValueError`` when it is not finished.
    """
    plan = make_plan(open_archive(domain.archive), domain, shards, need_label=need_label)
    folder = shards.root / plan.name
    if _manifest_of(folder, plan.digest) is None:
        raise ValueError(f"{folder}: these shards are not built; run shards/build.py with this configuration first")
    return folder


def is_finished(folder: Path, digest: str) -> bool:
    """Whether ``folder`` holds all shards of the plan with this digest; ``ValueError`` if it is another plan's.

    Shards that were damaged since are forgotten, so that building again mends them.
    """
    manifest = _manifest_of(folder, digest)
    if manifest is None:
        return False
    discard_changed(folder)
    return all(is_whole(folder / entry["file"], digest) for entry in manifest["shards"])


def _manifest_of(folder: Path, digest: str) -> dict[str, Any] | None:
    manifest = read_manifest(folder)
    if manifest is not None and manifest["plan"] != digest:
        raise ValueError(f"{folder / MANIFEST}: is the manifest of another plan; remove the folder and build again")
    return manifest


def _build(plan: Plan, folder: Path) -> None:
    if plan.with_dsm:
        (folder / SURFACES).mkdir(exist_ok=True)
        for number in progress(range(len(plan.tops)), f"{plan.archive.name}: surfaces"):
            survey_top(plan, number, folder)
    todo = [number for number in range(len(plan.shards)) if not is_whole(folder / shard_name(number), plan.digest)]
    done = len(plan.shards) - len(todo)
    with OpenTops(plan) as tops:
        for number in progress(todo, f"{plan.archive.name}: shards", total=len(plan.shards), start=done):
            build_shard(plan, number, folder, tops)
    finish(folder, [shard_name(number) for number in range(len(plan.shards))], plan.digest, _describe(plan, folder))


def survey_top(plan: Plan, number: int, folder: Path) -> None:
    """Find range and ground of one TOP's DSM and keep them in ``folder``, unless they are there."""
    stem = _surface_stem(plan, number, folder)
    if stem.with_suffix(".json").is_file():
        return
    with TopReader(plan.archive, plan.tops[number]) as reader:
        surface = ground.survey(reader)
    if surface.ground_m is not None:
        write_array(stem.with_suffix(".npy"), surface.ground_m)
    values = {
        "range_m": [surface.low_m, surface.high_m],
        "cell_px": surface.cell_px,
        "ground": surface.ground_m is not None,
    }
    write_json(stem.with_suffix(".json"), values)


def build_shard(plan: Plan, number: int, folder: Path, tops: OpenTops) -> None:
    """Write one shard of the plan; the surfaces of its TOPs must be there."""
    samples = (_sample(plan, tile, folder, tops) for tile in plan.shards[number])
    write_shard(folder / shard_name(number), samples, plan.digest)


class OpenTops:
    """The readers and grounds of the last used TOPs; a context manager that closes them."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._open: OrderedDict[int, tuple[TopReader, ground.Surface | None]] = OrderedDict()

    def __enter__(self) -> OpenTops:
        return self

    def __exit__(self, *_: object) -> None:
        while self._open:
            self._close_oldest()

    def get(self, number: int, folder: Path) -> tuple[TopReader, ground.Surface | None]:
        """Reader and surface of a TOP, opened now if it is not open; the surface is None without a DSM."""
        if number not in self._open:
            if len(self._open) >= OPEN_TOPS:
                self._close_oldest()
            reader = TopReader(self.plan.archive, self.plan.tops[number])
            self._open[number] = (reader, _load_surface(self.plan, number, folder) if self.plan.with_dsm else None)
        self._open.move_to_end(number)
        return self._open[number]

    def _close_oldest(self) -> None:
        _, (reader, _) = self._open.popitem(last=False)
        reader.close()


def _surface_stem(plan: Plan, number: int, folder: Path) -> Path:
    return folder / SURFACES / f"{number:05d}-{slug(plan.tops[number].id)}"


def _load_surface(plan: Plan, number: int, folder: Path) -> ground.Surface:
    stem = _surface_stem(plan, number, folder)
    values = json.loads(stem.with_suffix(".json").read_bytes())
    cells = np.load(stem.with_suffix(".npy")) if values["ground"] else None
    low, high = values["range_m"]
    return ground.Surface(low, high, cells, values["cell_px"])


def _sample(plan: Plan, tile: Tile, folder: Path, tops: OpenTops) -> dict[str, Any]:
    reader, surface = tops.get(tile.top, folder)
    window = tile.window
    meta: dict[str, Any] = {
        "top": reader.top.id,
        "window": [window.row, window.col, window.height, window.width],
        "crs": reader.crs,
        "transform": reader.window_transform(window),
        "gsd_m": reader.gsd_m,
    }
    sample = {"__key__": tile.key, "json": meta, "image.npy": reader.read_image(window)}
    if surface is not None:
        where = f"{reader.top.dsm} ({window})"
        sample["dsm.npy"], offset = to_steps(reader.read_dsm(window), where)
        meta |= {"dsm_offset_m": offset, "dsm_step_m": STEP_M}
        if surface.ground_m is not None:
            patch = ground.crop(surface.ground_m, surface.cell_px, window)
            sample["ground.npy"], offset = to_steps(patch.ground_m, where)
            meta |= {
                "ground_offset_m": offset,
                "ground_step_m": STEP_M,
                "ground_cell_px": patch.cell_px,
                "ground_origin_px": patch.origin_px,
            }
    if plan.with_label:
        sample["label.npy"] = reader.read_label(window)
    return sample


def _describe(plan: Plan, folder: Path) -> dict[str, Any]:
    tiles = Counter(tile.top for shard in plan.shards for tile in shard)
    tops: dict[str, Any] = {}
    for number, top in enumerate(plan.planned):
        tops[top.id] = {
            "height": top.height,
            "width": top.width,
            "gsd_m": top.gsd_m,
            "crs": top.crs,
            "transform": top.transform,
            "tiles": tiles[number],
        }
        if plan.with_dsm:
            surface = json.loads(_surface_stem(plan, number, folder).with_suffix(".json").read_bytes())
            tops[top.id]["dsm_range_m"] = surface["range_m"]
    ranges = [top["dsm_range_m"] for top in tops.values() if "dsm_range_m" in top]
    whole = [min(low for low, _ in ranges), max(high for _, high in ranges)] if ranges else None
    return {"domain": plan.describe(), "tops": tops, "dsm_range_m": whole}
