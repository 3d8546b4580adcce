"""DeepSpeed: its settings and refusals, and what each phase computes and sends, beside DDP."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import CONFIGS, Runs

from drdg.config import load_config
from drdg.distributed.deepspeed_settings import OURS, complete, read_settings, stage_of
from drdg.distributed.group import process_group
from drdg.distributed.topology import Topology

STAGES = ("zero0", "zero1", "zero2")


def test_a_phase_computes_and_sends_the_gradients_of_its_own_networks_alone(
    runs: Callable[..., Runs], tmp_path: Path
) -> None:
    plan = runs("gan.n_critic=1", "distributed.timeout_s=777")
    for backend in ("ddp", *STAGES):
        plan.add(backend, backend, 2, probe="probe_phases")
        plan.add(f"{backend} in parts", backend, 2, "gan.micro_batch=1", probe="probe_phases")
    for stage in STAGES:
        plan.add(f"{stage} in bfloat16", stage, 2, "gan.precision=bfloat16", probe="probe_phases")
    plan.add("timeout", "zero1", 2, probe="probe_timeout")
    for stage in STAGES:
        for precision in ("float32", "bfloat16"):
            lost = "probe_gradients_that_are_not_finite"
            plan.add(f"nan {stage} {precision}", stage, 2, f"gan.precision={precision}", probe=lost)
    unknown = tmp_path / "unknown.json"
    unknown.write_text('{"zero_optimization": {"stage": 1, "bucket": 5}}')
    plan.add("unknown", "zero1", 2, f"distributed.deepspeed={unknown}", refused=True)
    plan.do()

    for name in [f"{backend}{parts}" for backend in ("ddp", *STAGES) for parts in ("", " in parts")]:
        for phases in plan.probes(name):
            assert_sent(phases, name)
    for stage in STAGES:
        for phases in plan.probes(f"{stage} in bfloat16"):
            assert_sent(phases, stage)
    assert plan.probes("timeout") == [777, 777]
    for stage in STAGES:
        for precision in ("float32", "bfloat16"):
            for said in plan.probes(f"nan {stage} {precision}"):
                assert "not finite" in said or "is nan" in said, (stage, precision)
    for said in plan.probes("unknown"):
        assert said.startswith(f"{unknown}: DeepSpeed refuses bucket")
        assert "\n" not in said


def assert_sent(phases: list[dict[str, Any]], name: str) -> None:
    """Of two ranks: every gradient of the phase's networks goes once, and from ZeRO half of the new weights, at most
    padded to four elements; ZeRO 2 sends those of each micro-batch, which it then need not keep.
    """
    for phase in phases:
        assert phase["computed"] == phase["own"], name
        gathered = sum(sent for kind, sent in phase["sent"] if kind.startswith("all_gather"))
        reduced = sum(sent for _, sent in phase["sent"]) - gathered
        times = 2 if name == "zero2 in parts" else 1
        assert reduced == times * phase["bytes"], name
        if name.startswith(("zero1", "zero2")):
            assert 0 <= 2 * gathered - phase["bytes"] <= 4 * 4, name
        else:
            assert gathered == 0, name
        # The networks that guests and checkpoints see have the optimizer's weights, in their own floating type.
        assert len(phase["networks"]) == len(phase["masters"])
        for weights, master in zip(phase["networks"], phase["masters"], strict=True):
            assert torch.equal(weights, master.to(weights.dtype)), name


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_the_settings_that_come_with_it_are_those_of_their_names(stage: int) -> None:
    settings = read_settings(CONFIGS / f"zero{stage}.json")
    assert stage_of(settings) == stage
    whole = complete(settings, micro_batches=3, bfloat16=False)
    assert whole["gradient_clipping"] == 0
    assert whole["gradient_accumulation_steps"] == 3
    assert settings["zero_optimization"].items() <= whole["zero_optimization"].items()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"zero_optimization": {"stage": 3}}', "differentiates twice"),
        ('{"zero_optimization": {"stage": 4}}', "stage is 4; take 0, 1 or 2"),
        ('{"zero_optimization": {"stage": true}}', "stage is True"),
        ('{"zero_optimization": {"stage": "2"}}', "stage is '2'"),
        ('{"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}}', "remove zero_optimization.off"),
        ('{"zero_optimization": 2}', "an object too"),
        ("[]", "must be an object"),
        ("{", "is no JSON"),
        ("\udcff", "is no JSON"),
    ],
)
def test_settings_that_cannot_work_are_refused_by_name(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "mine.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=r"mine\.json") as error:
        read_settings(path)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("key", sorted(OURS))
def test_settings_do_not_say_what_the_configuration_says(tmp_path: Path, key: str) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({key: 1.0}))
    with pytest.raises(ValueError, match=f"mine.json: remove {key}; "):
        read_settings(path)


def test_settings_that_are_not_there_are_named_before_ranks_meet(tmp_path: Path) -> None:
    config = load_config(None, ["distributed.backend=deepspeed", f"distributed.deepspeed={tmp_path / 'no.json'}"])
    with pytest.raises(ValueError, match=r"distributed\.deepspeed=.*no\.json: no such file"), _group(config):
        pass


def test_a_library_that_is_not_there_is_named_with_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    config = load_config(None, ["distributed.backend=deepspeed", f"distributed.deepspeed={CONFIGS / 'zero1.json'}"])
    with pytest.raises(ValueError, match=r"pip install 'drdg\[deepspeed\]'"), _group(config):
        pass


def _group(config: Any) -> Any:
    # Of two ranks, the other of which never comes: it must not be waited for.
    return process_group(config.distributed, Topology(0, 2, 0, 2, "127.0.0.1", 9, "test"))


@pytest.mark.parametrize(
    ("precision", "backend", "said"),
    [
        ("bfloat16", "auto", "needs distributed.backend=deepspeed"),
        ("bfloat16", "ddp", "needs distributed.backend=deepspeed"),
        ("float64", "deepspeed", "more than distributed.backend=deepspeed computes with"),
    ],
)
def test_a_precision_that_the_backend_does_not_have_is_refused(precision: str, backend: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        load_config(None, [f"gan.precision={precision}", f"distributed.backend={backend}"])
