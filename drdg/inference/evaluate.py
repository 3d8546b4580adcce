"""Station 5, inference: the score of a segmentor on whole TOPs (paper, section III-A and Table I)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from drdg.config import Config, EvaluationConfig, SegmentationConfig
from drdg.datasets import Archive, Top
from drdg.datasets.direction import direction_of
from drdg.distributed.group import pick_device
from drdg.files import write_json
from drdg.inference.maps import write_map
from drdg.inference.sliding import predict_top
from drdg.inference.tile_scores import evaluation_mode, score_tiles
from drdg.metrics import BATCH_TILES, SMOOTHING, ConfusionMatrix
from drdg.tiles.raster import TopReader

LABEL_ROWS = 512  # rows of a label that are decoded at a time; bounds memory, changes no number


def evaluate(
    config: Config, segmentor: nn.Module, archive: Archive, out: Path, *, quiet: bool = False
) -> dict[str, Any]:
    """Score ``segmentor`` on every TOP of ``evaluation.split`` of ``archive``, by ``evaluation.protocol``.

    Writes the class maps ``out/maps/<id>.tif`` and, last, ``out/metrics.json``, which holds what is returned: the
    scores in percent, the confusion matrix over all pixels of the maps (truth along rows) and that of each TOP, seed
    and direction, and in ``definition`` what the numbers mean. An absent class has no ``iou`` and ``f1``. The protocol
    changes the scores, not the maps. Raises ``ValueError`` when the split is not there, empty or unlabelled.
    """
    tops = archive.split(config.evaluation.split, need_label=True)
    report = out / "metrics.json"
    report.unlink(missing_ok=True)  # an earlier evaluation's, which would pass for this one's if this one broke off

    by_top: dict[str, list[list[int]]] = {}

    def keep(top: Top, reader: TopReader, ids: np.ndarray, counts: np.ndarray) -> None:
        by_top[top.id] = counts.tolist()
        write_map(
            out / "maps" / f"{top.id}.tif",
            ids,
            archive.classes,
            archive.palette,
            crs=reader.crs,
            transform=reader.transform,
        )

    segmentor.to(pick_device(config.distributed))
    matrix = count_pixels(segmentor, archive, tops, config.evaluation, keep=keep, quiet=quiet)
    found = matrix.scores(archive.classes)
    if config.evaluation.protocol == "authors_batch_mean":
        tiles = score_tiles(segmentor, archive, tops, config.evaluation, config.target, quiet=quiet)
        found = tiles.scores(archive.classes)
    scores = asdict(found)
    metrics = {
        "seed": config.run.seed,
        "direction": direction_of(config),
        "protocol": config.evaluation.protocol,
        "split": config.evaluation.split,
        "tops": [top.id for top in tops],
        "classes": list(archive.classes),
        "confusion": matrix.counts.tolist(),
        "confusion_by_top": by_top,
        **scores,
        "absent": list(scores["absent"]),
        "definition": _definition(config),
    }
    write_json(report, metrics)
    return metrics


def count_pixels(
    segmentor: nn.Module,
    archive: Archive,
    tops: Sequence[Top],
    config: EvaluationConfig,
    *,
    keep: Callable[[Top, TopReader, np.ndarray, np.ndarray], None] | None = None,
    quiet: bool = False,
) -> ConfusionMatrix:
    """The confusion matrix of ``segmentor`` over whole TOPs, which all have labels.

    ``keep(top, reader, ids, counts)`` is called with each TOP's class ids, uint8 (H, W), and its own confusion matrix.
    The segmentor is put into evaluation mode meanwhile.
    """
    matrix = ConfusionMatrix(len(archive.classes))
    with evaluation_mode(segmentor):
        for top in tops:
            before = matrix.counts.copy()
            with TopReader(archive, top) as reader:
                ids = predict_top(segmentor, reader, config, what=f"score {archive.name} {top.id}", quiet=quiet)
                for window in reader.row_bands(LABEL_ROWS):
                    matrix.update(reader.read_label(window), ids[window.rows])
                if keep is not None:
                    keep(top, reader, ids, matrix.counts - before)
    return matrix


def _definition(config: Config) -> str:
    evaluation, weights = config.evaluation, _weights(config.segmentation)
    if evaluation.protocol == "authors_batch_mean":
        return (
            f"Percent as the authors' released code counts: tiles of {evaluation.window} pixels at a stride of "
            f"{config.target.stride}, each predicted by itself, in batches of {BATCH_TILES} in the order of the TOPs; "
            f"IoU and F1 of each batch with {SMOOTHING:g} added above and below, so that a class absent from a batch "
            f"counts as 100, predictions on void pixels of the label as errors, averaged over the batches with equal "
            f"weight and then over all classes; and the weights {weights}."
        )
    return (
        f"Percent from one confusion matrix over all pixels of all TOPs of the split, predicted in windows of "
        f"{evaluation.window} pixels that overlap by {evaluation.overlap:g} and are blended, with void pixels of the "
        f"label dropped, a class absent from the labels left out of the means while predictions of it count as errors, "
        f"and the weights {weights}."
    )


def _weights(segmentation: SegmentationConfig) -> str:
    """Which weights are scored, in words."""
    if segmentation.checkpoint == "last":
        weights = "of the last update"
    else:
        weights = f"of the validation with the best mIoU on the {segmentation.validation} archive's split val"
    if segmentation.validation == "target":
        weights += ", for which training read target labels"
    return weights
