"""The cost model beside figures worked out by hand, and what it counts beside what is known of the networks."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from drdg.bench.cost import BUCKET, Cluster, Gpu, Phase, all_reduce_s, buckets_of, exposed_s, iteration, ring_s, tree_s
from drdg.bench.cost_counts import Flops, checkpoint_bytes, count_phases, pair_bytes
from drdg.bench.cost_inputs import Machine
from drdg.bench.cost_table import Costs, Row, report
from drdg.config import load_config
from drdg.methods import build_translator

REPOSITORY = Path(__file__).parents[2]
COMMAND = [sys.executable, "launch/bench.py", "cost"]
# Round numbers: 100 GB/s within a node, two cards of 10 GB/s each, steps of 1, 10 and 20 µs, 50 µs to begin.
PLAIN = Cluster(
    1,
    4,
    nvlink=100e9,
    nics=2,
    nic=10e9,
    nvlink_latency=1e-6,
    nic_latency=1e-5,
    tree_nic_latency=2e-5,
    base_latency=5e-5,
)
MANY = replace(PLAIN, nodes=8)


def test_a_ring_in_one_node_by_hand() -> None:
    # 4 GPUs: 6 steps of 1 µs, and 1.5 times 1 GB at 100 GB/s.
    assert ring_s(PLAIN, 1e9) == pytest.approx(6e-6 + 15e-3)


def test_a_ring_over_nodes_by_hand() -> None:
    # 32 GPUs: 62 steps, of which 14 of 10 µs and 48 of 1 µs; 62/32 times 1 GB over two cards at 20 GB/s together.
    assert ring_s(MANY, 1e9) == pytest.approx(188e-6 + 96.875e-3)


def test_a_tree_by_hand() -> None:
    # 8 nodes: 6 steps within nodes, 2 * 3 of 20 µs between them; 1 GB up and down.
    assert tree_s(MANY, 1e9) == pytest.approx(126e-6 + 100e-3)
    assert tree_s(PLAIN, 1e9) == pytest.approx(6e-6 + 20e-3)


def test_the_faster_way_is_taken_and_one_gpu_sends_nothing() -> None:
    assert all_reduce_s(MANY, 1e9) == pytest.approx(50e-6 + 97.063e-3)  # much to send: the ring
    assert all_reduce_s(MANY, 1e3) == pytest.approx(50e-6 + 126e-6 + 1e-7)  # little: the tree
    assert all_reduce_s(replace(PLAIN, gpus=1), 1e9) == 0


def test_nvlink_can_be_what_limits_many_cards() -> None:
    assert MANY.bandwidth == 20e9
    assert replace(MANY, nics=8, nic=50e9).bandwidth == 100e9
    assert PLAIN.bandwidth == 100e9


def test_buckets() -> None:
    assert buckets_of(2.5 * BUCKET) == [BUCKET, BUCKET, BUCKET / 2]
    assert buckets_of(BUCKET) == [BUCKET]
    assert sum(buckets_of(546_492_448)) == 546_492_448


def test_what_is_hidden_behind_the_backward_by_hand() -> None:
    # Without latencies a bucket takes 1.5 * 26.2144 MB / 26.2144 GB/s = 1.5 ms.
    bare = Cluster(
        1, 4, nvlink=BUCKET * 1e3, nics=1, nic=1.0, nvlink_latency=0, nic_latency=0, tree_nic_latency=0, base_latency=0
    )
    assert all_reduce_s(bare, BUCKET) == pytest.approx(1.5e-3)
    # Four buckets, ready after 92.5, 95, 97.5 and 100 ms: each is gone before the next, so only the last is left.
    assert exposed_s(bare, 0.1, 0.1, 4 * BUCKET) == pytest.approx(1.5e-3)
    # Ready after 99.25, 99.5, 99.75 and 100 ms: they queue from 99.25 ms on.
    assert exposed_s(bare, 0.1, 0.01, 4 * BUCKET) == pytest.approx(4 * 1.5e-3 - 0.75e-3)
    # All at the end: nothing is hidden.
    assert exposed_s(bare, 0.1, 0.0, 4 * BUCKET) == pytest.approx(6e-3)


CRITIC = Phase("critic", flop=1e12, weights=BUCKET // 4, every=1, kernels=1000, window=0.0)
GENERATOR = Phase("generator", flop=4e12, weights=2 * BUCKET // 4, every=5, kernels=2000, window=0.0)


def test_an_iteration_by_hand() -> None:
    gpu = Gpu(flop_per_s=1e14, launch_s=1e-5)
    # 10 ms of arithmetic and of launches alike, and a fifth of 40 ms.
    one = iteration([CRITIC, GENERATOR], gpu, replace(PLAIN, gpus=1), 1, 4)
    assert one.seconds == one.computed_s == pytest.approx(18e-3)
    assert one.pairs_per_s == pytest.approx(1 / 18e-3)
    # A bucket: 50 µs, 6 steps of 1 µs, 1.5 * 26.2144 MB at 100 GB/s: 449.216 µs. One each time and a fifth of two.
    many = iteration([CRITIC, GENERATOR], gpu, PLAIN, 1, 4)
    assert (many.sent_s, many.exposed_s) == pytest.approx((1.4 * 449.216e-6, 1.4 * 449.216e-6))
    assert many.global_batch == 4
    assert many.efficiency(one) == pytest.approx(18 / (18 + 1.4 * 0.449216))
    # Half as many bytes in a gradient: half a bucket, and a fifth of a whole one.
    half = iteration([CRITIC, GENERATOR], gpu, PLAIN, 1, 2)
    assert half.sent_s == pytest.approx(252.608e-6 + 0.2 * 449.216e-6)


def test_few_pairs_are_bound_by_launches() -> None:
    gpu = Gpu(flop_per_s=1e15, launch_s=1e-5)
    assert gpu.seconds(CRITIC, 1) == pytest.approx(10e-3)
    assert gpu.seconds(CRITIC, 20) == pytest.approx(20e-3)


def test_the_papers_networks_are_counted() -> None:
    """945 GFLOP for the critics; the generators' 2130 GFLOP of the released code less the weights' gradients of critics
    that it does not freeze: two passes of 47.3 and 15.4 GFLOP forward, one of which each is for weights.
    """
    critic, generator = count_phases(load_config(None, []))
    assert (critic.weights, generator.weights) == (2 * 6_960_961, 2 * 68_311_556)
    assert critic.flop / 1e9 == pytest.approx(945, abs=1)
    assert generator.flop / 1e9 == pytest.approx(2130 - 47.3 - 15.4, abs=2)
    assert (critic.every, generator.every) == (1, 5)
    assert pair_bytes(load_config(None, [])) == 5 * (896**2 + 512**2)


def test_operations_of_a_convolution_by_hand() -> None:
    network = torch.nn.Conv2d(3, 8, kernel_size=4, stride=2, padding=1, bias=False, device="meta")
    with Flops() as flops:
        network(torch.empty(2, 3, 16, 16, device="meta"))
    assert flops.count == 2 * 2 * 8 * 8 * 8 * 3 * 16


def test_a_checkpoint_has_the_bytes_of_a_real_ones_tensors() -> None:
    config = load_config(None, ["generator.width=2", "critic.width=2"])
    phases, translator = count_phases(config), build_translator("drdg", config)
    total = 0
    for phase in translator.phases():
        parameters = [parameter for parameter in phase.module.parameters() if parameter.requires_grad]
        optimizer = phase.optimizer(parameters)
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        kept = [value for state in optimizer.state.values() for name, value in state.items() if name != "step"]
        total += sum(tensor.nbytes for tensor in [*parameters, *kept])
    assert checkpoint_bytes(phases) == total


def costs(*overrides: str, **machine: float) -> Costs:
    return Costs(load_config(None, list(overrides)), Machine(**machine))  # type: ignore[arg-type]


def test_rows_keep_what_their_table_says() -> None:
    model = costs()
    weak = model.weak([1, 8], [1, 8])
    assert [(row.nodes, row.gpus, row.pairs, row.batch) for row in weak] == [
        (1, 8, 1, 8),
        (8, 64, 1, 64),
        (1, 8, 8, 64),
        (8, 64, 8, 512),
    ]
    strong = model.strong([1, 8, 64], [64, 96])
    assert [(row.nodes, row.pairs, row.batch) for row in strong] == [(1, 8, 64), (8, 1, 64), (1, 12, 96)]
    for row in [*weak, *strong]:
        assert row.iteration_ms == pytest.approx(row.computed_ms + row.exposed_ms)
        assert row.pairs_per_s == pytest.approx(row.batch / row.iteration_ms * 1e3)
        assert row.hours == pytest.approx(101 * 1696 / row.pairs_per_s / 3600)
        assert row.updates == round(101 * 1696 / row.batch / 5)
        assert row.node_mb_per_s == pytest.approx(row.pairs_per_s / row.nodes * 5.32480)
        assert 0 < row.efficiency <= 1
    assert weak[1].efficiency < weak[0].efficiency
    assert weak[3].efficiency > weak[1].efficiency


def test_slower_networks_and_faster_gpus_scale_less() -> None:
    fast = costs(tflops=270.0, launch_us=0.0)
    assert fast.limit(8, 1, 100) < fast.limit(8, 1, 400) <= fast.limit(8, 8, 400)
    assert fast.limit(1, 1, 400) < fast.limit(8, 1, 400)
    assert costs(tflops=1000.0, launch_us=0.0).row(8, 1, 1).efficiency < fast.row(8, 1, 1).efficiency


def test_bfloat16_sends_half() -> None:
    halved = costs("gan.precision=bfloat16", "distributed.backend=deepspeed")
    assert halved.gradient_bytes == 2
    assert halved.row(8, 1, 1).all_reduce_ms < costs().row(8, 1, 1).all_reduce_ms


def test_the_interval_that_is_recommended_keeps_the_standstill_within_the_goal() -> None:
    said = costs(tflops=270.0, launch_us=0.0).checkpoint(1)
    enough = int(said.rpartition("gan.checkpoint_every=")[2].partition("`")[0])
    share = costs(f"gan.checkpoint_every={enough}", tflops=270.0, launch_us=0.0).checkpoint(1)
    assert "that is 5.0% of" in share
    assert f"checkpoint_every={enough}`" in share


def test_each_column_of_a_row_has_its_head() -> None:
    lines = report(costs(), [1], [1], [8]).splitlines()
    head = next(line for line in lines if "efficiency" in line)
    row = lines[lines.index(head) + 2]
    assert head.count("|") == row.count("|") == len(Row.__dataclass_fields__) + 1


def test_the_table_is_the_readmes() -> None:
    """What slurm/README.md shows is what the commands that it names print."""
    text = (REPOSITORY / "slurm/README.md").read_text(encoding="utf-8")
    for arguments in ([], ["--tflops", "270", "--launch-us", "0"]):
        command = " ".join(["python launch/bench.py cost", *arguments])
        _, _, after = text.partition(f"    {command}\n")
        shown = after.partition("<!-- end -->")[0].strip()
        done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, cwd=REPOSITORY, check=True)
        assert shown == done.stdout.strip(), command


def test_results_alone_are_on_standard_output() -> None:
    command = [*COMMAND, "--json", "--nodes", "2", "--pairs", "1", "2", "--batch", "32", "--gpus", "4", "--nics", "1"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, check=True)
    found = json.loads(done.stdout)
    assert [(row["gpus"], row["batch"]) for row in found["weak"]] == [(8, 8), (8, 16)]
    assert [(row["gpus"], row["pairs"]) for row in found["strong"]] == [(8, 4)]
    assert "Weak scaling" in done.stderr
