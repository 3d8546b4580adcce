"""ZeRO's pieces, put together and cut again, for any shapes, paddings and number of ranks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import Parameter

from drdg.distributed.partitions import Partition, cut_state, whole_state


@dataclass
class Ranks:
    """One of some ranks, whose pieces are all here."""

    rank: int
    world_size: int
    pieces: dict[int, list[torch.Tensor]]

    def gather(self, piece: torch.Tensor) -> torch.Tensor:
        return torch.stack(self.pieces[piece.data_ptr()])


shapes = st.lists(st.lists(st.integers(1, 4), max_size=3).map(tuple), min_size=1, max_size=5)


@st.composite
def laid_out(draw: st.DrawFn) -> tuple[list[Parameter], int]:
    """Parameters as views of one buffer with gaps, whose length is a multiple of the number of ranks."""
    ranks, offset, places = draw(st.integers(1, 5)), 0, []
    for shape in draw(shapes):
        offset += draw(st.integers(0, 3))
        places.append((offset, shape))
        offset += math.prod(shape)
    buffer = torch.randn(math.ceil(offset / ranks) * ranks)
    order = draw(st.permutations(places))
    return [Parameter(buffer.narrow(0, at, math.prod(shape)).view(shape)) for at, shape in order], ranks


@given(laid_out())
def test_a_state_is_put_together_and_cut_into_the_same_pieces(case: tuple[list[Parameter], int]) -> None:
    parameters, ranks = case
    length = parameters[0].untyped_storage().nbytes() // 4 // ranks
    torchs = [torch.randn(parameter.shape) for parameter in parameters]
    plain: dict[str, Any] = {
        "state": {
            place: {"step": torch.tensor(7.0), "exp_avg": value, "exp_avg_sq": 2 * value}
            for place, value in enumerate(torchs)
        },
        "param_groups": [{"lr": 0.1, "betas": (0.5, 0.9), "params": list(range(len(parameters)))}],
    }
    piece_of = [Partition(parameters, torch.zeros(length), Ranks(rank, ranks, {})) for rank in range(ranks)]
    cut = [cut_state(plain, [partition]) for partition in piece_of]
    assert all(state["param_groups"] == [{"lr": 0.1, "betas": (0.5, 0.9), "params": [0]}] for state in cut)
    for rank, partition in enumerate(piece_of):
        for name in ("exp_avg", "exp_avg_sq"):
            partition.group.pieces[cut[rank]["state"][0][name].data_ptr()] = [state["state"][0][name] for state in cut]
        whole = whole_state(cut[rank], [partition])
        assert whole["param_groups"] == plain["param_groups"]
        for place, value in enumerate(torchs):
            assert whole["state"][place].keys() == plain["state"][place].keys()
            assert torch.equal(whole["state"][place]["exp_avg"], value)
            assert torch.equal(whole["state"][place]["exp_avg_sq"], 2 * value)
            assert whole["state"][place]["step"].item() == 7
        steps = {id(row["step"]) for row in whole["state"].values()}
        assert len(steps) == len(parameters)  # torch adds 1 to each in place


def test_an_optimizer_that_has_not_stepped_has_no_state_either_way() -> None:
    parameters = [Parameter(torch.zeros(4))]
    partition = Partition(parameters, torch.zeros(4), Ranks(0, 1, {}))
    group = {"lr": 0.1, "params": [0]}
    assert whole_state({"state": {}, "param_groups": [group]}, [partition]) == {"state": {}, "param_groups": [group]}
    assert cut_state({"state": {}, "param_groups": [group]}, [partition]) == {"state": {}, "param_groups": [group]}


@given(laid_out(), st.data())
def test_a_parameter_without_a_state_becomes_zeros(case: tuple[list[Parameter], int], data: st.DataObject) -> None:
    parameters, ranks = case
    length = parameters[0].untyped_storage().nbytes() // 4 // ranks
    idle = data.draw(st.sets(st.integers(0, len(parameters) - 1), max_size=len(parameters) - 1))

    def plain(value_of: dict[int, torch.Tensor]) -> dict[str, Any]:
        rows = {place: {"step": torch.tensor(7.0), "exp_avg": value} for place, value in value_of.items()}
        return {"state": rows, "param_groups": [{"lr": 0.1, "params": list(range(len(parameters)))}]}

    busy = {n: torch.randn(p.shape) for n, p in enumerate(parameters) if n not in idle}
    everyone = {n: busy.get(n, torch.zeros(p.shape)) for n, p in enumerate(parameters)}
    for rank in range(ranks):
        partition = Partition(parameters, torch.zeros(length), Ranks(rank, ranks, {}))
        some, all_ = (cut_state(plain(values), [partition])["state"][0] for values in (busy, everyone))
        assert torch.equal(some["exp_avg"], all_["exp_avg"])
        assert some["step"] == all_["step"]
