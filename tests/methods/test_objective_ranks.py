"""How a batch is shared by ranks changes nothing: not with void pixels on one of them, and not under DDP."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pupils
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils._pytree import tree_map

from drdg.methods import OBJECTIVES, build_objective

SETTINGS = ("output_space.weight=0.3", "mucss.confidence=0.4")
SAMPLES, RANKS, UPDATES = 4, 2, 3


def share(batch: dict[str, Tensor], rank: int) -> dict[str, Tensor]:
    """This rank's part of a batch."""
    size = SAMPLES // RANKS
    return {name: values[rank * size : (rank + 1) * size] for name, values in batch.items()}


def gradients_of(
    name: str, batch: dict[str, Tensor], average: Callable[[Tensor], Tensor]
) -> tuple[list[Tensor], list[dict[str, Tensor]], list[Tensor]]:
    """Losses, parts and all gradients of an update's phases, without its steps."""
    torch.manual_seed(1)
    objective = build_objective(name, pupils.settings(*SETTINGS), pupils.plain_segmentor(), average)
    losses, parts, gradients = [], [], []
    for phase in objective.phases():
        loss, logged = phase.module(batch)
        loss.backward()
        losses.append(loss.detach())
        parts.append(logged)
        gradients += [parameter.grad for parameter in phase.module.parameters()]
    return losses, parts, gradients


@pytest.mark.parametrize("void", ["a few", "all of one rank's", "all"])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_two_ranks_that_know_each_others_counts_are_one(name: str, void: str) -> None:
    batch = pupils.make_batch(samples=SAMPLES)
    if void != "a few":
        batch["label"][: SAMPLES if void == "all" else SAMPLES // RANKS] = pupils.VOID
    # Once to learn the counts, which depend on no average; once with their averages.
    counts: list[list[Tensor]] = []
    for rank in range(RANKS):
        own: list[Tensor] = []

        def record(values: Tensor, own: list[Tensor] = own) -> Tensor:
            own.append(values)
            return values

        gradients_of(name, share(batch, rank), record)
        counts.append(own)
    assert len(counts[0]) == len(counts[1]), "one rank would wait for the other"
    averages = [torch.stack(values).mean(dim=0) for values in zip(*counts, strict=True)]

    def replay() -> Callable[[Tensor], Tensor]:
        left = iter(averages)
        return lambda _: next(left)

    ranks = [gradients_of(name, share(batch, rank), replay()) for rank in range(RANKS)]
    whole = gradients_of(name, batch, pupils.alone)
    mean = tree_map(lambda *values: torch.stack(values).mean(dim=0), *ranks)
    torch.testing.assert_close(mean, whole, rtol=1e-11, atol=1e-13)
    if void == "a few" and name == "mucss":
        assert whole[1][0]["pseudo"] > 0


# ----------------------------------------------------------------------------------------------------------------- DDP


def learn(
    wrap: bool, own: Callable[[dict[str, Tensor]], dict[str, Tensor]], average: Callable[[Tensor], Tensor]
) -> object:
    """The weights of every objective after some updates."""
    learned = {}
    for name in OBJECTIVES:
        torch.manual_seed(1)
        objective = build_objective(name, pupils.settings(*SETTINGS), pupils.plain_segmentor(), average)
        phases = objective.phases()
        # The stricter setting: a parameter without a gradient is an error at the next forward.
        modules = [
            DistributedDataParallel(phase.module, find_unused_parameters=False) if wrap else phase.module
            for phase in phases
        ]
        optimizers = [phase.optimizer(phase.module.parameters()) for phase in phases]
        for number in range(UPDATES):
            batch = own(pupils.make_batch(number, samples=SAMPLES))
            for module, optimizer in zip(modules, optimizers, strict=True):
                optimizer.zero_grad(set_to_none=True)
                module(batch)[0].backward()
                optimizer.step()
        learned[name] = objective.networks.state_dict()
    return learned


def be_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=RANKS)

    def average(values: Tensor) -> Tensor:
        values = values.clone()
        dist.all_reduce(values)
        return values / RANKS

    torch.save(learn(True, lambda batch: share(batch, rank), average), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_under_ddp_learn_what_one_learns(tmp_path: Path) -> None:
    mp.spawn(be_rank, args=(str(tmp_path),), nprocs=RANKS)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(RANKS))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    torch.testing.assert_close(first, learn(False, lambda batch: batch, pupils.alone), rtol=1e-9, atol=1e-10)
