"""What is computed on the device, against the functions of one sample in NumPy, bit for bit."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from drdg.config import DsmConfig
from drdg.shards import prepare
from drdg.tiles.dsm import normalise, scaling, to_metres
from drdg.tiles.ground import GroundPatch, upsample

metres = st.floats(-500, 9000)


def same(found: torch.Tensor, wanted: np.ndarray) -> bool:
    return found.dtype == torch.from_numpy(wanted).dtype and np.array_equal(found.numpy(), wanted)


def random_steps(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 65535, shape, dtype=np.uint16)


@given(
    seed=st.integers(0, 2**32),
    rule=st.sampled_from(["dataset", "top", "height_above_ground"]),
    kind=st.sampled_from(["unit", "symmetric"]),
    offsets=st.lists(metres, min_size=1, max_size=3),
    lows=st.lists(metres, min_size=3, max_size=3),
    extents=st.lists(st.sampled_from([0.0, 0.01, 7.3, 655.34]), min_size=3, max_size=3),
)
def test_heights_are_normalised_as_in_numpy(
    seed: int, rule: Any, kind: Any, offsets: list[float], lows: list[float], extents: list[float]
) -> None:
    count = len(offsets)
    config = DsmConfig(rule=rule, range=kind)
    steps = random_steps(seed, count, 5, 7)
    ground = random_steps(seed + 1, count, 5, 7).astype(np.float32) / 100
    ranges = [(low, low + extent) for low, extent in zip(lows, extents, strict=True)]
    numbers = [(offset, *scaling(config, ranges[0], ranges[i])) for i, offset in enumerate(offsets)]
    with_ground = rule == "height_above_ground"
    found = prepare.heights(
        torch.from_numpy(steps),
        torch.tensor(numbers, dtype=torch.float64),
        torch.from_numpy(ground) if with_ground else None,
        symmetric=kind == "symmetric",
    )
    assert found.shape == (count, 1, 5, 7)
    for i, offset in enumerate(offsets):
        wanted = normalise(
            to_metres(steps[i], offset),
            config,
            dataset_range_m=ranges[0],
            top_range_m=ranges[i],
            ground_m=ground[i] if with_ground else None,
        )
        assert same(found[i, 0], wanted)


@given(
    seed=st.integers(0, 2**32),
    samples=st.lists(
        st.tuples(
            st.integers(1, 9),  # rows of cells
            st.integers(1, 9),  # columns of cells
            st.floats(-40, 40),  # row of the first cell's centre
            st.floats(-40, 40),  # column of it
            st.integers(1, 20),  # pixels to a cell
            metres,
        ),
        min_size=1,
        max_size=3,
    ),
    size=st.tuples(st.integers(1, 50), st.integers(1, 50)),
)
@settings(max_examples=200)
def test_ground_is_interpolated_as_in_numpy(
    seed: int, samples: list[tuple[int, int, float, float, int, float]], size: tuple[int, int]
) -> None:
    shape = tuple(max(sample[axis] for sample in samples) for axis in (0, 1))
    steps = random_steps(seed, len(samples), *shape)  # the padding is anything
    cells = [(offset, row, col, cell, rows, cols) for rows, cols, row, col, cell, offset in samples]
    found = prepare.ground(torch.from_numpy(steps), torch.tensor(cells, dtype=torch.float64), *size)
    for i, (rows, cols, row, col, cell, offset) in enumerate(samples):
        patch = GroundPatch(to_metres(steps[i, :rows, :cols], offset), (row, col), cell)
        assert same(found[i], upsample(patch, *size))


def test_every_symmetry_is_its_flips_and_then_its_transposition() -> None:
    images = np.random.default_rng(0).integers(0, 256, (8, 3, 6, 6), dtype=np.uint8)
    symmetries = list(itertools.product([False, True], repeat=3))
    found = prepare.turned(torch.from_numpy(images), torch.tensor(symmetries))
    for turned, image, (upside, mirror, transpose) in zip(found, images, symmetries, strict=True):
        wanted = image[:, :: -1 if upside else 1, :: -1 if mirror else 1]
        assert same(turned, np.ascontiguousarray(wanted.transpose(0, 2, 1) if transpose else wanted))


@pytest.mark.parametrize("count", [1, 3])
def test_channels_come_first_and_lie_together(count: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (count, 5, 7, 3), dtype=np.uint8)
    found = prepare.channels_first(torch.from_numpy(images))
    assert found.is_contiguous()
    assert same(found, np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def test_nothing_waits_for_the_device() -> None:
    """Tensors of torch's device without values: whatever asked for one would fail."""
    there = torch.device("meta")
    steps = torch.empty((2, 8, 8), dtype=torch.uint16, device=there)
    ground = prepare.ground(steps, torch.empty((2, 6), dtype=torch.float64, device=there), 16, 16)
    numbers = torch.empty((2, 3), dtype=torch.float64, device=there)
    assert prepare.heights(steps, numbers, None, symmetric=True).shape == (2, 1, 8, 8)
    steps = torch.empty((2, 16, 16), dtype=torch.uint16, device=there)
    assert prepare.heights(steps, numbers, ground, symmetric=False).shape == (2, 1, 16, 16)
    images = prepare.channels_first(torch.empty((2, 8, 8, 3), dtype=torch.uint8, device=there))
    assert prepare.turned(images, torch.empty((2, 3), dtype=torch.bool, device=there)).shape == (2, 3, 8, 8)
