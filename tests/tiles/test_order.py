from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from drdg.tiles.order import draw, permutation, uniforms


@given(st.integers(0, 300), st.integers(0, 2**70))
def test_a_permutation_holds_every_number_once(length: int, seed: int) -> None:
    assert np.array_equal(np.sort(permutation(length, "x", seed)), np.arange(length))


def test_the_order_never_changes() -> None:
    """Shards and runs of earlier versions depend on these values."""
    assert permutation(8, "plan", 0).tolist() == [0, 6, 5, 1, 2, 3, 7, 4]
    assert [draw(100, "source", 0, position) for position in range(4)] == [24, 59, 23, 85]
    assert uniforms(2, "augment", 1, 2).tolist() == [0.9431910607649955, 0.8596217096670028]


def test_keys_are_told_apart() -> None:
    keys = [(1, 2), (1, 2, 0), (12,), ("1", 2), (2, 1), ("1, 2",)]
    assert len({permutation(50, *key).tobytes() for key in keys}) == len(keys)
    assert np.array_equal(permutation(50, np.int64(1)), permutation(50, 1))


def test_draws_are_uniform() -> None:
    counts = np.bincount([draw(10, "u", position) for position in range(10_000)], minlength=10)
    assert abs(counts - 1000).max() < 150  # 5 standard deviations of a binomial
    values = uniforms(10_000, "v")
    assert 0 <= values.min() < values.max() < 1
    assert abs(values.mean() - 0.5) < 0.015
