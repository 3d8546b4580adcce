"""Batch norms over ranks: on one, two or four they are one batch norm over the whole batch."""

from __future__ import annotations

import copy
import multiprocessing
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from drdg.config import DistributedConfig, SegmentationConfig
from drdg.distributed.group import Group, process_group
from drdg.distributed.norms import SyncedBatchNorm, average_over_ranks, synchronise_norms
from drdg.distributed.topology import Topology
from drdg.models.keyed import sample_keys
from drdg.models.segmentor import build_segmentor
from drdg.models.segmentor_randomness import make_keyed, seed_randomness
from drdg.models.smp import import_smp

Result = dict[str, Tensor]
Work = Callable[[Group, Any], Result]


def be_rank(rank: int, ranks: int, port: int, work: Work, given: Any, out: Path) -> None:
    torch.set_num_threads(1)
    topology = Topology(rank, ranks, rank, ranks, "127.0.0.1", port, "test")
    with process_group(DistributedConfig(device="cpu", timeout_s=60, threads=1), topology) as group:
        torch.save(work(group, given), out / f"{rank}.pt")


def on_ranks(ranks: int, work: Work, given: Any, out: Path) -> list[Result]:
    """What ``work`` gives on each of so many forks of this process; they are ranks over gloo."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=be_rank, args=(rank, ranks, port, work, given, out)) for rank in range(ranks)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * ranks
    return [torch.load(out / f"{rank}.pt") for rank in range(ranks)]


def parts(group: Group, whole: Tensor) -> Tensor:
    """This rank's samples of the whole batch."""
    return whole.chunk(group.world_size)[group.rank].clone()


def learn(group: Group, given: tuple[nn.Module, Tensor, Tensor, bool]) -> Result:
    """Two updates' gradients of a weighted sum of the outputs, and what the norms remember."""
    network, images, weights, with_ddp = given
    trained = synchronise_norms(copy.deepcopy(network), group)
    own = parts(group, images).requires_grad_()
    wrapped: nn.Module = trained
    if with_ddp and group.world_size > 1:
        wrapped = DistributedDataParallel(trained, broadcast_buffers=False)
    for update in range(2):
        seed_randomness(trained, parts(group, sample_keys(1, torch.arange(len(images)) + 100 * update, 1)))
        output = wrapped(own * (1 + update))
        (output * parts(group, weights)).sum().backward()
    result = {"output": output.detach(), "input.grad": own.grad}
    for name, parameter in trained.named_parameters():
        gradient = parameter.grad
        assert gradient is not None
        # DDP gives the mean over ranks; alone each has its own share of the sum.
        result[f"{name}.grad"] = gradient * group.world_size if with_ddp else group.sum(gradient)
    result |= {f"buffer {name}": buffer for name, buffer in trained.named_buffers()}
    return {**result, "keys": torch.tensor([hash(name) for name in trained.state_dict()])}


def gathered(results: list[Result]) -> Result:
    """The whole batch's outputs and input gradients, and the rest of rank 0, to which the others' are equal."""
    first, whole = results[0], {}
    for name in first:
        if name in ("output", "input.grad"):
            whole[name] = torch.cat([result[name] for result in results])
        else:
            for other in results[1:]:
                assert torch.equal(first[name], other[name]), name
            whole[name] = first[name]
    return whole


def assert_equal(found: Result, wanted: Result, tolerance: float) -> None:
    assert found.keys() == wanted.keys()
    for name in found:
        scale = max(1.0, wanted[name].abs().max().item())
        apart = (found[name].double() - wanted[name].double()).abs().max().item()
        assert apart <= tolerance * scale, (name, apart, scale)


ALONE = Group(Topology(), torch.device("cpu"))


def batch(*shape: int, offset: float = 3.0) -> tuple[Tensor, Tensor]:
    """Samples that differ much from one another, and weights."""
    torch.manual_seed(4)
    values = torch.randn(*shape, dtype=torch.float64)
    return values * torch.arange(1, len(values) + 1).view(-1, *[1] * (len(shape) - 1)) + offset, torch.rand_like(values)


NORMS: dict[str, Callable[[], nn.Module]] = {
    "plain": lambda: nn.BatchNorm2d(3),
    "cumulative": lambda: nn.BatchNorm2d(3, momentum=None, eps=1e-3),
    "without weights": lambda: nn.BatchNorm2d(3, affine=False),
    "without memory": lambda: nn.BatchNorm2d(3, track_running_stats=False),
    "of signals": lambda: nn.Sequential(nn.Flatten(2), nn.BatchNorm1d(3)),
}


@pytest.mark.parametrize("kind", NORMS)
@pytest.mark.parametrize("ranks", [2, 4])
def test_a_norm_is_that_of_the_whole_batch(kind: str, ranks: int, tmp_path: Path) -> None:
    network = NORMS[kind]().double().train()
    for parameter in network.parameters():
        nn.init.normal_(parameter)
    images, weights = batch(8, 3, 5, 7)
    if kind == "of signals":
        weights = weights.flatten(2)
    wanted = learn(ALONE, (network, images, weights, False))
    found = gathered(on_ranks(ranks, learn, (network, images, weights, False), tmp_path))
    assert_equal(found, wanted, 1e-12)


def test_one_pixel_of_one_sample_is_enough_on_each_of_two_ranks(tmp_path: Path) -> None:
    network = nn.BatchNorm2d(3).double()
    images, weights = batch(2, 3, 1, 1)
    wanted = learn(ALONE, (network, images, weights, False))
    found = gathered(on_ranks(2, learn, (network, images, weights, False), tmp_path))
    assert_equal(found, wanted, 1e-12)


def test_a_mean_far_from_zero_costs_no_accuracy(tmp_path: Path) -> None:
    """With sums of squares in float32 the variances would be off by 1e-3 of themselves."""
    images, weights = (values.float() for values in batch(4, 3, 16, 16, offset=300.0))
    truth = learn(ALONE, (nn.BatchNorm2d(3).double(), images.double(), weights.double(), False))
    torchs = learn(ALONE, (nn.BatchNorm2d(3), images, weights, False))
    found = gathered(on_ranks(2, learn, (nn.BatchNorm2d(3), images, weights, False), tmp_path))
    for name in found:
        scale = truth[name].abs().max().item()
        apart, torchs_apart = ((one[name].double() - truth[name]).abs().max().item() for one in (found, torchs))
        assert apart <= 8 * torchs_apart + 1e-6 * scale, name


def uneven(group: Group, given: tuple[nn.Module, Tensor]) -> Result:
    network = synchronise_norms(copy.deepcopy(given[0]), group)
    own = given[1][:1] if group.rank == 0 else given[1][1:]
    return {"output": network(own).detach()} | {f"buffer {name}": value for name, value in network.named_buffers()}


def test_ranks_may_have_differently_many_samples(tmp_path: Path) -> None:
    network, (images, _) = nn.BatchNorm2d(3).double(), batch(5, 3, 4, 4)
    found = gathered(on_ranks(2, uneven, (network, images), tmp_path))
    trained = copy.deepcopy(network)
    wanted = {"output": trained(images).detach()} | {f"buffer {n}": value for n, value in trained.named_buffers()}
    assert_equal(found, wanted, 1e-12)


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("encoder", ["tu-resnet18", "tu-tf_mobilenetv3_small_100"])
def test_a_segmentor_is_that_of_the_whole_batch(encoder: str, ranks: int, tmp_path: Path) -> None:
    """With DDP around it. The second encoder has norms with an activation; the pooled branch has a pixel a sample."""
    torch.manual_seed(0)
    knobs = SegmentationConfig(architecture="DeepLabV3Plus", encoder=encoder, encoder_weights="none")
    network = make_keyed(build_segmentor(knobs, 3)).double().train()
    images = torch.rand(4, 3, 64, 64, dtype=torch.float64)
    weights = torch.rand(4, 3, 64, 64, dtype=torch.float64) / 1000
    wanted = learn(ALONE, (network, images, weights, True))
    found = gathered(on_ranks(ranks, learn, (network, images, weights, True), tmp_path))
    assert_equal(found, wanted, 1e-12)


def test_one_value_over_all_ranks_is_too_few() -> None:
    with pytest.raises(ValueError, match=r"more than one value per channel over all ranks, got \(1, 3, 1, 1\)"):
        SyncedBatchNorm(nn.BatchNorm2d(3), ALONE)(torch.ones(1, 3, 1, 1))


def averages(group: Group, values: Tensor) -> Result:
    average = average_over_ranks(group)
    own = (values + group.rank).requires_grad_()
    return {"mean": average(own), "has gradient": torch.tensor(average(own).requires_grad)}


def test_averages_are_those_of_all_ranks(tmp_path: Path) -> None:
    values = torch.tensor([1.0, 5.0])
    for result in on_ranks(2, averages, values, tmp_path):
        assert torch.equal(result["mean"], values + 0.5)
        assert not result["has gradient"]
    assert average_over_ranks(ALONE)(values) is values


def converted(group: Group, _: Any) -> Result:
    shared = nn.BatchNorm2d(3)
    network = nn.Sequential(shared, nn.Sequential(nn.Conv2d(3, 3, 1), shared), nn.InstanceNorm2d(3)).eval()
    names, weight, memory = list(network.state_dict()), shared.weight, shared.running_mean
    result = synchronise_norms(network, group)
    assert result is network
    assert list(network.state_dict()) == names
    assert isinstance(network[0], SyncedBatchNorm)
    assert network[0] is network[1][1]
    assert not network[0].training
    assert network[0].weight is weight
    assert network[0].running_mean is memory
    assert type(network[2]) is nn.InstanceNorm2d
    assert synchronise_norms(network, group)[0] is network[1][1]
    assert type(synchronise_norms(nn.BatchNorm2d(3), group)) is SyncedBatchNorm

    class Own(nn.BatchNorm2d):
        pass

    with pytest.raises(ValueError, match="class Own cannot be synchronised over 2 ranks; take another"):
        synchronise_norms(nn.Sequential(Own(3)), group)
    images = torch.rand(1, 3, 4, 4)
    plain = nn.BatchNorm2d(3).eval()
    assert torch.equal(network[0](images), plain(images))
    return {"done": torch.ones(1)}


def test_norms_are_replaced_where_they_are(tmp_path: Path) -> None:
    on_ranks(2, converted, None, tmp_path)


def test_one_rank_keeps_torchs_own() -> None:
    network = nn.Sequential(nn.BatchNorm2d(3))
    assert synchronise_norms(network, ALONE) is network
    assert type(network[0]) is nn.BatchNorm2d


def test_on_gpus_they_are_torchs_and_keep_timms_activation() -> None:
    """Nothing runs on a GPU here: only what is put in place is looked at."""
    import_smp()
    from timm.layers import BatchNormAct2d

    network = nn.Sequential(nn.BatchNorm2d(3), BatchNormAct2d(3, act_layer=nn.SiLU))
    names = list(network.state_dict())
    synchronise_norms(network, Group(Topology(0, 2, 0, 2), torch.device("cuda", 0)))
    assert [isinstance(norm, nn.SyncBatchNorm) for norm in network] == [True, True]
    assert isinstance(network[1].act, nn.SiLU)
    assert list(network.state_dict()) == names
