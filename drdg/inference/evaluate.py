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
from drdg.distributed.group import pick_device
from drdg.files import write_json
from drdg.inference.maps import write_map
from drdg.inference.sliding import predict_top
from drdg.metrics import ConfusionMatrix
from drdg.tiles.raster import TopReader

LABEL_ROWS = 512  # rows of a label that are decoded at a time; bounds memory, changes no number


def evaluate(
    config: Config, segmentor: nn.Module, archive: Archive, out: Path, *, quiet: bool = False
) -> dict[str, Any]:
    """Score ``segmentor`` on every TOP of ``evaluation.split`` of ``archive``, by one confusion matrix over all pixels.

    Writes the class maps ``out/maps/<id>.tif`` and, last, ``out/metrics.json``, which holds what is returned: the
    scores in percent, the confusion matrix (truth along rows), and in ``definition`` what the numbers mean. An absent
    class has no ``iou`` and ``f1``. Raises ``ValueError`` when the split is not there, empty or unlabelled.
    """
    tops = archive.split(config.evaluation.split, need_label=True)
    report = out / "metrics.json"
    report.unlink(missing_ok=True)  # an earlier evaluation's, which would pass for this one's if this one broke off

    def keep(top: Top, reader: TopReader, ids: np.ndarray) -> None:
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
    scores = asdict(matrix.scores(archive.classes))
    metrics = {
        "split": config.evaluation.split,
        "tops": [top.id for top in tops],
        "classes": list(archive.classes),
        "confusion": matrix.counts.tolist(),
        **scores,
        "absent": list(scores["absent"]),
        "definition": _definition(config.segmentation, config.evaluation),
    }
    write_json(report, metrics)
    return metrics


def count_pixels(
    segmentor: nn.Module,
    archive: Archive,
    tops: Sequence[Top],
    config: EvaluationConfig,
    *,
    keep: Callable[[Top, TopReader, np.ndarray], None] | None = None,
    quiet: bool = False,
) -> ConfusionMatrix:
    """The confusion matrix of ``segmentor`` over whole TOPs, which all have labels.

    ``keep(top, reader, ids)`` is called with each TOP's class ids, uint8 (H, W). The segmentor is put into evaluation
    mode meanwhile.
    """
    matrix = ConfusionMatrix(len(archive.classes))
    was_training = segmentor.training
    segmentor.eval()
    try:
        for top in tops:
            with TopReader(archive, top) as reader:
                ids = predict_top(segmentor, reader, config, what=f"score {archive.name} {top.id}", quiet=quiet)
                for window in reader.row_bands(LABEL_ROWS):
                    matrix.update(reader.read_label(window), ids[window.rows])
                if keep is not None:
                    keep(top, reader, ids)
    finally:
        segmentor.train(was_training)
    return matrix


def _definition(segmentation: SegmentationConfig, evaluation: EvaluationConfig) -> str:
    if segmentation.checkpoint == "last":
        weights = "of the last update"
    else:
        weights = f"of the validation with the best mIoU on the {segmentation.validation} archive's split val"
    if segmentation.validation == "target":
        weights += ", for which training read target labels"
    return (
        f"Percent from one confusion matrix over all pixels of all TOPs of the split, predicted in windows of "
        f"{evaluation.window} pixels that overlap by {evaluation.overlap:g} and are blended, with void pixels of the "
        f"label dropped, a class absent from the labels left out of the means while predictions of it count as errors, "
        f"and the weights {weights}."
    )
