"""Every loss is looked at, and weights in one pass."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from drdg.training.finite import FiniteLosses, is_finite

BAD = (math.nan, math.inf, -math.inf)
LOSSES = st.lists(st.dictionaries(st.integers(0, 1), st.sampled_from((0.0, 1e30, -3.0, *BAD))), max_size=12)


@given(LOSSES)
def test_the_first_bad_loss_is_found_at_once_and_stays(losses: list[dict[int, float]]) -> None:
    looked = FiniteLosses(torch.device("cpu"))
    first = None
    for iteration, by_phase in enumerate(losses, 1):
        looked.add(iteration, {phase: torch.tensor(loss, dtype=torch.float64) for phase, loss in by_phase.items()})
        bad = [phase for phase, loss in by_phase.items() if not math.isfinite(loss)]
        first = first or ((iteration, bad[0]) if bad else None)
        assert looked.first_bad == first
    looked.finish()
    assert looked.first_bad == first


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("bad", BAD)
def test_one_bad_weight_anywhere_is_found(dtype: torch.dtype, bad: float) -> None:
    for size in (1, 7, 64, 1000):
        for place in {0, size // 2, size - 1}:
            weights = [torch.ones(3, dtype=dtype), torch.linspace(-3e30, 3e30, size, dtype=dtype)]
            assert is_finite(weights)
            weights[1][place] = bad
            assert not is_finite(weights)


def test_nothing_is_finite() -> None:
    assert is_finite([])
    assert is_finite([torch.empty(0), torch.tensor(1.0)])
