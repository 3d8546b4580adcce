"""What a rank computes with: signals, processors, memory, networks and what they send."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from patients import answers_of, said

from drdg.distributed.group import Group
from drdg.distributed.topology import Topology
from drdg.doctor import limits, links, processors, signals
from drdg.doctor.context import Context
from drdg.doctor.networks import Networks, count, trained_row
from drdg.methods import build_translator

Contexts = Callable[..., Context]

# ------------------------------------------------------------------------------------------------------------- signals

ALL_WELL = {number.name: {"ignored": False, "blocked": False, "seconds": 0.001} for number in signals.ASKED}


def but(**state: Any) -> dict[str, Any]:
    return ALL_WELL | {"SIGUSR2": ALL_WELL["SIGUSR2"] | state}


@pytest.mark.parametrize(
    ("state", "line"),
    [
        ({"blocked": True, "seconds": None}, "bad signals: SIGUSR2 blocked since before the start of rank 1 on node2"),
        ({"seconds": None}, "bad signals: SIGUSR2 not there after 1 s for rank 1 on node2"),
        ({"seconds": 1.7}, "bad signals: SIGUSR2 not there after 1 s for rank 1 on node2"),
        ({"ignored": True}, "warning signals: SIGUSR2 ignored by what started rank 1 on node2"),
    ],
)
def test_a_signal_that_would_be_missed_is_found(state: dict[str, Any], line: str) -> None:
    assert said(signals.judge(answers_of(ALL_WELL, but(**state)))) == [line]


def test_signals_come_while_a_thread_computes_and_handlers_are_given_back(context: Contexts) -> None:
    before = [signal.getsignal(number) for number in signals.ASKED]
    found = signals.probe(context())
    assert said(signals.judge(answers_of(found)))[0].startswith("ok signals: SIGUSR1, SIGUSR2, SIGTERM come within ")
    assert [signal.getsignal(number) for number in signals.ASKED] == before


@pytest.mark.parametrize(
    ("prepare", "state"),
    [
        (lambda: signal.signal(signal.SIGUSR2, signal.SIG_IGN), {"ignored": True, "blocked": False}),
        (lambda: signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2}), {"ignored": False, "blocked": True}),
    ],
)
def test_what_the_parent_ignored_or_blocked_is_inherited_and_found(
    prepare: Callable[[], object], state: dict[str, bool]
) -> None:
    ask = "import json\nfrom drdg.doctor import signals\nclass C: timeout = 1.5\nprint(json.dumps(signals.probe(C)))"
    done = subprocess.run(
        [sys.executable, "-c", ask], capture_output=True, text=True, check=True, timeout=60, preexec_fn=prepare
    )
    found = json.loads(done.stdout)
    assert {name: found["SIGUSR2"][name] for name in state} == state
    assert (found["SIGUSR2"]["seconds"] is None) == state["blocked"]
    assert not any(found["SIGTERM"][name] for name in state)


# ---------------------------------------------------------------------------------------------------------- processors

CARD = {
    "device": "H100", "error": "", "bf16": True, "driver": "550.1", "nccl": "2.20", "memory_bytes": 80e9,
    "free_bytes": 79e9, "built_for": "12.4", "visible": 2,
}  # fmt: skip
NONE = {"device": processors.NO_GPU, "error": "", "driver": "", "built_for": "", "visible": 0}


def card(identity: str, **changed: Any) -> dict[str, Any]:
    return {**CARD, "identity": identity, **changed}


def test_a_gpu_for_each_rank_is_ok_also_of_one_number_on_two_nodes(context: Contexts) -> None:
    (found,) = processors.judge_gpus(context().config, answers_of(card("a"), card("b"), card("a"), per_node=2))
    assert said([found]) == ["ok GPUs: 3 x H100, one for each rank, 80 GB, bf16, driver 550.1, NCCL 2.20"]


@pytest.mark.parametrize(
    ("values", "override", "line"),
    [
        ([card("a"), card("a")], "run.seed=0", "bad GPUs: ranks 0-1 on node1 share one GPU (a of node1)"),
        (
            [card("a"), NONE],
            "run.seed=0",
            "bad GPUs: rank 1 on node1 would compute on the CPU, the others on GPUs",
        ),
        (
            [card("a"), card("b", bf16=False)],
            "bf16",
            "bad GPUs: gan.precision=bfloat16, but the GPU of rank 1 on node1 has no bfloat16",
        ),
        (
            [card("a"), card("b", nccl="2.18")],
            "run.seed=0",
            "bad GPUs: nccl differs: 2.20 for rank 0 on node1; 2.18 for rank 1 on node1",
        ),
        (
            [card("a"), card("b", device="A100")],
            "run.seed=0",
            "warning GPUs: device differs: H100 for rank 0 on node1; A100 for rank 1 on node1",
        ),
        (
            [card("a"), card("b", error="local rank 1 has no GPU: 1 are visible; start one rank per GPU")],
            "run.seed=0",
            "bad GPUs: local rank 1 has no GPU: 1 are visible (rank 1 on node1)",
        ),
    ],
)
def test_gpus_that_will_not_do_are_found(context: Contexts, values: list[Any], override: str, line: str) -> None:
    overrides = ["gan.precision=bfloat16", "distributed.backend=deepspeed"] if override == "bf16" else [override]
    assert said(processors.judge_gpus(context(*overrides).config, answers_of(*values, per_node=2))) == [line]


def test_a_node_with_a_driver_whose_gpu_torch_does_not_see_is_a_warning(context: Contexts) -> None:
    unseen = [NONE | {"driver": "550.1"}] * 2
    config = context("distributed.device=auto").config
    (found,) = processors.judge_gpus(config, answers_of(*unseen, per_node=2))
    assert said([found])[0].startswith("warning GPUs: the node of ranks 0-1 on node1 has an NVIDIA driver (550.1)")
    assert processors.judge_gpus(context().config, answers_of(*unseen))[0].level == "ok"  # distributed.device=cpu


def test_more_threads_than_cores_on_a_node_are_a_warning() -> None:
    (found,) = processors.judge_cores(answers_of({}, {}, per_node=2, cores=[0, 1, 2], threads=2))
    assert said([found]) == ["warning cores: 4 threads of ranks 0-1 on node1 share 3 cores on each node"]
    assert said(processors.judge_cores(answers_of({}, {}, per_node=1, cores=[0, 1], threads=2))) == [
        "ok cores: 2 for each rank, 2 threads each"
    ]
    bound = answers_of({"cores": [0, 1]}, {"cores": [2, 3]}, per_node=2, threads=2)
    assert processors.judge_cores(bound)[0].level == "ok"


def test_this_machines_processors_are_found(context: Contexts, monkeypatch: pytest.MonkeyPatch) -> None:
    found = processors.probe(context())
    assert (found["device"], found["threads"]) == (processors.NO_GPU, 1)
    assert found["cores"] == sorted(os.sched_getaffinity(0))
    assert "sees no GPU" in processors.probe(context("distributed.device=cuda"))["error"]


def test_a_gpu_is_described(context: Contexts, monkeypatch: pytest.MonkeyPatch) -> None:
    """As torch describes one, on machines that have none."""

    class Properties:
        name, uuid = "H100", "1234-abcd"

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Properties)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1, 2))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.cuda.nccl, "version", lambda: (2, 20, 5))
    found = processors.probe(context("distributed.device=auto"))
    assert (found["device"], found["identity"], found["nccl"], found["bf16"]) == ("H100", "1234-abcd", "2.20.5", True)
    assert found["free_bytes"] < found["memory_bytes"]


# -------------------------------------------------------------------------------------------------------------- limits

ROOMY = {
    "memory_bytes": 64e9, "free_bytes": 32e9, "open_files": 65536, "locked_bytes": None, "shm_bytes": 8e9,
    "shm_free_bytes": 8e9, "infiniband": True, "ranks": 2,
}  # fmt: skip
NETWORKS = Networks("drdg", 100_000_000, 10_000_000, n_critic=5, weight_bytes=4, kept_bytes=4)


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({}, "ok"),
        ({"free_bytes": 1e9}, "bad memory, limits: 1 GB free for rank 1 on node2"),
        ({"free_bytes": 3e9}, "warning memory, limits: 3 GB free for rank 1 on node2"),
        ({"open_files": 1000}, "warning memory, limits: 1000 open files allowed for rank 1 on node2"),
    ],
)
def test_too_little_of_a_limit_is_found(changed: dict[str, Any], line: str) -> None:
    (found,) = said(limits.judge(answers_of({}, changed, **ROOMY), NETWORKS, on_gpus=False))
    assert found.startswith(line)


def test_gpus_need_shared_memory_and_a_fabric_locked_memory() -> None:
    tight = {"shm_free_bytes": 64 << 20, "locked_bytes": 65536}
    found = limits.judge(answers_of({}, tight, **ROOMY), NETWORKS, on_gpus=True)
    assert [finding.level for finding in found] == ["bad", "warning"]
    assert limits.judge(answers_of({}, tight, **ROOMY), None, on_gpus=False)[0].level == "ok"


def test_this_machines_limits_are_found(context: Contexts) -> None:
    alone, shared = limits.probe(context()), limits.probe(context(local_world_size=2))
    assert alone["memory_bytes"] // 2 == shared["memory_bytes"]
    assert alone["open_files"] is None or alone["open_files"] > 0


# --------------------------------------------------------------------------------------------- networks and their sums


@pytest.mark.parametrize("row", ["rdg", "drdg"])
def test_networks_are_counted_as_they_are_trained(context: Contexts, row: str) -> None:
    config = context(f"run.rows=[baseline,{row}]").config
    assert trained_row(config) == row
    counted = count(config)
    assert counted is not None
    if row == "rdg":
        config = config.model_copy(
            update={"loss": config.loss.model_copy(update={"depth_supervised": 0.0, "depth_cycle_consistency": 0.0})}
        )
    real = build_translator("drdg", config).networks
    sizes = {name: sum(parameter.numel() for parameter in net.parameters()) for name, net in real.items()}
    assert counted.generators == sizes["to_target"] + sizes["to_source"]
    assert counted.critics == sizes["source_critic"] + sizes["target_critic"]
    assert counted.iteration_bytes == 4 * counted.critics + 4 * counted.generators / config.gan.n_critic


def test_rows_without_a_translator_send_nothing(context: Contexts) -> None:
    assert count(context("run.rows=[baseline]").config) is None


def test_bfloat16_halves_what_is_sent_and_not_what_is_kept(context: Contexts) -> None:
    full = count(context().config)
    half = count(context("gan.precision=bfloat16", "distributed.backend=deepspeed").config)
    assert full is not None
    assert half is not None
    assert 2 * half.critic_bytes == full.critic_bytes
    assert half.checkpoint_bytes == full.checkpoint_bytes


def measured(speed: float, latency: float = 1e-4, **some: Any) -> dict[str, Any]:
    return {
        "backend": "gloo",
        "latency_s": latency,
        "sizes": {"65536": 1.0, "1000000": 1e6 / speed},
        "links": {},
        **some,
    }


def test_sums_are_compared_with_what_an_iteration_sends() -> None:
    (found,) = links.judge(answers_of(measured(1e9), {}), NETWORKS)
    assert found.level == "ok"
    assert found.figures["iteration_bytes"] == 4e7 + 4e8 / 5
    assert found.figures["iteration_s"] == pytest.approx(0.12)
    assert "generators 400 MB every 5th time" in found.measured


@pytest.mark.parametrize("value", [measured(5e7), measured(5e8, latency=0.05), measured(5e8, backend="nccl")])
def test_slow_sums_are_a_warning(value: dict[str, Any]) -> None:
    assert [finding.level for finding in links.judge(answers_of(value), None)] == ["warning"]


def test_the_slowest_link_is_named_when_it_is_far_from_the_others() -> None:
    three = {"node1 - node2": 1e9, "node1 - node3": 2e8, "node2 - node3": 1.1e9}
    found = links.judge(answers_of(measured(1e9, links=three)), None)[1]
    assert said([found]) == ["warning links: node1 - node3: 200 MB/s, the median of 3 1 GB/s"]
    three["node1 - node3"] = 9e8
    assert links.judge(answers_of(measured(1e9, links=three)), None)[1].level == "ok"


@pytest.mark.parametrize("count_", range(2, 9))
def test_all_pairs_meet_once_and_nobody_twice_in_a_round(count_: int) -> None:
    ends = [3 * number for number in range(count_)]
    found = links.rounds(ends)
    assert sorted(pair for pairs in found for pair in pairs) == [(a, b) for a in ends for b in ends if a < b]
    for pairs in found:
        assert len({end for pair in pairs for end in pair}) == 2 * len(pairs)


def test_sums_are_measured(context: Contexts) -> None:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        group = Group(Topology(), torch.device("cpu"))
        found = links.measure(group)
        assert links.measure_links(group, context()) == {"links": {}}
        assert links.backend(group) == "gloo"
    finally:
        dist.destroy_process_group()
    assert found["latency_s"] > 0
    assert all(seconds > 0 for seconds in found["sizes"].values())
    assert str(links.SIZES_BYTES[0]) in found["sizes"]


def test_ordinals_are_english() -> None:
    said_ = [links._every(number) for number in (1, 2, 3, 5, 11, 22)]
    assert said_ == ["", *(f" every {nth} time" for nth in ("2nd", "3rd", "5th", "11th", "22nd"))]
