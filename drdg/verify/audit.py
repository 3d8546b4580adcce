"""Station 2, audit: one shard, its index and its place in manifest and plan, held against each other byte by byte."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np
import xxhash

from drdg.files import READ_BYTES
from drdg.shards.tar import LARGE
from drdg.shards.writer import index_path
from drdg.tiles.windows import Window
from drdg.verify.checks import Rules, check_sample
from drdg.verify.forms import Entry, Index, Meta, Place, read_form
from drdg.verify.members import UNREADABLE, Member, read_array, read_members, samples_of
from drdg.verify.tally import Tally

# A damaged shard has many faults; these say enough.
MOST_PROBLEMS = 6
# An index says about a kilobyte of each sample; what is larger is not worth reading.
LARGEST_INDEX = 1 << 28
# Of an array whose proper size is not known.
LARGEST_ARRAY = 1 << 30


@dataclass(frozen=True)
class Expected:
    """What is known of a shard before it is opened; None where nothing is."""

    number: int
    name: str
    plan: str | None
    """Digest of its plan."""
    codec: str | None
    entry: Entry | None
    """What the manifest says of it."""
    tiles: Mapping[str, tuple[str, Window]] | None
    """TOP and window of each of its samples by their keys, in order."""
    first: int | None
    """Number in the whole folder of its first sample."""


@dataclass
class ShardReport:
    """What was found of one shard: what is wrong with it, and what it holds."""

    number: int
    name: str
    problems: list[str] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)

    def say(self, problem: str) -> None:
        """Add a problem, unless there are enough of them."""
        if len(self.problems) < MOST_PROBLEMS and problem not in self.problems:
            self.problems.append(problem)


def audit_shard(folder: Path, expected: Expected, rules: Rules | None, poll: Callable[[], None]) -> ShardReport:
    """Check one shard of ``folder``; ``poll`` is called between small steps. What the files hold makes it never raise.

    Without ``rules`` the samples are read but not judged.
    """
    report = ShardReport(expected.number, expected.name)
    path = folder / expected.name
    if not path.is_file():
        report.say("is missing")
        return report
    index = _read_index(index_path(path), expected, report)
    try:
        with path.open("rb") as file:
            _check_bytes(file, index, expected, report, poll)
            samples = list(samples_of(_find_members(file, index, report)))
            _check_census([sample[0].key for sample in samples], expected, report)
            places = {sample.key: sample.members for sample in index.samples} if index else {}
            for sample in samples:
                key = sample[0].key
                planned = expected.tiles.get(key) if expected.tiles else None
                for problem in _check_sample(file, sample, places.get(key, {}), rules, planned, report.tally):
                    report.say(f"sample {key}: {problem}")
                poll()
    except UNREADABLE as error:
        report.say(f"cannot be read ({words(error)})")
    if index is not None and rules is not None and not report.problems:
        _compare_labels(index, report)
    return report


def _read_index(path: Path, expected: Expected, report: ShardReport) -> Index | None:
    """The shard's index if it can be used, whatever else is wrong with it."""
    try:
        if path.stat().st_size > LARGEST_INDEX:
            raise ValueError("too large for one")
        text = path.read_bytes()
        if expected.entry and xxhash.xxh3_128_hexdigest(text) != expected.entry.index_xxh128:
            report.say(f"the checksum of its index {path.name} is not the manifest's")
        index = read_form(Index, text)
    except FileNotFoundError:
        report.say(f"its index {path.name} is missing")
        return None
    except UNREADABLE as error:
        report.say(f"its index {path.name} cannot be read ({words(error)})")
        return None
    if index.shard != expected.name:
        report.say(f"its index is that of {index.shard}")
    if expected.plan is not None and index.plan != expected.plan:
        report.say(f"its index is of plan {index.plan}, not {expected.plan}")
    if expected.codec is not None and index.codec != expected.codec:
        report.say(f"its index says codec {index.codec}, not {expected.codec}")
    return index


def _check_bytes(
    file: IO[bytes], index: Index | None, expected: Expected, report: ShardReport, poll: Callable[[], None]
) -> None:
    """Size and checksum against index and manifest."""
    hasher = xxhash.xxh3_128()
    while block := file.read(READ_BYTES):
        hasher.update(block)
        report.tally.bytes += len(block)
        poll()
    size, records = report.tally.bytes, (("the manifest", expected.entry), ("its index", index))
    sizes = [f"{record.bytes} by {whose}" for whose, record in records if record and record.bytes != size]
    hashes = [whose for whose, record in records if record and record.xxh128 != hasher.hexdigest()]
    if sizes:
        report.say(f"has {size} bytes instead of {' and '.join(sizes)}")
    elif hashes:
        report.say(f"its checksum is not the one in {' and '.join(hashes)}")


def _find_members(file: IO[bytes], index: Index | None, report: ShardReport) -> list[Member]:
    """The members that the tar has, as far as it can be read; they are to be those of the index."""
    members: list[Member] = []
    try:
        for member in read_members(file, report.tally.bytes):
            members.append(member)  # one by one: those before the damage are wanted too
    except UNREADABLE as error:
        report.say(f"its tar cannot be read ({words(error)})")
    if index is not None:
        listed = [
            Member(sample.key, name, place.codec == "zstd", place.offset, place.size)
            for sample in index.samples
            for name, place in sample.members.items()
        ]
        wrong = [(here, there) for here, there in zip(members, listed, strict=False) if here != there]
        if wrong:
            report.say(f"its index says {wrong[0][1]}, but its tar has {wrong[0][0]}")
        elif len(members) != len(listed):
            report.say(f"its index has {len(listed)} members but its tar {len(members)}")
    return members


def _check_census(keys: list[str], expected: Expected, report: ShardReport) -> None:
    """The planned samples, each once and in order; without a plan, those whose numbers follow each other."""
    report.tally.samples = len(keys)
    twice = [key for key, count in Counter(keys).items() if count > 1]
    if twice:
        report.say(f"has sample {twice[0]} more than once")
    if expected.entry is not None and len(keys) != expected.entry.samples:
        report.say(f"has {len(keys)} samples but {expected.entry.samples} by the manifest")
    if expected.tiles is not None:
        there = set(keys)
        missing = [key for key in expected.tiles if key not in there]
        extra = [key for key in keys if key not in expected.tiles]
        if missing:
            report.say(f"lacks {len(missing)} of its {len(expected.tiles)} planned samples, first {missing[0]}")
        if extra:
            report.say(f"has {len(extra)} samples that are not planned for it, first {extra[0]}")
        if not (missing or extra or twice) and keys != list(expected.tiles):
            report.say("has its samples in another order than the plan")
    elif expected.first is not None:
        for number, key in enumerate(keys, expected.first):
            if not key.startswith(f"{number:07d}-"):
                report.say(f"has sample {key} at the place of number {number}")
                break


def _check_sample(
    file: IO[bytes],
    sample: list[Member],
    places: Mapping[str, Place],
    rules: Rules | None,
    planned: tuple[str, Window] | None,
    tally: Tally,
) -> Iterator[str]:
    """Yield what is wrong with the members of one sample: each by itself, then all together."""
    meta: Meta | None = None
    arrays: dict[str, np.ndarray] = {}
    largest = LARGEST_ARRAY if rules is None else 4 * rules.domain.tile**2 + READ_BYTES
    for member in sample:
        file.seek(member.offset)
        data = file.read(member.size)
        form: tuple[object, ...] = (None, None, None)
        try:
            if member.name == "json":
                meta = read_form(Meta, data)
            else:
                arrays[member.name], start = read_array(data, member, largest)
                form = (arrays[member.name].shape, arrays[member.name].dtype.str, start)
        except UNREADABLE as error:
            yield f"its {member.name} {words(error)}"
            continue
        place = places.get(member.name)
        if place is not None and (place.shape, place.dtype, place.data) != form:
            yield f"its {member.name} is not what its index says, {place.dtype} {place.shape} from {place.data}"
        if rules is not None and member.compressed != (rules.domain.codec == "zstd" and member.name in LARGE):
            yield f"its {member.name} is {'' if member.compressed else 'not '}compressed"
    if meta is None:
        yield "it has no json"
    elif len(arrays) + 1 != len(sample):
        yield "not all of it can be read"
    elif rules is not None:
        yield from check_sample(rules, meta, arrays, planned, tally)


def _compare_labels(index: Index, report: ShardReport) -> None:
    here = {str(value): int(count) for value, count in enumerate(report.tally.label_pixels) if count}
    if here != index.label_pixels:
        report.say("the label pixels counted in its index are not those of its labels")


def words(error: BaseException) -> str:
    """What an error says, in one line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__
