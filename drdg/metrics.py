"""Station 5, scores: from label and prediction pixels to IoU, F1 and overall accuracy (paper, section III-A).

Everything is read off one confusion matrix over all scored pixels, never off an average over images or batches, so a
score does not depend on how the pixels were cut up and F1 = 2 IoU / (1 + IoU) holds exactly. Two rules beside it:

- Void pixels (255 in the truth) are dropped, whatever was predicted on them.
- A class without any truth pixel in the scored set is *absent*: it is named, and left out of the means, because its IoU
  would be 0 or undefined by accident. Predictions of it still count as misses of the classes they hit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

VOID = 255  # the id that drdg.datasets gives to unlabelled pixels; repeated because metrics import nothing of ours


@dataclass(frozen=True)
class Scores:
    """Scores in percent; ``iou`` and ``f1`` have the classes that occur in the truth, the means are over these."""

    iou: dict[str, float]
    f1: dict[str, float]
    miou: float
    mean_f1: float
    oa: float
    absent: tuple[str, ...]


class ConfusionMatrix:
    """Counts of pixels, int64 (classes, classes): truth along rows, prediction along columns."""

    def __init__(self, num_classes: int) -> None:
        assert 1 <= num_classes <= VOID, num_classes
        self.counts = np.zeros((num_classes, num_classes), dtype=np.int64)

    @classmethod
    def from_counts(cls, counts: Sequence[Sequence[int]] | np.ndarray) -> ConfusionMatrix:
        """A matrix of given counts, as read back from a file or summed over ranks."""
        array = np.asarray(counts)
        assert array.shape == (len(array), len(array)), array.shape
        assert np.issubdtype(array.dtype, np.integer), array.dtype
        assert (array >= 0).all(), "counts are not negative"
        matrix = cls(len(array))
        matrix.counts += array.astype(np.int64)
        return matrix

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.counts)

    def update(self, truth: np.ndarray, prediction: np.ndarray) -> None:
        """Count pixels of two uint8 arrays of one shape; void truth (255) is dropped, every prediction is a class."""
        assert truth.shape == prediction.shape, (truth.shape, prediction.shape)
        assert truth.dtype == prediction.dtype == np.uint8, (truth.dtype, prediction.dtype)
        labelled = truth != VOID
        true, guess = truth[labelled], prediction[labelled]
        assert not true.size or true.max() < self.num_classes, f"truth holds class {true.max()}"
        assert not prediction.size or prediction.max() < self.num_classes, f"prediction holds class {prediction.max()}"
        pairs = true.astype(np.int64) * self.num_classes + guess
        self.counts += np.bincount(pairs, minlength=self.counts.size).reshape(self.counts.shape)

    def __add__(self, other: ConfusionMatrix) -> ConfusionMatrix:
        """The matrix of both sets of pixels together."""
        assert self.num_classes == other.num_classes, (self.num_classes, other.num_classes)
        return ConfusionMatrix.from_counts(self.counts + other.counts)

    def scores(self, classes: Sequence[str]) -> Scores:
        """Scores by class name, ``classes`` in the order of the ids.

        With TP the pixels that are a class and are called it, FP those called it that are not, FN those that are it and
        are not called it: IoU = TP / (TP + FP + FN), F1 = 2 TP / (2 TP + FP + FN), OA = all TP / all pixels. Raises
        ``ValueError`` when every pixel was void.
        """
        assert len(classes) == self.num_classes == len(set(classes)), classes
        total = int(self.counts.sum())
        if not total:
            raise ValueError("there is nothing to score: every pixel of the labels is void; choose a split with labels")
        hit = np.diag(self.counts)
        in_truth, in_prediction = self.counts.sum(axis=1), self.counts.sum(axis=0)
        present = [i for i in range(self.num_classes) if in_truth[i]]
        iou = {classes[i]: 100 * int(hit[i]) / int(in_truth[i] + in_prediction[i] - hit[i]) for i in present}
        f1 = {classes[i]: 200 * int(hit[i]) / int(in_truth[i] + in_prediction[i]) for i in present}
        return Scores(
            iou=iou,
            f1=f1,
            miou=sum(iou.values()) / len(iou),
            mean_f1=sum(f1.values()) / len(f1),
            oa=100 * int(hit.sum()) / total,
            absent=tuple(name for i, name in enumerate(classes) if not in_truth[i]),
        )
