"""Station 6, stages: the whole path, from orthophotos to a table of scores."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path

import torch

from drdg.config import Config, DomainConfig, SegmentationConfig
from drdg.datasets import open_archive
from drdg.experiments import Row, config_of, find_row
from drdg.methods import build_translator, needs_dsm
from drdg.models.segmentor import build_segmentor, side_multiple
from drdg.panels import loss_curves
from drdg.shards.location import Location
from drdg.stages import row as steps
from drdg.stages.given import classes_of, find_given
from drdg.stages.places import build_places, places_of, refuse_scored_lessons
from drdg.stages.records import begin_parent, begin_stage, inputs_of
from drdg.stages.results import report_results
from drdg.stages.workspace import RowStages, stages_of, validation_domain
from drdg.tracking import Handle, Tracking

STEPS: dict[str, Callable[[RowStages, Handle], None]] = {
    "gan": steps.train_gan,
    "translate": steps.translate,
    "segment": steps.segment,
    "evaluate": steps.score,
}


def run_pipeline(config: Config) -> Path:
    """Run every stage of every row of ``run.rows`` that is not done, write the report and return its file."""
    began = time.monotonic()
    rows = [find_row(name) for name in config.run.rows]
    synthesize(config)
    given = find_given(config)
    refuse_missing_layers(config, rows, given)
    tracking = tracking_of(config)
    with begin_parent(tracking, config) as parent:
        build_places(config, rows, given, tracking, parent)
        finished = []
        for row in rows:
            print(f"== row {row.name}: {row.about}", flush=True)
            stages = stages_of(row, config, *places_of(row, config))
            for owner, stage in stages.steps():
                run_stage(stage.name, owner, tracking, parent)
            finished.append(stages)
        path = report_results(config, finished, parent, seconds=time.monotonic() - began)
    print(f"MLflow: {tracking.shown}\n  look at it: {look_at(tracking)}", flush=True)
    return path


def tracking_of(config: Config) -> Tracking:
    """The run's store, written to beside the work."""
    return Tracking(config.tracking.uri, config.tracking.experiment, config.run.directory, in_background=True)


def look_at(tracking: Tracking) -> str:
    """The command that opens the runs in a browser."""
    return shlex.join([sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", tracking.shown])


def run_one_stage(config: Config, row: Row, name: str) -> None:
    """Run the stage ``name`` of one row, whose stages before it must be done."""
    stages = stages_of(row, config, *places_of(row, config))
    stages.refuse_too_early(name)
    tracking = tracking_of(config)
    with begin_parent(tracking, config) as parent:
        run_stage(name, stages, tracking, parent)


def run_stage(name: str, stages: RowStages, tracking: Tracking, parent: Handle) -> None:
    """Run one stage under its own MLflow run, unless it is done."""
    stage = next(stage for stage in stages.in_order() if stage.name == name)
    if stage.is_done():
        print(f"{stage.row}/{name}: done before", flush=True)
        return
    with begin_stage(tracking, parent, stage, stages.config) as run:
        run.inputs(inputs_of(stages, stage))
        STEPS[name](stages, run)
        run.flush()
        history = {name: values for name, values in run.history().items() if len(values) > 1}
        if history:
            title = f"{stage.row}: {name}"
            loss_curves(stages.config.run.directory / "panels" / f"curves_{stage.row}_{name}.png", history, title=title)


def synthesize(config: Config) -> None:
    """Write the synthetic archives that the configuration asks for, unless they are there."""
    if config.synthetic is not None:
        from drdg.datasets.synthetic import write_archives

        write_archives(config.synthetic)


def refuse_missing_layers(config: Config, rows: list[Row], given: Mapping[str, Location]) -> None:
    """Raise ``ValueError`` now for what a stage would miss only hours later.

    The archive of a source whose shards are given is not looked at; the target's TOPs are scored and must be there.
    """
    if "source" not in given:
        open_archive(config.source.archive).split(config.source.split, need_label=True)
    open_archive(config.target.archive).split(config.evaluation.split, need_label=True)
    source, target = classes_of(config.source.archive), classes_of(config.target.archive)
    if source != target:
        raise ValueError(
            f"source.archive has the classes {', '.join(source)} but target.archive has "
            f"{', '.join(target)}; describe both with the same classes in the same order"
        )
    if (validated := validation_domain(config)) is not None:
        open_archive(validated.archive).split(config.segmentation.validation_split, need_label=True)
    for row in rows:
        refuse_segmentor(config_of(row, config), row, len(target))
    if any(row.is_ceiling for row in rows):
        refuse_scored_lessons(config)
    needed = [find_row(name) for row in rows for name in (row.name, *row.builds_on)]
    trained = [(row, config_of(row, config)) for row in needed]
    with torch.device("meta"):
        for row, own in trained:
            if row.is_trained:
                build_translator(str(row.translator), own)  # which refuses what does not go together
    deep = [row.name for row, own in trained if row.is_trained and needs_dsm(str(row.translator), own)]
    for domain, place in ((config.source, given.get("source")), (config.target, given.get("target"))):
        if (lacking := without_dsm(domain, place)) and deep:
            raise ValueError(
                f"{lacking}, which row {deep[0]} needs; add the DSMs, or run only rows without depth "
                "(run.rows=[baseline,rdg])"
            )


def without_dsm(domain: DomainConfig, place: Location | None) -> str | None:
    """What of a domain has no DSM, in words; ``place`` is where its shards are given, None to build them."""
    if place is not None:
        return None if place.manifest()["domain"]["dsm"] else f"{place}: has no DSM"
    archive = open_archive(domain.archive)
    missing = [top.id for top in archive.split(domain.split) if top.dsm is None]
    return f"archive {archive.name} has no DSM for {missing[0]}" if missing else None


def refuse_segmentor(config: Config, row: Row, num_classes: int) -> None:
    """Raise ``ValueError`` when a row's segmentor cannot be built, or its crops or windows do not fit."""
    crop = config.segmentation.crop
    at_target = row.translator or row.shares or row.is_ceiling
    side, key = (config.target.tile, "target.tile") if at_target else (config.source.tile, "source.tile")
    if crop > side:
        raise ValueError(
            f"segmentation.crop={crop} is larger than {key}={side}, the tiles that row {row.name} learns from; "
            "take a smaller crop"
        )
    if crop > config.target.tile and row.objective != "source_only":
        raise ValueError(
            f"segmentation.crop={crop} is larger than target.tile={config.target.tile}, the tiles that row "
            f"{row.name} adapts to; take a smaller crop"
        )
    multiple = _multiple_of(config.segmentation, num_classes)
    for key, side in (("segmentation.crop", crop), ("evaluation.window", config.evaluation.window)):
        if side % multiple:
            raise ValueError(f"{key}={side} is not a multiple of {multiple}, which the segmentor needs")


@lru_cache(maxsize=1)  # rows have the same segmentor, as a rule, and building one may mean to download weights
def _multiple_of(config: SegmentationConfig, num_classes: int) -> int:
    return side_multiple(build_segmentor(config, num_classes))


def describe(config: Config) -> str:
    """What ``run_pipeline`` would do, in lines."""
    built = f"build shards under {config.shards.root}"
    lines = [f"in {config.run.directory}, with seed {config.run.seed}:"]
    if config.synthetic is not None:
        lines.append(f"  write synthetic archives in {config.synthetic.root}")
    for name, domain in (("source", config.source), ("target", config.target)):
        lines.append(f"  {name}: {f'shards at {domain.shards}' if domain.shards else built}")
    for row in map(find_row, config.run.rows):
        shared = [f"{name}'s tiles" for name in row.builds_on]
        names = [*shared, *(["gan"] if row.is_trained else []), *(["translate"] if row.translator else []), "segment"]
        lines.append(f"  row {row.name}: {' -> '.join([*names, 'evaluate'])} ({row.about})")
    return "\n".join([*lines, f"  report in {config.run.directory / 'report.json'}"])
