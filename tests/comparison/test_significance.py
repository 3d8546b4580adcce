"""Whether rows differ beyond the choice of TOPs: against a plain statement of it, and in cases one can foresee."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drdg.comparison.runs import Outcome
from drdg.comparison.significance import (
    RESAMPLES,
    Contrast,
    compare_matrices,
    contrasts,
    difference,
    explanation,
    resamples,
)
from drdg.report import RowResult

PLAIN = Contrast("drdg", "rdg")
RNG = np.random.default_rng(3)


def plain_miou(matrix: list[list[float]]) -> float:
    """Mean IoU in percent over the classes of the truth, from its definition, pixel counts one by one."""
    classes = range(len(matrix))
    scores = []
    for one in classes:
        hit = matrix[one][one]
        missed = sum(matrix[one][other] for other in classes if other != one)
        wrongly = sum(matrix[other][one] for other in classes if other != one)
        if hit + missed > 0:
            scores.append(100 * hit / (hit + missed + wrongly))
    return sum(scores) / len(scores)


def plain_difference(first: np.ndarray, second: np.ndarray, drawn: list[int]) -> float:
    """The difference on TOPs that were drawn, some more than once, averaged over seeds."""
    found = []
    for one, two in zip(first.tolist(), second.tolist(), strict=True):
        scores = []
        for tops in (one, two):
            classes = range(len(tops[0]))
            total = [[0.0 for _ in classes] for _ in classes]
            for top in drawn:
                for truth in classes:
                    for called in classes:
                        total[truth][called] += tops[top][truth][called]
            scores.append(plain_miou(total))
        found.append(scores[0] - scores[1])
    return sum(found) / len(found)


def counts(seeds: int, tops: int, right: float, classes: int = 4) -> np.ndarray:
    matrices = RNG.integers(0, 400, (seeds, tops, classes, classes))
    matrices[..., range(classes), range(classes)] += int(5000 * right)
    return matrices


def test_differences_are_those_of_the_definition() -> None:
    first, second = counts(2, 5, 0.5), counts(2, 5, 0.4)
    second[:, 0, 2] = first[:, 0, 2] = 0  # a class that one TOP does not have
    first[:, :, 3] = second[:, :, 3] = 0  # and one that none has, which both call some pixels
    first[:, 1:, 3], second[:, 1:, 3] = 9, 9
    draws = [*RNG.integers(0, 5, (200, 5)).tolist(), [0] * 5]
    weights = np.array([[draw.count(top) for top in range(5)] for draw in draws], dtype=np.float64)
    expected = [plain_difference(first, second, draw) for draw in draws]
    assert difference(first, second, weights) == pytest.approx(expected, abs=1e-9)


def test_the_interval_and_the_p_are_those_of_all_resamples() -> None:
    first, second = counts(2, 6, 0.42), counts(2, 6, 0.40)
    found = compare_matrices(first, second, PLAIN)
    known: dict[tuple[int, ...], float] = {}
    for row in resamples(6):
        draw = tuple(top for top, times in enumerate(row) for _ in range(int(times)))
        if draw not in known:  # six TOPs are drawn in 462 ways
            known[draw] = plain_difference(first, second, list(draw))
    drawn = sorted(known[tuple(np.repeat(range(6), row.astype(int)).tolist())] for row in resamples(6))
    assert found.points == pytest.approx(plain_difference(first, second, list(range(6))))
    assert (found.low, found.high) == pytest.approx((drawn[250], drawn[-251]), abs=0.02)
    below, above = sum(value <= 0 for value in drawn), sum(value >= 0 for value in drawn)
    assert 0.05 < 2 * min(below, above) / len(drawn) < 1, "a case that is neither sure nor even"
    assert found.p == pytest.approx(2 * min(below + 1, above + 1) / (len(drawn) + 1))


def test_resamples_are_draws_with_replacement_and_always_the_same() -> None:
    drawn = resamples(7)
    assert drawn.shape == (RESAMPLES, 7)
    assert (drawn.sum(axis=1) == 7).all()
    assert drawn.mean(axis=0) == pytest.approx(np.ones(7), abs=0.05)
    assert drawn.var(axis=0) == pytest.approx(np.full(7, 6 / 7), abs=0.05)  # of a binomial (7, 1/7)
    assert (drawn == resamples(7)).all()


def test_a_row_does_not_differ_from_itself() -> None:
    matrices = counts(3, 8, 0.5)
    found = compare_matrices(matrices, matrices.copy(), PLAIN)
    assert (found.points, found.low, found.high, found.p) == (0, 0, 0, 1)


def test_a_gain_on_every_top_is_sure_and_one_on_a_single_top_is_not() -> None:
    second = counts(2, 8, 0.4)
    everywhere, once = second.copy(), second.copy()
    diagonal = range(4)
    everywhere[:, :, diagonal, diagonal] += 2000
    once[:, 0, diagonal, diagonal] += 2000
    sure = compare_matrices(everywhere, second, PLAIN)
    assert sure.p == 2 / 2**8  # eight signs that agree
    many = compare_matrices(np.tile(everywhere, (1, 3, 1, 1)), np.tile(second, (1, 3, 1, 1)), PLAIN)
    assert many.p == pytest.approx(2 / (RESAMPLES + 1))
    assert sure.low is not None
    assert sure.low > 0
    doubtful = compare_matrices(once, second, PLAIN)
    assert doubtful.p is not None
    assert doubtful.p > 0.3
    turned = compare_matrices(second, everywhere, PLAIN)
    assert turned.p == sure.p
    assert (turned.points, turned.low) == pytest.approx((-sure.points, -sure.high))  # type: ignore[operator]


def outcome(row: str, seed: int, right: float = 0.5, **other: Any) -> Outcome:
    by_top = dict(zip("abc", counts(1, 3, right)[0].tolist(), strict=True))
    metrics = {"tops": list("abc"), "protocol": "global", "confusion_by_top": by_top} | other
    return Outcome(
        Path("run"), RowResult(row, seed, {key: value for key, value in metrics.items() if value is not None})
    )


def test_rows_are_compared_at_the_seeds_that_both_have() -> None:
    lost = Outcome(Path("run"), RowResult("baseline", 0, None, "it failed"))
    rows = [
        lost,
        *(outcome("rdg", seed, 0.3) for seed in (0, 1, 4)),
        *(outcome("drdg", seed, 0.6) for seed in (1, 2, 4)),
    ]
    found = contrasts(rows)
    assert [contrast.other for contrast in found] == ["baseline", "rdg"]
    assert found[0].reason == "Baseline has no scores"
    assert found[1].seeds == (1, 4)
    assert found[1].tops == ("a", "b", "c")
    assert found[1].points is not None
    assert found[1].points > 0
    assert found[1].label == "DRDG − RDG"
    said = " ".join(explanation(found))
    assert "over the 3 TOPs that were scored, not over trainings" in said
    assert "weak evidence" in said
    assert explanation(found[:1]) == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"protocol": "authors_batch_mean"}, "averages over batches of tiles"),
        ({"confusion_by_top": None}, "no counts for each TOP; evaluate again"),
        ({"confusion_by_top": {"a": [[1]]}}, "of different TOPs"),
        ({"tops": ["a"], "confusion_by_top": {"a": [[1]]}}, "only 1 TOP was scored"),
    ],
)
def test_why_rows_are_not_compared(change: dict[str, Any], reason: str) -> None:
    found = contrasts([outcome("drdg", 0, **change), outcome("rdg", 0, **change)])
    assert found[0].p is None
    assert reason in str(found[0].reason)


def test_rows_without_a_common_seed_or_a_reference() -> None:
    assert contrasts([outcome("drdg", 0), outcome("rdg", 1)])[0].reason == "the rows have no seed in common"
    assert contrasts([outcome("rdg", 1)])[0].reason == "DRDG has no scores"
    assert contrasts([outcome("drdg", 1)]) == []
