"""Station 7, comparison: whether a difference between two rows would survive other TOPs, by a paired bootstrap.

TOPs are drawn with replacement, the same ones for both rows, and both are scored again on what was drawn: mIoU of the
summed confusion matrices, averaged over the seeds that both rows have. So it says how much of a difference hangs on
which TOPs were scored. It says nothing about other trainings: the spread over seeds does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from drdg.comparison.runs import Outcome
from drdg.comparison.table import LABELS, in_order

REFERENCE = "drdg"
RESAMPLES = 10_000
SEED = 0
LEVEL = 0.95
FEW_TOPS = 30
BY_TOP = "confusion_by_top"
# Two differences that are equal on paper differ by rounding when they are computed.
ROUNDING = 1e-9

Matrices = np.ndarray
"""Pixels, int64 or float64 (seeds, TOPs, classes, classes): truth along rows."""


@dataclass(frozen=True)
class Contrast:
    """The reference row against another: how far apart they are, and how sure that is."""

    reference: str
    other: str
    seeds: tuple[int, ...] = ()
    """The seeds that both have."""
    tops: tuple[str, ...] = ()
    points: float | None = None
    """Mean IoU of the reference less that of the other, in points of percent."""
    low: float | None = None
    """Where the middle 95 % of the resampled differences begin, and, in ``high``, end."""
    high: float | None = None
    p: float | None = None
    """Two-sided: twice the share of resamples in which the difference has the rarer sign or is none, and no less than
    ``smallest_p`` of the TOPs."""
    reason: str | None = None
    """Why there is no test, in words."""

    @property
    def label(self) -> str:
        """Which rows, for readers."""
        return f"{LABELS.get(self.reference, self.reference)} − {LABELS.get(self.other, self.other)}"


def contrasts(outcomes: Sequence[Outcome], reference: str = REFERENCE) -> list[Contrast]:
    """``reference`` against each other row of ``outcomes``, in the order of the tables.

    A row without any scores is there too, with the reason why it was not compared.
    """
    rows = in_order({outcome.result.name for outcome in outcomes})
    return [_contrast(outcomes, reference, other) for other in rows if other != reference]


def explanation(found: Sequence[Contrast]) -> list[str]:
    """What a reader must know before believing a p."""
    if not any(contrast.p is not None for contrast in found):
        return []
    tops = max(len(contrast.tops) for contrast in found)
    weak = (
        f"With so few units ({tops} TOPs, which are also neighbours and alike) it is weak evidence: its intervals come "
        "out too narrow. Read a p near the usual limits as undecided."
    )
    return [
        f"Paired bootstrap over TOPs, {RESAMPLES} resamples, the same ones for both rows; the difference is of mIoU, "
        f"in points, averaged over the seeds that both have; the interval is the middle {LEVEL:.0%}; p is two-sided, "
        f"and no less than {tops} TOPs can show, {smallest_p(tops):.2g}.",
        f"It is over the {tops} TOPs that were scored, not over trainings: it cannot say whether another seed would "
        "give the same difference. The standard deviation over the seeds is there for that.",
        weak if tops < FEW_TOPS else "TOPs of one city are alike, so the intervals come out somewhat too narrow.",
        "The p are not corrected for how many rows are compared; multiply them by that number to be careful.",
    ]


def _contrast(outcomes: Sequence[Outcome], reference: str, other: str) -> Contrast:
    """One pair of rows, compared or with the reason why not."""
    one, two = (_scored(outcomes, row) for row in (reference, other))
    for row, found in ((reference, one), (other, two)):
        if not found:
            return Contrast(reference, other, reason=f"{LABELS.get(row, row)} has no scores")
    seeds = tuple(sorted(set(one) & set(two)))
    if not seeds:
        return Contrast(reference, other, reason="the rows have no seed in common")
    metrics = [found[seed] for found in (one, two) for seed in seeds]
    tops = tuple(str(top) for top in metrics[0].get("tops", ()))
    plain = Contrast(reference, other, seeds, tops, reason=_why_not(metrics, tops))
    if plain.reason is not None:
        return plain
    first, second = (
        np.array([[found[seed][BY_TOP][top] for top in tops] for seed in seeds], dtype=np.int64) for found in (one, two)
    )
    return compare_matrices(first, second, plain)


def _why_not(metrics: Sequence[Mapping[str, Any]], tops: Sequence[str]) -> str | None:
    if any(found.get("protocol") == "authors_batch_mean" for found in metrics):
        return "the protocol authors_batch_mean averages over batches of tiles, which do not follow from TOPs"
    if any(BY_TOP not in found for found in metrics):
        return "the scores hold no counts for each TOP; evaluate again"
    if any(set(found[BY_TOP]) != set(tops) for found in metrics):
        return "the rows' counts are of different TOPs"
    if len(tops) < 2:
        return f"there is nothing to resample: only {len(tops)} TOP was scored"
    return None


def compare_matrices(first: Matrices, second: Matrices, plain: Contrast) -> Contrast:
    """``plain`` with the difference of two rows' matrices, its interval and its p."""
    assert first.shape == second.shape, (first.shape, second.shape)
    tops = first.shape[1]
    observed = float(difference(first, second, np.ones((1, tops)))[0])
    drawn = difference(first, second, resamples(tops))
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(drawn, (tail, 1 - tail))
    # One is added on both sides, as the data themselves are one more resample: no p is 0.
    below, above = (1 + int((sign * drawn <= ROUNDING).sum()) for sign in (1, -1))
    p = min(1.0, max(2 * min(below, above) / (len(drawn) + 1), smallest_p(tops)))
    return replace(plain, points=observed, low=float(low), high=float(high), p=float(p))


def smallest_p(tops: int) -> float:
    """The least two-sided p that so many paired units can show: that all their signs agree has no less by chance (sign
    test). Resamples of a few TOPs that all point one way would give far less, which is not in the data.
    """
    return float(2.0 ** (1 - tops))


def resamples(tops: int, number: int = RESAMPLES) -> np.ndarray:
    """How often each TOP was drawn, float64 (number, tops); always the same ones."""
    return np.random.default_rng(SEED).multinomial(tops, np.full(tops, 1 / tops), size=number).astype(np.float64)


def difference(first: Matrices, second: Matrices, weights: np.ndarray) -> np.ndarray:
    """mIoU of the first less that of the second, in points, averaged over seeds, for each of ``weights`` (n, TOPs)."""
    return np.mean([_miou(one, weights) - _miou(two, weights) for one, two in zip(first, second, strict=True)], axis=0)


def _miou(matrices: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean IoU in percent of the weighted sums of matrices (TOPs, classes, classes), (n,).

    As :meth:`drdg.metrics.ConfusionMatrix.scores` has it: classes without truth in a sum are left out of its mean.
    """
    classes = matrices.shape[-1]
    sums = (weights @ matrices.reshape(len(matrices), -1)).reshape(-1, classes, classes)
    hit = np.einsum("nii->ni", sums)
    truth, called = sums.sum(axis=2), sums.sum(axis=1)
    occurs = truth > 0
    iou = np.divide(hit, truth + called - hit, out=np.zeros_like(hit), where=occurs)
    return 100 * iou.sum(axis=1) / np.maximum(occurs.sum(axis=1), 1)


def _scored(outcomes: Sequence[Outcome], row: str) -> dict[int, Mapping[str, Any]]:
    found = (outcome.result for outcome in outcomes if outcome.result.name == row)
    return {result.seed: result.metrics for result in found if result.metrics is not None}
