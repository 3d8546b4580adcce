"""Station 6, doctor: whether every rank can read the shards, reads the same from them, and how fast."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from drdg.doctor.answers import Answer, groups, named
from drdg.doctor.context import Context
from drdg.doctor.finding import Finding, bad, ok, warning

if TYPE_CHECKING:
    from drdg.shards.location import Location
    from drdg.shards.store import Sample

CHECK = "shards"
DOMAINS = ("source", "target")
# Tiles that every rank reads, for their checksums, and at most so many more that each picks for itself, for the rate.
COMMON, OWN = 2, 32
OWN_S = 1.0
# A rank that reads so much slower than the median keeps all others waiting.
SLOW = 0.25


def probe(context: Context) -> dict[str, Any]:
    """By domain, how many tiles there are, the checksum of some, and tiles read a second; or why there are none."""
    from drdg.stages.places import finished_shards

    try:
        places = finished_shards(context.config)
    except (ValueError, OSError) as error:
        return {"why": str(error), "domains": {}}
    return {
        "why": "",
        "domains": {name: _read(place, context) for name, place in zip(DOMAINS, places, strict=True)},
    }


def judge(answers: Sequence[Answer], arguments: str) -> list[Finding]:
    """Whether all ranks read the same. ``arguments`` are those that build the shards."""
    reasons = groups(answers, lambda value: str(value["why"]))
    if "" not in reasons:
        said, _, cure = next(iter(reasons)).partition("; ")
        if not cure or "shards/build.py" in cure:
            cure = f"sbatch slurm/shards_mpi.sbatch {arguments}, or python shards/build.py {arguments}"
        return [warning(CHECK, said, cure)]
    found = [
        bad(CHECK, f"{named(ranks)}: {reason.partition(';')[0]}", "let all nodes see shards.root and the archives")
        for reason, ranks in reasons.items()
        if reason
    ]
    readers = [answer for answer in answers if not answer.value["why"]]
    words = []
    for name in DOMAINS:
        domain = [Answer(answer.who, answer.value["domains"][name]) for answer in readers]
        judged = _judge_domain(name, domain)
        found += [finding for finding in judged if finding.level != "ok"]
        words += [finding.measured for finding in judged if finding.level == "ok"]
    return found or [ok(CHECK, "; ".join(words))]


def _judge_domain(name: str, answers: Sequence[Answer]) -> list[Finding]:
    found = []
    for reason, ranks in groups(answers, lambda value: str(value["error"])).items():
        if reason:
            said, _, cure = reason.partition("; ")
            found.append(bad(CHECK, f"{name}: {said} ({named(ranks)})", cure or "run the same build again"))
    contents = groups([answer for answer in answers if not answer.value["error"]], lambda value: str(value["common"]))
    if len(contents) > 1:
        others = [rank for ranks in list(contents.values())[1:] for rank in ranks]
        cure = "let all nodes read one folder, empty shards.cache on those nodes, and run shards/verify.py there"
        found.append(bad(CHECK, f"{name}: {named(others)} read other tiles than the rest", cure))
    rates = {answer.who: float(answer.value["tiles_per_s"] or 0) for answer in answers}
    timed = {who: rate for who, rate in rates.items() if rate}
    if timed and not found:
        slowest = min(timed, key=lambda who: timed[who])
        middle = statistics.median(timed.values())
        measured = f"{name}: {answers[0].value['tiles']} tiles, read at {_rate(timed[slowest])} tiles/s or more"
        if timed[slowest] < SLOW * middle:
            measured = f"{name}: {named([slowest])} reads {_rate(timed[slowest])} tiles/s, half of all {_rate(middle)}"
            cure = "look at that node's connection to the file system, or leave it out (sbatch --exclude)"
            return [warning(CHECK, measured, cure, tiles_per_s=timed[slowest])]
        return [ok(CHECK, measured, tiles_per_s=timed[slowest])]
    if not found:
        return [ok(CHECK, f"{name}: {answers[0].value['tiles']} tiles in a remote place, not fetched")]
    return found


def _read(place: Location, context: Context) -> dict[str, Any]:
    from drdg.shards.remote import is_remote
    from drdg.shards.store import ShardStore

    found: dict[str, Any] = {"tiles": 0, "common": "", "tiles_per_s": None, "error": ""}
    try:
        store = ShardStore(place)
        found["tiles"] = len(store)
        # What a remote place sends stays in the cache; to fetch it is for who wants to train.
        if is_remote(place.name):
            return {**found, "common": place.manifest()["plan"]}
        step = max(1, len(store) // COMMON)
        found["common"] = " ".join(checksum(store[index]) for index in list(range(0, len(store), step))[:COMMON])
        own = random.Random(context.rank.number).sample(range(len(store)), min(OWN, len(store)))
        began, count = time.perf_counter(), 0
        for index in own:
            checksum(store[index])
            count += 1
            if time.perf_counter() - began > OWN_S:
                break
        found["tiles_per_s"] = count / (time.perf_counter() - began)
    except (ValueError, OSError) as error:
        found["error"] = str(error)
    return found


def _rate(per_s: float) -> str:
    return f"{per_s:.0f}" if per_s >= 10 else f"{per_s:.2g}"


def checksum(sample: Sample) -> str:
    """XXH3 of the arrays of a tile, in hexadecimal."""
    import xxhash

    hasher = xxhash.xxh3_64()
    for array in (sample.image, sample.dsm_steps, sample.label):
        if array is not None:
            hasher.update(array.tobytes())
    return hasher.hexdigest()
