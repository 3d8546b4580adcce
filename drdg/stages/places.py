"""Station 6, stages: where both domains' shards are, built here or given, and those that the ceiling learns from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from drdg.config import Config, DomainConfig
from drdg.datasets import open_archive
from drdg.experiments import Row
from drdg.files import json_text
from drdg.shards.build import build_shards, find_shards
from drdg.shards.location import Location
from drdg.shards.writer import MANIFEST
from drdg.stages.given import find_given
from drdg.stages.records import begin_shards
from drdg.tracking import Handle, Tracking


def finished_shards(config: Config) -> tuple[Location, Location]:
    """Where both domains' shards are. Raises ``ValueError`` when they are neither given nor built."""
    given = find_given(config)
    source = given.get("source") or Location(find_shards(config.source, config.shards, need_label=True))
    return source, given.get("target") or Location(find_shards(config.target, config.shards, need_label=False))


def places_of(row: Row, config: Config) -> tuple[Location, Location]:
    """Where the labelled tiles of ``row`` and the target's are, as ``stages_of`` takes them."""
    if row.is_ceiling:
        refuse_scored_lessons(config)
        labelled = Location(find_shards(labelled_target(config), config.shards, need_label=True))
        return labelled, finished_shards(config)[1]
    return finished_shards(config)


def build_places(
    config: Config, rows: Sequence[Row], given: Mapping[str, Location], tracking: Tracking, parent: Handle
) -> None:
    """Build the shards that ``rows`` need and that are neither given nor built, under an MLflow run of their own.

    Only the source's hold labels, and the ceiling's: nothing else that trains may see the target's.
    """
    with begin_shards(tracking, parent, config) as run:
        places = {
            "source": given.get("source") or Location(build_shards(config.source, config.shards, need_label=True)),
            "target": given.get("target") or Location(build_shards(config.target, config.shards, need_label=False)),
        }
        if any(row.is_ceiling for row in rows):
            places["oracle"] = Location(build_shards(labelled_target(config), config.shards, need_label=True))
        for name, place in places.items():
            manifest = place.manifest()
            run.log({f"shards/{name}_tiles": manifest["samples"]})
            run.text(json_text(manifest), f"{name}/{MANIFEST}")


def labelled_target(config: Config) -> DomainConfig:
    """The target's TOPs whose labels the ceiling learns from."""
    return config.target.model_copy(update={"split": config.oracle.split, "shards": None})


def refuse_scored_lessons(config: Config) -> None:
    """Raise ``ValueError`` when the ceiling would learn from TOPs that it is scored on."""
    archive = open_archive(config.target.archive)
    learned = {top.id for top in archive.split(config.oracle.split, need_label=True)}
    if both := sorted(learned & {top.id for top in archive.split(config.evaluation.split, need_label=True)}):
        raise ValueError(
            f"oracle.split={config.oracle.split} and evaluation.split={config.evaluation.split} share the TOP "
            f"{both[0]}, so the row oracle would be scored on what it has learned; take splits that share none"
        )
