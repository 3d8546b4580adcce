"""Station 6, stages: where a run keeps what, and how a stage knows that it is done.

A stage that ends writes a marker with the digest of its configuration and inputs, last. A stage whose marker has the
digest is skipped; a marker with another digest stops the run, so that nothing is overwritten and nothing is mixed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drdg.config import Config, DomainConfig, digest
from drdg.datasets import open_archive
from drdg.experiments import Row, config_of
from drdg.files import write_json
from drdg.shards.location import Location
from drdg.shards.plan import fingerprint

MARKER = "done.json"


@dataclass(frozen=True)
class Stage:
    """One stage of one row: its folder and the digest of all that decides its outcome."""

    name: str
    row: str
    folder: Path
    digest: str

    def is_done(self) -> bool:
        """Whether an earlier run finished this very stage. Raises ``ValueError`` if it finished another one here."""
        path = self.folder / MARKER
        if not path.is_file():
            return False
        if json.loads(path.read_bytes()).get("digest") != self.digest:
            raise ValueError(
                f"{self.folder}: holds the results of another configuration; choose another run.name or remove it"
            )
        return True

    def finish(self) -> None:
        """Write the marker."""
        write_json(self.folder / MARKER, {"stage": self.name, "row": self.row, "digest": self.digest})


@dataclass(frozen=True)
class RowStages:
    """The stages of one row, each known by its own settings and by what the one before it is known by."""

    row: Row
    config: Config
    """The run's configuration with the row's own settings."""
    source: Location
    target: Location
    gan: Stage | None
    translate: Stage | None
    segment: Stage
    evaluate: Stage

    @property
    def translator(self) -> Path | None:
        """The trained translator's file, for a row that trains one."""
        return None if self.gan is None else self.gan.folder / "translator.safetensors"

    @property
    def translated(self) -> Path | None:
        """The folder of the translated source's shards, for a row that translates."""
        return None if self.translate is None else self.translate.folder / "shards"

    @property
    def training_shards(self) -> Location:
        """The shards that the segmentor learns from."""
        return self.source if self.translated is None else Location(self.translated)

    @property
    def segmentor(self) -> Path:
        """The trained segmentor's file."""
        return self.segment.folder / "segmentor.safetensors"

    def in_order(self) -> list[Stage]:
        """The stages that this row has, first to last."""
        return [stage for stage in (self.gan, self.translate, self.segment, self.evaluate) if stage is not None]


def stages_of(row: Row, config: Config, source: Location, target: Location) -> RowStages:
    """The stages of ``row`` in the run of ``config``, over the finished shards of both domains."""
    config = config_of(row, config)

    def stage(name: str, what: dict[str, Any]) -> Stage:
        return Stage(name, row.name, config.run.directory / row.name / name, digest({"stage": name, **what}))

    seed = config.run.seed
    gan = translate = None
    inputs = content(source)
    if row.is_trained:
        parts = {name: getattr(config, name) for name in ("dsm", "generator", "critic", "loss", "gan")}
        gan = stage("gan", {**parts, "seed": seed, "source": inputs, "target": content(target)})
    if row.translator is not None:
        by = row.translator if gan is None else gan.digest
        translate = stage("translate", {"by": by, "side": config.target.tile, "source": inputs})
    learned_from = inputs if translate is None else translate.digest
    validated = None
    if (domain := validation_domain(config)) is not None:
        validated = [scored(domain, config.segmentation.validation_split), config.evaluation]
    learned = {"segmentation": config.segmentation, "seed": seed, "inputs": learned_from, "validated": validated}
    segment = stage("segment", learned)
    tops = scored(config.target, config.evaluation.split)
    evaluate = stage("evaluate", {"evaluation": config.evaluation, "tops": tops, "inputs": segment.digest})
    return RowStages(row, config, source, target, gan, translate, segment, evaluate)


def validation_domain(config: Config) -> DomainConfig | None:
    """The domain that scores the segmentor while it learns, if one does."""
    return {"none": None, "source": config.source, "target": config.target}[config.segmentation.validation]


def scored(domain: DomainConfig, split: str) -> list[Any]:
    """What the labelled TOPs of a split are known by: names, files' content, and how their labels are read."""
    archive = open_archive(domain.archive)
    tops = archive.split(split, need_label=True)
    files = [[top.id, fingerprint(top.image), fingerprint(top.label)] for top in tops]
    return [archive.name, list(archive.classes), list(archive.bands), files]


def content(shards: Location) -> str:
    """The digest of what a place of shards holds, wherever that is."""
    return digest([[shard["file"], shard["xxh128"]] for shard in shards.manifest()["shards"]], ignore=())
