"""Station 2, inventory: what a folder of shards is to hold, by its plan, by its manifest, or by both held together."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from drdg.datasets.base import VOID
from drdg.files import is_sealed
from drdg.shards.plan import Plan
from drdg.shards.writer import MANIFEST, index_path, shard_name
from drdg.tiles.windows import grid
from drdg.verify.audit import Expected, words
from drdg.verify.checks import HEIGHT_SLACK_M, Rules
from drdg.verify.forms import Domain, Manifest, TopFacts, read_form
from drdg.verify.members import UNREADABLE
from drdg.verify.tally import Tally

OURS = re.compile(r"shard-[0-9]+\.(tar|index\.json)")


@dataclass(frozen=True)
class Inventory:
    """What is known of a folder before its shards are opened."""

    manifest: Manifest | None
    """None when there is none that can be believed."""
    rules: Rules | None
    """None when neither plan nor manifest says what the samples are."""
    shards: tuple[Expected, ...]
    extra: tuple[str, ...]
    """Names of files that look like shards of this folder and are none."""
    problems: tuple[str, ...]
    """What is wrong with the manifest."""


def take_inventory(folder: Path, plan: Plan | None) -> Inventory:
    """Look at the manifest and the names of the files; raises ``ValueError`` when ``folder`` holds no shards at all."""
    there = sorted(path.name for path in folder.glob("shard-*") if OURS.fullmatch(path.name))
    if not there and not (folder / MANIFEST).exists():
        raise ValueError(
            f"{folder}: holds no shards; name the folder that shards/build.py or launch/translate.py has printed"
            if plan is None
            else f"{folder}: these shards are not built; run shards/build.py with this configuration first"
        )
    problems: list[str] = []
    manifest = None
    try:
        manifest = _read_manifest(folder / MANIFEST)
        problems.extend(_disagreements(manifest, plan))
        if plan is not None and manifest.plan != plan.digest:
            manifest = None
    except FileNotFoundError:
        problems.append("is missing: the build has not come to its end")
    except UNREADABLE as error:
        problems.append(words(error))
    shards = _expected_shards(plan, manifest, [name for name in there if name.endswith(".tar")])
    names = {name for shard in shards for name in (shard.name, index_path(Path(shard.name)).name)}
    extra = tuple(name for name in there if name not in names)
    return Inventory(manifest, _rules(plan, manifest), shards, extra, tuple(problems))


def check_totals(manifest: Manifest, tally: Tally, plan: Plan | None) -> Iterator[str]:
    """Yield where the manifest says otherwise than all its shards, none of which is damaged, counted together."""
    if manifest.samples != tally.samples:
        yield f"says {manifest.samples} samples but there are {tally.samples}"
    classes = manifest.domain.classes
    pixels = {name: int(count) for name, count in zip(classes, tally.label_pixels, strict=False)}
    if (dict(manifest.class_pixels), manifest.void_pixels) != (pixels, int(tally.label_pixels[VOID])):
        yield "says other pixels of the classes than the labels have"
    tiles = Counter(top for top, _ in tally.windows.elements())
    for name, top in manifest.tops.items():
        if top.tiles != tiles[name]:
            yield f"says {top.tiles} tiles of TOP {name} but there are {tiles[name]}"
    if plan is None:
        yield from _check_grid(manifest, tally)
    yield from _check_ranges(manifest, tally)


def _read_manifest(path: Path) -> Manifest:
    """The manifest, if every byte of it is as it was written; ``ValueError`` with a few words if not."""
    text = path.read_bytes()
    try:
        manifest = read_form(Manifest, text)
    except ValueError as error:
        raise ValueError(f"is no manifest of shards ({error})") from error
    if not is_sealed(text):
        raise ValueError("its own checksum is wrong: it was changed after it was written")
    return manifest


def _disagreements(manifest: Manifest, plan: Plan | None) -> Iterator[str]:
    """Yield where the manifest contradicts the plan or itself."""
    if plan is not None and manifest.plan != plan.digest:
        yield f"is the manifest of plan {manifest.plan}, not of {plan.digest}"
        return
    if plan is not None:
        if manifest.domain != _domain_of(plan):
            yield "describes another domain than the plan"
        ranges = {name: top.dsm_range_m for name, top in manifest.tops.items()}
        if dict(manifest.tops) != _tops_of(plan, ranges):
            yield "has other TOPs than the plan"
        names = [shard_name(number) for number in range(len(plan.shards))]
        if [entry.file for entry in manifest.shards] != names:
            yield f"lists {len(manifest.shards)} shards, which are not the {len(names)} of the plan"
    if manifest.samples != sum(entry.samples for entry in manifest.shards):
        yield "says another number of samples than its shards together"
    if tuple(manifest.class_pixels) != manifest.domain.classes:
        yield "counts pixels of other classes than its domain's"
    ranges_m = [top.dsm_range_m for top in manifest.tops.values()] if manifest.domain.dsm else []
    known = [range_m for range_m in ranges_m if range_m is not None]
    hull = (min(low for low, _ in known), max(high for _, high in known)) if known else None
    if len(known) != len(ranges_m) or manifest.dsm_range_m != hull:
        yield f"says heights of {manifest.dsm_range_m} m but its TOPs have {hull}"


def _expected_shards(plan: Plan | None, manifest: Manifest | None, there: list[str]) -> tuple[Expected, ...]:
    entries = {entry.file: entry for entry in manifest.shards} if manifest else {}
    if plan is not None:
        return tuple(
            Expected(
                number,
                shard_name(number),
                plan.digest,
                plan.codec.name,
                entries.get(shard_name(number)),
                {tile.key: (plan.planned[tile.top].id, tile.window) for tile in tiles},
                None,
            )
            for number, tiles in enumerate(plan.shards)
        )
    if manifest is None:
        return tuple(Expected(number, name, None, None, None, None, None) for number, name in enumerate(there))
    firsts = itertools.accumulate((entry.samples for entry in manifest.shards), initial=0)
    return tuple(
        Expected(number, entry.file, manifest.plan, manifest.domain.codec, entry, None, first)
        for number, (entry, first) in enumerate(zip(manifest.shards, firsts, strict=False))
    )


def _rules(plan: Plan | None, manifest: Manifest | None) -> Rules | None:
    if plan is None:
        return None if manifest is None else Rules(manifest.domain, manifest.tops)
    ranges = {name: top.dsm_range_m for name, top in manifest.tops.items()} if manifest else {}
    return Rules(_domain_of(plan), _tops_of(plan, ranges))


def _domain_of(plan: Plan) -> Domain:
    return read_form(Domain, json.dumps(plan.describe()).encode())


def _tops_of(plan: Plan, ranges: dict[str, tuple[float, float] | None]) -> dict[str, TopFacts]:
    tiles = Counter(tile.top for shard in plan.shards for tile in shard)
    return {
        top.id: TopFacts(
            height=top.height,
            width=top.width,
            gsd_m=top.gsd_m,
            crs=top.crs,
            transform=top.transform,  # type: ignore[arg-type]  # six numbers, by its docstring
            tiles=tiles[number],
            dsm_range_m=ranges.get(top.id),
        )
        for number, top in enumerate(plan.planned)
    }


def _check_grid(manifest: Manifest, tally: Tally) -> Iterator[str]:
    """Yield what is not the grid of windows that the domain's tile, stride and edge make of each TOP, once each."""
    side, *others = {window.height for _, window in tally.windows}
    if others:
        yield f"has windows with sides of {sorted([side, *others])} pixels"
        return
    domain = manifest.domain
    planned = {
        (name, window)
        for name, top in manifest.tops.items()
        for window in grid(top.height, top.width, side, domain.stride, domain.edge)
    }
    seen = tally.windows
    twice = sum(count > 1 for count in seen.values())
    wrong = ((planned - seen.keys(), "missing"), (seen.keys() - planned, "not of the grid"))
    parts = [f"{len(some)} {how}, first {min(some)[1]} of TOP {min(some)[0]}" for some, how in wrong if some]
    parts += [f"{twice} more than once"] if twice else []
    if parts:
        yield f"of the {len(planned)} windows of its TOPs, {'; '.join(parts)}"


def _check_ranges(manifest: Manifest, tally: Tally) -> Iterator[str]:
    """Yield whose heights were not seen as high or low as the manifest says, where every pixel is in some tile.

    That no tile goes beyond has been checked for each.
    """
    domain = manifest.domain
    if domain.edge != "shift" or domain.stride > domain.tile:
        return
    for name, (low, high) in tally.heights_m.items():
        range_m = manifest.tops[name].dsm_range_m
        if range_m and max(abs(low - range_m[0]), abs(high - range_m[1])) > HEIGHT_SLACK_M:
            yield (
                f"says heights of {range_m[0]:.2f} to {range_m[1]:.2f} m in TOP {name} "
                f"but its tiles have {low:.2f} to {high:.2f} m"
            )
