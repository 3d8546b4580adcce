"""The image pool: what is shown and kept is a function of the sample stream, on any number of ranks."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from drdg.models.pool import ImagePool

TAG = 3


def image_at(position: int, seed: int) -> Tensor:
    """A tiny image that says which sample it is of."""
    return torch.full((2, 1, 1), float(position * 1000 + seed % 7), dtype=torch.float64)


def run(
    seed: int,
    capacity: int,
    batch: int,
    ranks: int,
    first: int,
    last: int,
    lanes: list[dict[str, Tensor]] | None = None,
) -> tuple[Tensor, list[dict[str, Tensor]]]:
    """What the ranks together are shown at the steps from ``first`` up to ``last``, (steps, batch), and their lanes."""
    lanes = [{} for _ in range(ranks)] if lanes is None else lanes
    pools = [ImagePool(own, "target", capacity, seed, TAG) for own in lanes]
    share = batch // ranks
    shown = []
    for step in range(first, last):
        row = []
        for rank, pool in enumerate(pools):
            positions = range(step * batch + rank * share, step * batch + (rank + 1) * share)
            images = torch.stack([image_at(position, seed) for position in positions])
            row.append(pool(images, torch.tensor(positions)))
        shown.append(torch.cat(row)[:, 0, 0, 0])
    return torch.stack(shown) if shown else torch.zeros(0, batch, dtype=torch.float64), lanes


def join(lanes: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([own[name] for own in lanes]) for name in lanes[0]}


def part(lanes: dict[str, Tensor], ranks: int) -> list[dict[str, Tensor]]:
    return [{name: v.tensor_split(ranks)[rank].clone() for name, v in lanes.items()} for rank in range(ranks)]


streams = {"seed": st.integers(0, 2**40), "capacity": st.integers(1, 6), "steps": st.integers(1, 25)}


@given(**streams)
def test_ranks_see_what_one_rank_sees(seed: int, capacity: int, steps: int) -> None:
    alone, kept = run(seed, capacity, 4, 1, 0, steps)
    for ranks in (2, 4):
        together, shares = run(seed, capacity, 4, ranks, 0, steps)
        assert torch.equal(together, alone)
        for name, values in join(shares).items():
            assert torch.equal(values, kept[0][name])


@given(**streams, stop=st.integers(1, 24), other=st.sampled_from([1, 2, 4]))
def test_lanes_go_over_to_other_numbers_of_ranks(seed: int, capacity: int, steps: int, stop: int, other: int) -> None:
    whole, kept = run(seed, capacity, 4, 2, 0, stop + steps)
    _, first = run(seed, capacity, 4, 2, 0, stop)
    rest, last = run(seed, capacity, 4, other, stop, stop + steps, part(join(first), other))
    assert torch.equal(rest, whole[stop:])
    for name, values in join(last).items():
        assert torch.equal(values, join(kept)[name])


@given(**streams)
def test_the_first_images_pass_and_nothing_is_lost_or_made_up(seed: int, capacity: int, steps: int) -> None:
    shown, (lanes,) = run(seed, capacity, 2, 1, 0, steps)
    for lane in range(2):
        own = [image_at(step * 2 + lane, seed)[0, 0, 0].item() for step in range(steps)]
        seen = shown[:, lane].tolist()
        assert seen[:capacity] == own[:capacity]
        filled = int(lanes["target_pooled"][lane])
        assert filled == min(steps, capacity)
        kept = lanes["target_pool"][lane, :filled, 0, 0, 0].tolist()
        assert len(set(kept)) == filled
        assert set(kept) <= set(own)
        swapped_in = set(own[capacity:]) - set(seen)  # taken in and not shown yet
        assert swapped_in <= set(kept)
        for step in range(capacity, steps):  # shown now: the image itself, or one of before
            assert seen[step] in own[: step + 1]


def test_half_of_the_images_are_swapped_and_every_entry_is_met() -> None:
    capacity, steps = 5, 2000
    shown, _ = run(1, capacity, 1, 1, 0, steps)
    own = torch.tensor([image_at(step, 1)[0, 0, 0].item() for step in range(steps)], dtype=torch.float64)
    earlier = (shown[:, 0] != own)[capacity:]
    # 1995 draws at one half: the standard error is 0.011.
    assert earlier.double().mean().item() == pytest.approx(0.5, abs=0.045)
    # An entry stays for a geometric number of swaps of mean 5, two iterations each.
    age = ((own - shown[:, 0]) / 1000)[capacity:][earlier[: steps - capacity]]
    assert age.mean().item() == pytest.approx(2 * capacity, rel=0.15)


def test_another_use_or_seed_swaps_others() -> None:
    outcomes = set()
    for seed, tag in ((1, 3), (1, 4), (2, 3)):
        pool = ImagePool({}, "source", 1, seed, tag)
        shown = [pool(torch.full((1, 1, 1, 1), float(n)), torch.tensor([n])).item() for n in range(40)]
        outcomes.add(tuple(a == b for a, b in zip(shown, range(40), strict=True)))
    assert len(outcomes) == 3
