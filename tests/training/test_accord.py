"""What ends a training ends it on all ranks, with one sentence, and a restart without it ends as if it had not been."""

from __future__ import annotations

import random

import pytest
import torch
from plans import Left, Plan

from drdg.shards.store import ShardStore

ITERATIONS, EVERY = 8, 3
PHASES = ("critic", "generator")
seed = random.Random(4)
# At a checkpoint, just before one, in the last iteration of all, and anywhere.
NOT_FINITE = {
    f"{value} {iteration} {phase} {rank}": {"value": value, "iteration": iteration, "phase": phase, "rank": rank}
    for value, iteration, phase, rank in [
        ("inf", EVERY, 1, 1),
        ("nan", 2 * EVERY - 1, 0, 1),
        ("nan", ITERATIONS, 0, 1),
        (seed.choice(("inf", "-inf", "nan")), 2 * seed.randint(0, 3) + 1, seed.randrange(2), seed.randrange(2)),
    ]
}
FULL = {"torn": {"write": 2, "place": "bytes", "share": 0.6}, "checksum": {"write": 1, "place": "no checksum yet"}}


@pytest.fixture(scope="module")
def plan(two_domains: tuple[ShardStore, ShardStore], tmp_path_factory: pytest.TempPathFactory) -> Plan:
    knobs = (f"gan.iterations={ITERATIONS}", f"gan.checkpoint_every={EVERY}", "gan.keep_checkpoints=9")
    # What is logged is looked at too, so it must not be in the iterations in which something else is to notice.
    knobs += ("gan.log_every=5", "loss.depth_supervised=0", "loss.depth_cycle_consistency=0")
    return Plan(tmp_path_factory.mktemp("accord"), two_domains, *knobs)


@pytest.fixture(scope="module")
def done(plan: Plan) -> dict[str, list[Left]]:
    """The starts of each training."""
    plan.add("whole")
    plan.plan["sized"] = str(plan.folder / "whole")
    for name, befalls in NOT_FINITE.items():
        plan.add(name, kind="not finite", **befalls)
    for name, befalls in FULL.items():
        plan.add(name, kind="full", **befalls)
        plan.add(name)
    plan.add("end", kind="full at the end")
    plan.add("end")
    plan.add("blind", "gan.iterations=3")
    plan.add("blind", kind="blind", rank=1)
    plan.add("lost", "gan.iterations=3")
    plan.add("lost", kind="damage")
    left: dict[str, list[Left]] = {}
    for name, one in plan.do():
        left.setdefault(name, []).append(one)
    assert left["whole"][0].statuses == [0, 0], left["whole"][0].words
    return left


def said_once(left: Left) -> str:
    (said,) = [line for rank in range(len(left.words)) for line in left.errors(rank)]
    return said


@pytest.mark.parametrize("name", NOT_FINITE)
def test_a_loss_that_is_not_finite_on_one_rank_ends_all_and_nothing_after_it_is_saved(
    name: str, plan: Plan, done: dict[str, list[Left]]
) -> None:
    (left,) = done[name]
    befalls = NOT_FINITE[name]
    good = [step for step in range(EVERY, ITERATIONS, EVERY) if step < befalls["iteration"]]
    last = f"the last good checkpoint is of iteration {good[-1]}" if good else "there is no checkpoint yet"
    assert left.statuses == [2, 2], left.words
    assert said_once(left) == (
        f"error: gan/{PHASES[befalls['phase']]}/loss is not finite at iteration {befalls['iteration']}; {last}, in "
        f"{plan.folder / name / 'checkpoints'}; lower gan.generator_lr or gan.critic_lr in a run of another name"
    )
    assert plan.steps(name) == good
    assert left.wrong == []


@pytest.mark.parametrize("name", FULL)
def test_a_full_disk_ends_all_and_what_was_saved_before_stays(
    name: str, plan: Plan, done: dict[str, list[Left]]
) -> None:
    left, again = done[name]
    step = FULL[name]["write"] * EVERY
    path = plan.folder / name / f"checkpoints/step_{step:09d}.pt"
    assert left.statuses == [1, 1], left.words
    assert said_once(left).startswith(f"error: {path}: No space left on device; make room and start the same command")
    assert left.newest == step - EVERY
    assert left.wrong == []
    assert_as_if_nothing_had_been(again, name, plan)


def test_a_full_disk_at_the_end_ends_all_ranks_too(plan: Plan, done: dict[str, list[Left]]) -> None:
    left, again = done["end"]
    assert left.statuses == [1, 1], left.words
    path = plan.folder / "end/translator.safetensors"
    assert said_once(left).startswith(f"error: {path}: No space left on device")
    assert left.newest == ITERATIONS
    assert_as_if_nothing_had_been(again, "end", plan)


def assert_as_if_nothing_had_been(left: Left, name: str, plan: Plan) -> None:
    assert left.statuses == [0, 0], left.words
    assert left.wrong == []
    weights, whole = plan.weights(name), plan.weights("whole")
    assert whole.keys() == weights.keys()
    assert [part for part in whole if not torch.equal(whole[part], weights[part])] == []
    assert plan.curve(name) == plan.curve("whole")


def test_ranks_that_see_different_checkpoints_do_not_begin(plan: Plan, done: dict[str, list[Left]]) -> None:
    _, left = done["blind"]
    assert left.statuses == [1, 1], left.words
    assert said_once(left) == (
        f"error: {plan.folder / 'blind/checkpoints'}: ranks see different checkpoints, of iterations [3, 0]; put "
        "run.root on a file system that all ranks share"
    )


def test_where_all_checkpoints_are_damaged_nothing_begins_anew(plan: Plan, done: dict[str, list[Left]]) -> None:
    _, left = done["lost"]
    assert left.statuses == [1, 1], left.words
    assert said_once(left) == (
        f"error: {plan.folder / 'lost/checkpoints'}: of 1 checkpoints none is whole; bring one back from a copy, with "
        "its .sha256, or remove the folder to start anew"
    )
    assert plan.steps("lost") == [3]
