"""Station 6, stages: the four steps of one row. Each continues where an earlier run of it was broken off."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn

from drdg.config import Config
from drdg.datasets import open_archive
from drdg.distributed.group import Group, pick_device, process_group
from drdg.distributed.topology import Topology
from drdg.inference.evaluate import count_pixels, evaluate
from drdg.inference.translate import resize, translate_shards
from drdg.methods import needs_dsm
from drdg.metrics import ConfusionMatrix
from drdg.models.segmentor import load_segmentor
from drdg.report import flat_scores
from drdg.shards.store import ShardStore
from drdg.shards.stream import UnpairedStream
from drdg.stages.ranks import start_ranks
from drdg.stages.workspace import RowStages, Stage, validation_domain
from drdg.tracking import Handle
from drdg.training.gan import train_translator
from drdg.training.journal import Journal
from drdg.training.segmentation import Lesson, train_segmentor
from drdg.training.weights import load_translator

METRICS = "metrics.json"


def train_gan(stages: RowStages, run: Handle) -> None:
    """Train the row's translator on ``distributed.processes`` ranks of this machine."""
    assert stages.gan is not None
    _on_ranks(stages.gan, stages.config.distributed.processes, stages, run)


def segment(stages: RowStages, run: Handle) -> None:
    """Train the row's segmentor on ``distributed.segmentor_processes`` ranks of this machine."""
    _on_ranks(stages.segment, stages.config.distributed.segmentor_processes, stages, run)


def _on_ranks(stage: Stage, processes: int, stages: RowStages, run: Handle) -> None:
    if processes > 1:
        start_ranks(stage, stages.run_config, processes, run)
        return
    distributed = stages.config.distributed
    if stage.name == "segment" and distributed.backend == "ddp":  # which the GAN's ranks are for
        stages = replace(stages, config=with_backend(stages.config, "auto"))
    with process_group(stages.config.distributed, Topology()) as group:
        AS_RANK[stage.name](stages, group, run)


def with_backend(config: Config, backend: str) -> Config:
    """The configuration with another ``distributed.backend``, on which no result depends."""
    return config.model_copy(update={"distributed": config.distributed.model_copy(update={"backend": backend})})


def train_gan_as_rank(stages: RowStages, group: Group, run: Handle) -> None:
    """Take part, as one of ``group``'s ranks, in training the row's translator."""
    assert stages.gan is not None
    assert stages.row.translator is not None
    config = stages.config
    stream = UnpairedStream(
        ShardStore(stages.source),
        ShardStore(stages.target),
        seed=config.run.seed,
        order=config.gan.order,
        need_dsm=needs_dsm(stages.row.translator, config),
        dsm=config.dsm,
    )
    given = (stages.row.translator, config, stream, stages.gan.folder, group)
    train_translator(*given, journal_of(run))
    if group.is_first:
        run.flush()  # before nobody looks at this stage again
        stages.gan.finish()


def segment_as_rank(stages: RowStages, group: Group, run: Handle) -> None:
    """Take part, as one of ``group``'s ranks, in training the row's segmentor."""
    original = None if stages.original is None else stages.original.training_shards
    train_segmentor(
        stages.config,
        Lesson(stages.training_shards, stages.row.objective, stages.target, original),
        stages.segment.folder,
        validate=validation(stages.config, group),
        group=group,
        journal=journal_of(run),
    )
    if group.is_first:
        run.flush()  # before nobody looks at this stage again
        stages.segment.finish()


def journal_of(run: Handle) -> Journal:
    """The MLflow run as what a training logs by."""
    return Journal(run.log, run.try_to_flush, run.relog, run.run_id)


AS_RANK = {"gan": train_gan_as_rank, "segment": segment_as_rank}
"""The stages that several ranks take part in, by name."""


def translate(stages: RowStages, run: Handle) -> None:
    """Write the row's translated source shards."""
    assert stages.translate is not None
    config = stages.config
    device = pick_device(config.distributed)
    side = config.target.tile
    if stages.translator is None:
        function = resize(side)
    else:
        function = load_translator(stages.translator, config, device).translate
    store = ShardStore(stages.source)
    out, plan = stages.translated, stages.translate.digest
    assert out is not None
    translate_shards(store, function, side, out, plan, batch_size=config.translation.batch_size, device=device)
    run.log({"translate/tiles": len(store)})
    run.flush()  # before nobody looks at this stage again
    stages.translate.finish()


def validation(config: Config, group: Group) -> Callable[[nn.Module], dict[str, float]] | None:
    """What scores the segmentor while it learns, each rank some of the TOPs, all together the same scores.

    Target labels are read only if the configuration says so.
    """
    domain = validation_domain(config)
    if domain is None:
        return None
    archive = open_archive(domain.archive)
    tops = archive.split(config.segmentation.validation_split, need_label=True)[group.rank :: group.world_size]

    def validate(segmentor: nn.Module) -> dict[str, float]:
        own = count_pixels(segmentor, archive, tops, config.evaluation, quiet=True)
        counts = group.sum(torch.from_numpy(own.counts).to(group.device)).cpu().numpy()
        scores = ConfusionMatrix.from_counts(counts).scores(archive.classes)
        return {"miou": scores.miou, "mean_f1": scores.mean_f1, "oa": scores.oa}

    return validate


def score(stages: RowStages, run: Handle) -> None:
    """Score the row's segmentor on whole TOPs of the target."""
    archive = open_archive(stages.config.target.archive)
    segmentor, classes = load_segmentor(stages.segmentor)
    if classes != archive.classes:
        raise ValueError(f"{stages.segmentor}: knows the classes {', '.join(classes)}, not those of {archive.name}")
    metrics = evaluate(stages.config, segmentor, archive, stages.evaluate.folder)
    run.log(flat_scores(metrics))
    run.artifact(stages.evaluate.folder / METRICS)
    run.flush()  # before nobody looks at this stage again
    stages.evaluate.finish()
