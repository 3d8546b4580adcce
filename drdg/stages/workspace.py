"""Station 6, stages: where a run keeps what, and how a stage knows that it is done.

A stage that ends writes a marker with the digest of its configuration and inputs, last. A stage whose marker has the
digest is skipped; a marker with another digest stops the run, so that nothing is overwritten and nothing is mixed.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drdg.config import Config, DomainConfig, digest
from drdg.config.sections import objective_settings, translator_settings
from drdg.datasets import open_archive
from drdg.experiments import Row, config_of, find_row
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
    run_config: Config
    """The run's configuration as it was given."""
    source: Location
    """The labelled tiles: the source's, and for the ceiling the target's."""
    target: Location
    gan: Stage | None
    translate: Stage | None
    segment: Stage
    evaluate: Stage
    shares: RowStages | None
    """The row whose translated tiles this one learns from."""
    original: RowStages | None
    """The row whose translated tiles stand for those before translation."""

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
        if self.shares is not None:
            return self.shares.training_shards
        return self.source if self.translated is None else Location(self.translated)

    @property
    def segmentor(self) -> Path:
        """The trained segmentor's file."""
        return self.segment.folder / "segmentor.safetensors"

    def in_order(self) -> list[Stage]:
        """The stages that this row itself has, first to last."""
        return [stage for stage in (self.gan, self.translate, self.segment, self.evaluate) if stage is not None]

    def refuse_too_early(self, name: str) -> Stage:
        """This row's stage called ``name``. Raises ``ValueError`` when it has none, or one before it is not done."""
        names = [stage.name for stage in self.in_order()]
        if name not in names:
            raise ValueError(f"row {self.row.name} has no stage {name}; it has {', '.join(names)}")
        before = itertools.takewhile(lambda step: step[0] is not self or step[1].name != name, self.steps())
        for _, stage in before:
            if not stage.is_done():
                raise ValueError(f"{stage.folder}: is not done; run the stage {stage.name} of row {stage.row} first")
        return self.in_order()[names.index(name)]

    def steps(self) -> list[tuple[RowStages, Stage]]:
        """All stages that lead to this row's scores, first to last, each with the row that it belongs to."""
        shared = [
            (other, stage)
            for other in (self.shares, self.original)
            if other is not None
            for stage in (other.gan, other.translate)
            if stage is not None
        ]
        return [*shared, *((self, stage) for stage in self.in_order())]


def stages_of(row: Row, config: Config, source: Location, target: Location) -> RowStages:
    """The stages of ``row`` in the run of ``config``, over the finished shards of both domains.

    ``source`` holds the labelled tiles: for the ceiling those of the target's split ``oracle.split``.
    """
    shares, original = (
        None if name is None else stages_of(find_row(name), config, source, target)
        for name in (row.shares, row.original)
    )
    run_config, config = config, config_of(row, config)

    def stage(name: str, what: dict[str, Any]) -> Stage:
        known_by = digest({"stage": name, **what})
        folder = f"{name}-{known_by[:8]}" if config.run.keep_changed else name
        return Stage(name, row.name, config.run.directory / row.name / folder, known_by)

    def sections(names: tuple[str, ...]) -> dict[str, Any]:
        return {name: getattr(config, name) for name in names}

    seed = config.run.seed
    gan = translate = None
    inputs = content(source)
    if row.is_trained:
        assert row.translator is not None
        parts = sections((*translator_settings(row.translator), "gan"))  # which tell translators apart, too
        gan = stage("gan", {**parts, "seed": seed, "source": inputs, "target": content(target)})
    if row.translator is not None:
        by = row.translator if gan is None else gan.digest
        translate = stage("translate", {"by": by, "side": config.target.tile, "source": inputs})
    learned_from = {"labelled": _learned_from(translate, shares, inputs)}
    if row.objective != "source_only":
        learned_from["target"] = content(target)
    if original is not None:
        learned_from["original"] = _learned_from(original.translate, original.shares, inputs)
    validated = None
    if (domain := validation_domain(config)) is not None:
        windows = {"window": config.evaluation.window, "overlap": config.evaluation.overlap}
        validated = [scored(domain, config.segmentation.validation_split), windows]
    learned = {"segmentation": config.segmentation, "objective": row.objective, "seed": seed}
    learned |= {**sections(objective_settings(row.objective)), "inputs": learned_from, "validated": validated}
    segment = stage("segment", learned)
    tops = scored(config.target, config.evaluation.split)
    if config.evaluation.protocol == "authors_batch_mean":
        tops = [*tops, config.target.stride, config.target.edge]
    evaluate = stage("evaluate", {"evaluation": config.evaluation, "tops": tops, "inputs": segment.digest})
    return RowStages(row, config, run_config, source, target, gan, translate, segment, evaluate, shares, original)


def _learned_from(translate: Stage | None, shares: RowStages | None, source: str) -> str:
    """What the tiles are known by that a row gives its segmentor."""
    if shares is not None:
        return _learned_from(shares.translate, shares.shares, source)
    return source if translate is None else translate.digest


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
