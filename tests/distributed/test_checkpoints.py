"""A checkpoint of any backend, ZeRO stage and number of ranks is continued by any other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from runs import Runs, different, distances

FALLEN_RATE = 2.5e-4  # half of the default 5e-4
WHOLE = ("identity", "iteration", "networks", "optimizers", "schedules")


def test_a_checkpoint_goes_through_every_backend_and_comes_back_with_the_same_bits(runs: Callable[..., Runs]) -> None:
    plan = runs("gan.iterations=2", "gan.n_critic=1", "gan.schedule.patience=0")
    plan.add("begun", "zero2", 2, lower_rates=True)
    plan.add("by zero0", "zero0", 2, after="begun")
    plan.add("by zero1 on 4", "zero1", 4, after="by zero0")
    plan.add("by one", "single", 1, after="by zero1 on 4")
    plan.add("by zero2 on 1", "zero2", 1, after="by one")
    plan.add("by ddp", "ddp", 2, after="by zero2 on 1")
    plan.add("back", "zero2", 2, after="by ddp")
    low = "gan.precision=bfloat16"
    plan.add("low", "zero2", 2, low, lower_rates=True)
    plan.add("low by zero0", "zero0", 2, low, after="low")
    plan.add("low by zero1 on 1", "zero1", 1, low, after="low by zero0")
    # Once more, further: each continues after the last, or after one of another kind.
    longer = "gan.iterations=4"
    plan.add("whole alone", "single", 1, longer, lower_rates=True)
    plan.add("alone", "single", 1, lower_rates=True)
    plan.add("zero2, then alone", "single", 1, longer, after="begun")
    plan.add("whole", "zero2", 2, longer, lower_rates=True)
    plan.add("continued", "zero2", 2, longer, after="begun")
    plan.add("continued after all", "zero2", 2, longer, after="back")
    plan.add("alone, then zero2", "zero2", 2, longer, after="alone")
    plan.add("zero2, then zero1", "zero1", 2, longer, after="begun")
    plan.add("zero2, then ddp", "ddp", 2, longer, after="begun")
    plan.add("whole low", "zero2", 2, longer, low, lower_rates=True)
    plan.add("continued low", "zero2", 2, longer, low, after="low")
    plan.add("continued low after all", "zero2", 2, longer, low, after="low by zero1 on 1")
    plan.do()

    begun = plan.checkpoint("begun")
    assert [part["param_groups"][0]["lr"] for part in begun["optimizers"]] == [FALLEN_RATE, FALLEN_RATE]
    for name in ("by zero0", "by zero1 on 4", "by one", "by zero2 on 1", "by ddp", "back"):
        assert parts_that_differ(begun, plan.checkpoint(name)) == [], name
    alone = plan.checkpoint("alone")
    for mine, torchs in zip(begun["optimizers"], alone["optimizers"], strict=True):
        assert structure(mine) == structure(torchs)
    for name in ("low by zero0", "low by zero1 on 1"):
        assert parts_that_differ(plan.checkpoint("low"), plan.checkpoint(name)) == [], name
    assert all("masters" in part for part in plan.checkpoint("low")["optimizers"])

    for whole, continued in (
        ("whole", "continued"),
        ("whole", "continued after all"),
        ("whole low", "continued low"),
        ("whole low", "continued low after all"),
    ):
        assert parts_that_differ(plan.checkpoint(whole), plan.checkpoint(continued)) == [], continued
    # Where backends took turns: what float32's rounding of a sum over pairs comes to (see test_invariance.py).
    for name in ("zero2, then alone", "alone, then zero2", "zero2, then zero1", "zero2, then ddp"):
        apart = distances(plan.networks("whole alone"), plan.networks(name))
        assert apart.max().item() <= 5e-4, name
        assert apart.square().mean().sqrt().item() <= 1e-6, name


def parts_that_differ(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    return [found for part in WHOLE for found in different(one[part], other[part], part)]


def structure(state: Any) -> Any:
    """A state without its numbers: names, types and shapes."""
    if isinstance(state, dict):
        return {name: structure(value) for name, value in state.items()}
    if isinstance(state, list):
        return [structure(value) for value in state]
    return (str(state.dtype), tuple(state.shape)) if hasattr(state, "dtype") else type(state).__name__
