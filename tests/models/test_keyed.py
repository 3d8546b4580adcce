"""Random numbers that belong to a sample: the same wherever and whenever it is seen, and random enough."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from drdg.models.keyed import derive, dropout, keep_mask, sample_keys, uniform


def plain_hash(x: int) -> int:
    """lowbias32 on Python's integers."""
    x ^= x >> 16
    x = x * 0x7FEB352D & 0xFFFFFFFF
    x ^= x >> 15
    x = x * 0x846CA68B & 0xFFFFFFFF
    return x ^ x >> 16


@given(st.integers(0, 2**32 - 1), st.integers(0, 200))
def test_derived_keys_are_the_stated_hash(key: int, tag: int) -> None:
    signed = torch.tensor([key], dtype=torch.int64).to(torch.int32)
    golden = 0x9E3779B9
    expected = plain_hash(plain_hash((key + golden) & 0xFFFFFFFF) ^ (tag * golden & 0xFFFFFFFF))
    assert derive(signed, tag).item() & 0xFFFFFFFF == expected


@given(st.integers(0, 2**40), st.lists(st.integers(0, 2**40), min_size=1, max_size=5))
def test_a_samples_numbers_do_not_depend_on_its_batch(seed: int, positions: list[int]) -> None:
    together = uniform(sample_keys(seed, torch.tensor(positions), 1), (3, 2), torch.float64)
    for row, position in zip(together, positions, strict=True):
        alone = uniform(sample_keys(seed, torch.tensor([position]), 1), (3, 2), torch.float64)
        assert torch.equal(row, alone[0])


def test_other_seeds_positions_and_tags_give_other_numbers() -> None:
    positions = torch.arange(200)
    keys = torch.cat([sample_keys(seed, positions, tag) for seed in range(5) for tag in (1, 2)])
    assert len(set(keys.tolist())) == len(keys)
    far = sample_keys(0, torch.tensor([5, 5 + 2**32]), 1)
    assert far[0] != far[1]


def test_numbers_are_uniform_and_neighbours_unrelated() -> None:
    numbers = uniform(sample_keys(0, torch.arange(50), 1), (64, 64), torch.float64)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    # 204 800 numbers: the mean's standard error is 6e-4, a correlation's 2e-3.
    assert numbers.mean().item() == pytest.approx(0.5, abs=3e-3)
    assert numbers.var().item() == pytest.approx(1 / 12, abs=2e-3)
    flat = numbers.flatten(1) - 0.5
    for a, b in ((flat[:, :-1], flat[:, 1:]), (flat[:-1], flat[1:]), (flat[:, :-64], flat[:, 64:])):
        assert abs((a * b).mean().item() * 12) < 0.01


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_keeps_the_right_share_and_the_mean(rate: float) -> None:
    keys = sample_keys(1, torch.arange(20), 1)
    assert keep_mask(keys, (100, 100), rate).double().mean().item() == pytest.approx(1 - rate, abs=0.005)
    x = torch.ones(20, 100, 100, dtype=torch.float64)
    dropped = dropout(x, rate, keys)
    assert dropped.mean().item() == pytest.approx(1, abs=0.05)
    assert set(dropped.unique().tolist()) == {0.0, 1 / (1 - rate)}
