"""What is left of a training once its rank has left the others: nothing that would keep the process from ending."""

from __future__ import annotations

import weakref
from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from drdg.distributed.engines import DdpEngine
from drdg.distributed.group import Group
from drdg.distributed.topology import Topology


class Phase(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        return self.layer(batch["x"]).mean(), {}


@pytest.fixture
def group() -> Iterator[Group]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield Group(Topology(), torch.device("cpu"))
    dist.destroy_process_group()


def engine_that_has_updated(group: Group) -> DdpEngine:
    phase = Phase()
    engine = DdpEngine(group, phase, torch.optim.SGD(phase.parameters(), lr=0.1))
    engine.update({"x": torch.ones(3, 2)})
    return engine


def test_an_engine_that_outlives_its_group_does_not_hold_the_connections(group: Group) -> None:
    engine = engine_that_has_updated(group)
    reducer = weakref.ref(engine.wrapped.reducer)
    group.leave()
    assert reducer() is None, "its end would close them, in a thread that has the interpreter's lock"


def test_an_engine_that_is_gone_is_not_missed(group: Group) -> None:
    gone = weakref.ref(engine_that_has_updated(group).wrapped)
    assert gone() is None, "a group must not keep the networks of a training that has ended"
    group.leave()


def test_what_is_to_be_done_before_leaving_is_done_once() -> None:
    group, done = Group(Topology(), torch.device("cpu")), list[str]()
    for name in ("first", "last"):
        group.before_leaving(lambda name=name: done.append(name))
    group.leave()
    group.leave()
    assert done == ["last", "first"]
