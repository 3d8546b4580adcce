"""The same pairs give the same networks, however many ranks share them, in whatever parts, by whichever backend."""

from __future__ import annotations

from collections.abc import Callable

import torch
from runs import Networks, Runs, distances


def test_ranks_and_micro_batches_change_nothing_in_float64(runs: Callable[..., Runs]) -> None:
    plan = runs("gan.precision=float64")
    plan.add("5", "single", 1, "gan.n_critic=5")
    plan.add("1", "single", 1, "gan.n_critic=1")
    names = [
        plan.add("1 in parts of 2 and 2", "single", 1, "gan.n_critic=1", "gan.micro_batch=3"),
        plan.add("5 on 2", "ddp", 2, "gan.n_critic=5"),
        plan.add("1 on 2", "ddp", 2, "gan.n_critic=1"),
        plan.add("1 on 2 in parts of 1", "ddp", 2, "gan.n_critic=1", "gan.micro_batch=1"),
        plan.add("1 on 4", "ddp", 4, "gan.n_critic=1"),
    ]
    plan.do()
    worst = {name: distances(plan.networks(name[0]), plan.networks(name)).max().item() for name in names}
    assert max(worst.values()) <= 1e-12, worst
    # Not because nothing moves: with another clock the generators end elsewhere.
    assert distances(plan.networks("1"), plan.networks("5")).max().item() > 1e-4


def test_deepspeed_trains_as_the_others_do(runs: Callable[..., Runs]) -> None:
    plan = runs("gan.n_critic=1")
    stages, low = ("zero0", "zero1", "zero2"), "gan.precision=bfloat16"
    still = ("gan.iterations=1", "gan.generator_lr=1e-30", "gan.critic_lr=1e-30")
    plan.add("begin", "single", 1, *still)
    plan.add("single", "single", 1)
    plan.add("five", "single", 1, "gan.n_critic=5")
    for stage in stages:
        plan.add(f"{stage} on 1", stage, 1)
    plan.add("ddp on 2", "ddp", 2)
    for stage in stages:
        plan.add(f"{stage} on 2", stage, 2)
        plan.add(f"{stage} on 2 in parts", stage, 2, "gan.micro_batch=1")
        plan.add(f"{stage} in bfloat16", stage, 2, low)
    plan.add("begin in bfloat16", "zero1", 2, low, *still)
    plan.add("begin by zero0 in bfloat16", "zero0", 2, low, *still)
    plan.add("five by zero2 on 2", "zero2", 2, "gan.n_critic=5")
    plan.add("zero2 in bfloat16 in parts", "zero2", 2, low, "gan.micro_batch=1")
    plan.add("zero1 on 4", "zero1", 4)
    plan.add("zero2 on 4", "zero2", 4)
    plan.do()

    single = plan.networks("single")
    for stage in stages:
        # One rank adds up nothing, and a sum of two does not depend on their order: the same numbers throughout.
        assert distances(single, plan.networks(f"{stage} on 1")).max().item() == 0, stage
        assert distances(plan.networks("ddp on 2"), plan.networks(f"{stage} on 2")).max().item() <= 1e-7, stage
        assert_near(single, plan.networks(f"{stage} on 2 in parts"), stage)
    for name in ("ddp on 2", "zero1 on 4", "zero2 on 4"):
        assert_near(single, plan.networks(name), name)
    assert_near(plan.networks("five"), plan.networks("five by zero2 on 2"), "five")

    for name in (*(f"{stage} in bfloat16" for stage in stages), "zero2 in bfloat16 in parts"):
        assert {value.dtype for value in plan.networks(name).values()} == {torch.bfloat16}
        assert_same_direction(plan.networks("begin"), single, plan.networks(name), name)
    for name in ("begin in bfloat16", "begin by zero0 in bfloat16"):
        for optimizer, part in zip(plan.checkpoint(name)["optimizers"], ("critic", "to_"), strict=True):
            names = [key for key in plan.checkpoint(name)["networks"] if part in key and "residual" not in key]
            masters = dict(zip(names, optimizer["masters"], strict=True))
            apart = distances({key: plan.networks("begin")[key] for key in names}, masters)
            assert apart.max().item() <= 1e-20, "the float32 weights began as rounded ones"
    for stage in stages[1:]:  # which differ in where the weights lie, not in what is computed
        one, other = (plan.networks(f"{name} in bfloat16") for name in ("zero0", stage))
        assert distances(one, other).max().item() <= 1e-5, stage


def assert_near(one: Networks, other: Networks, name: str) -> None:
    """float32's rounding of a sum over pairs: 1e-5 for the critics. Of the generators' Adam makes more where it divides
    by a small gradient, though never more than a step, and that seldom (see tests/training/test_gan.py).
    """
    assert distances(one, other, "critic").max().item() <= 1e-5, name
    assert distances(one, other).max().item() <= 5e-4, name
    assert distances(one, other).square().mean().sqrt().item() <= 1e-6, name


def assert_same_direction(begin: Networks, one: Networks, other: Networks, name: str) -> None:
    """The first steps of Adam and RMSprop look at a gradient's sign alone, and 8 bits get that of small ones wrong; so
    what can be compared is where the weights go. Seen: 0.95 (critics) and 0.84 (generators); no relation would be 0.
    """
    for part in ("critic", "to_"):
        moves = [
            torch.cat([(end[key].float() - begin[key]).flatten() for key in begin if part in key])
            for end in (one, other)
        ]
        assert torch.cosine_similarity(*moves, dim=0).item() > 0.7, (name, part)
