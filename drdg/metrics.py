"""Station 5, scores: from label and prediction pixels to IoU, F1 and overall accuracy (paper, section III-A).

Everything is read off one confusion matrix over all scored pixels, never off an average over images or batches, so a
score does not depend on how the pixels were cut up and F1 = 2 IoU / (1 + IoU) holds exactly. Two rules beside it:

- Void pixels (255 in the truth) are dropped, whatever was predicted on them.
- A class without any truth pixel in the scored set is *absent*: it is named, and left out of the means, because its IoU
  would be 0 or undefined by accident. Predictions of it still count as misses of the classes they hit.

``BatchMeans`` breaks each of these on purpose: it is how the paper's printed tables were computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

VOID = 255  # the id that drdg.datasets gives to unlabelled pixels; repeated because metrics import nothing of ours
# What the released code (commit 1dc0be8) adds above and below each fraction, and how many tiles it scores at once.
SMOOTHING = 1e-5
BATCH_TILES = 32


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


class BatchMeans:
    """Scores as the authors' released code computes them: of each batch of tiles, then averaged over the batches.

    IoU = (TP + s) / (TP + FP + FN + s) and F1 = (2 TP + s) / (2 TP + FP + FN + s) with s = ``SMOOTHING``, so a class
    that a batch neither has nor predicts scores 100. Void truth is no class, and what is predicted on it is false. A
    last, shorter batch weighs as much as the others. So the numbers change with the size and the order of the batches,
    and are comparable to the paper's tables only.
    """

    def __init__(self, num_classes: int, tiles: int = BATCH_TILES) -> None:
        assert 1 <= num_classes <= VOID, num_classes
        assert tiles >= 1, tiles
        self.num_classes, self.tiles = num_classes, tiles
        self._batches: list[np.ndarray] = []  # shares (3, classes): IoU, F1, and the overall accuracy, repeated
        # Truth along rows, with void as the last, and prediction along columns.
        self._counts = np.zeros((num_classes + 1, num_classes), dtype=np.int64)
        self._filled = 0

    def update(self, truth: np.ndarray, prediction: np.ndarray) -> None:
        """Count one tile, two uint8 arrays of one shape; void truth is 255, every prediction is a class."""
        assert truth.shape == prediction.shape, (truth.shape, prediction.shape)
        assert truth.dtype == prediction.dtype == np.uint8, (truth.dtype, prediction.dtype)
        assert prediction.size, "a tile has pixels"
        assert prediction.max() < self.num_classes, f"prediction holds class {prediction.max()}"
        true = np.where(truth == VOID, self.num_classes, truth).astype(np.int64)
        assert true.max() <= self.num_classes, f"truth holds class {true.max()}"
        pairs = true * self.num_classes + prediction
        self._counts += np.bincount(pairs.ravel(), minlength=self._counts.size).reshape(self._counts.shape)
        self._filled += 1
        if self._filled == self.tiles:
            self._batches.append(self._shares())
            self._counts[:], self._filled = 0, 0

    def scores(self, classes: Sequence[str]) -> Scores:
        """Scores by class name, ``classes`` in the order of the ids; none is absent.

        The overall accuracy, which the released code does not print, is averaged in the same way and has void pixels as
        misses. Raises ``ValueError`` when no tile was counted.
        """
        assert len(classes) == self.num_classes == len(set(classes)), classes
        batches = [*self._batches, *([self._shares()] if self._filled else [])]
        if not batches:
            raise ValueError(
                "there is no tile to score: every TOP is smaller than evaluation.window; make that smaller"
            )
        iou, f1, oa = 100 * np.mean(batches, axis=0)
        return Scores(
            iou=dict(zip(classes, iou.tolist(), strict=True)),
            f1=dict(zip(classes, f1.tolist(), strict=True)),
            miou=float(iou.mean()),
            mean_f1=float(f1.mean()),
            oa=float(oa[0]),
            absent=(),
        )

    def _shares(self) -> np.ndarray:
        """IoU, F1 and the overall accuracy of the batch so far, float64 (3, classes), as shares of 1."""
        hit = np.diag(self._counts)
        both = self._counts[:-1].sum(axis=1) + self._counts.sum(axis=0)
        iou, f1 = (hit + SMOOTHING) / (both - hit + SMOOTHING), (2 * hit + SMOOTHING) / (both + SMOOTHING)
        return np.stack([iou, f1, np.full(self.num_classes, hit.sum() / self._counts.sum())])
