from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from drdg.config import DsmConfig
from drdg.tiles.dsm import normalise, to_metres, to_steps, whole_steps

RANGES = {"dataset_range_m": (100.0, 200.0), "top_range_m": (120.0, 140.0), "ground_m": None}


@given(
    arrays.arrays(np.float32, (5, 7), elements=st.floats(0, 655, width=32)),
    st.floats(-430, 8000, width=32),
)
def test_heights_come_back_to_a_centimetre(relief: np.ndarray, base: float) -> None:
    heights = relief + np.float32(base)
    steps, offset = to_steps(whole_steps(heights), "x")
    assert steps.dtype == np.uint16
    assert np.abs(to_metres(steps, offset) - heights).max() <= 0.006  # half a step and float32's rounding at 8000 m


@given(arrays.arrays(np.int32, (4, 4), elements=st.integers(-40_000, 20_000)))
def test_heights_in_whole_centimetres_come_back_exactly(centimetres: np.ndarray) -> None:
    steps, offset = to_steps(whole_steps(centimetres / 100), "x")
    assert np.array_equal(steps.astype(int) + round(offset * 100), centimetres)


@given(
    arrays.arrays(
        np.float32, st.tuples(st.integers(1, 70), st.integers(1, 5)), elements=st.floats(-500, 9000, width=32)
    )
)
def test_steps_are_the_nearest_centimetres(heights: np.ndarray) -> None:
    """As the plain statement has it, however many rows are worked on together."""
    steps = whole_steps(heights)
    assert steps.dtype == np.int32
    assert steps.tolist() == [[round(float(height) * 100) for height in row] for row in heights]


def test_a_cliff_that_does_not_fit_is_refused() -> None:
    assert to_steps(whole_steps(np.array([[0.0, 655.34]])), "x")[0].max() == 65534
    with pytest.raises(ValueError, match=r"^dsm\.tif \(rows 0-1\): heights differ by 655\.35 m .* 655\.34 m"):
        to_steps(whole_steps(np.array([[0.0, 655.35]])), "dsm.tif (rows 0-1)")


def test_the_dataset_rule_spans_all_tops() -> None:
    heights = np.array([[90, 100, 150, 200, 300]], np.float32)
    assert normalise(heights, DsmConfig(), **RANGES).tolist() == [[0, 0, 0.5, 1, 1]]


def test_the_top_rule_spans_one_top() -> None:
    scaled = normalise(np.array([[120, 130, 140]], np.float32), DsmConfig(rule="top"), **RANGES)
    assert np.allclose(scaled, [[0, 0.5, 1]], atol=1e-7)


def test_height_above_ground_ends_at_the_ceiling() -> None:
    ground = np.array([[100, 110, 120, 130]], np.float32)
    heights = np.array([[99, 115, 140, 135]], np.float32)
    config = DsmConfig(rule="height_above_ground", ceiling_m=20)
    assert np.allclose(normalise(heights, config, **(RANGES | {"ground_m": ground})), [[0, 0.25, 1, 0.25]], atol=1e-7)


def test_the_symmetric_range_is_the_unit_range_stretched() -> None:
    heights = np.random.default_rng(0).uniform(90, 210, (6, 6)).astype(np.float32)
    unit = normalise(heights, DsmConfig(), **RANGES)
    symmetric = normalise(heights, DsmConfig(range="symmetric"), **RANGES)
    assert np.array_equal(symmetric, unit * 2 - 1)
    assert (symmetric.min(), symmetric.max(), symmetric.dtype) == (-1, 1, np.float32)


@pytest.mark.parametrize(("kind", "level"), [("unit", 0), ("symmetric", -1)])
def test_a_flat_domain_is_zero_height(kind: str, level: float) -> None:
    flat = RANGES | {"dataset_range_m": (5.0, 5.0)}
    assert np.all(normalise(np.full((3, 3), 5, np.float32), DsmConfig(range=kind), **flat) == level)
