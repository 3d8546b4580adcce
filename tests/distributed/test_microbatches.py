"""A batch in parts: nothing is lost, no part is too large, and means of parts add up to the mean."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from drdg.config import GanConfig, digest, load_config
from drdg.distributed.microbatches import add_up, count_micro_batches, split


@given(share=st.integers(1, 40), ranks=st.integers(1, 4), most=st.none() | st.integers(1, 50))
def test_parts_make_up_the_batch_and_none_is_too_large(share: int, ranks: int, most: int | None) -> None:
    count = count_micro_batches(GanConfig(batch_size=share * ranks, micro_batch=most), ranks)
    batch = {"image": torch.randn(share, 2, dtype=torch.float64), "position": torch.arange(share)}
    parts = split(batch, count)
    assert len(parts) == count
    for name, values in batch.items():
        assert torch.equal(torch.cat([part[name] for part, _ in parts]), values)
    assert all(1 <= len(part["position"]) <= (most or share) for part, _ in parts)
    means = [(weight, (part["image"].mean(), {"square": part["image"].square().mean()})) for part, weight in parts]
    loss, pieces = add_up(means)
    assert loss.item() == pytest.approx(batch["image"].mean().item(), abs=1e-14)
    assert pieces["square"].item() == pytest.approx(batch["image"].square().mean().item(), abs=1e-14)


def test_a_whole_batch_is_not_touched() -> None:
    batch = {"position": torch.arange(3)}
    ((part, weight),) = split(batch, 1)
    assert torch.equal(part["position"], batch["position"])
    assert weight == 1
    loss = torch.tensor(0.1, requires_grad=True)
    assert add_up([(weight, (loss, {}))])[0].item() == loss.item()


def test_a_run_in_parts_is_the_same_run() -> None:
    whole, parts = load_config(None, ["gan.batch_size=8"]), load_config(None, ["gan.batch_size=8", "gan.micro_batch=2"])
    assert digest({"gan": whole.gan}) == digest({"gan": parts.gan})
    assert digest(whole) == digest(parts)
