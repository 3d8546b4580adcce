"""A rank is killed at thirty seeded moments, many of them in writes: no run is lost and no checkpoint is wrong."""

from __future__ import annotations

import random
import signal
from pathlib import Path
from typing import Any

import torch
from plans import Left, Plan

from drdg.distributed.lost import LOST, LOST_BUT_FURTHER
from drdg.shards.store import ShardStore

RUNS, KILLS = 3, 10
ITERATIONS = 24  # more than as many kills let it get
PLACES = ("bytes", "bytes", "bytes", "no checksum yet", "checksum", "renamed", "tidied")


def a_kill(seed: random.Random) -> dict[str, Any]:
    """One that comes within two iterations from where the training continues."""
    write = {"write": seed.choice((1, 1, 2)), "place": seed.choice(PLACES), "share": seed.random()}
    return {
        "moment": {
            "kind": "kill",
            "rank": seed.randrange(2),
            "further": seed.randint(1, 2),
            "after_s": seed.choice((0.0, 0.05 * seed.random())),
        },
        "write": {"kind": "kill writing", **write},
        "beside": {"kind": "kill beside writing", **write, "place": "bytes"},
    }[seed.choices(("moment", "write", "beside"), (4, 4, 2))[0]]


def test_killed_thirty_times_at_random_no_run_is_lost_and_no_checkpoint_is_wrong(
    two_domains: tuple[ShardStore, ShardStore], tmp_path: Path
) -> None:
    small = ("gan.n_critic=4", "loss.depth_supervised=0", "loss.depth_cycle_consistency=0")
    plan = Plan(tmp_path, two_domains, f"gan.iterations={ITERATIONS}", "gan.checkpoint_every=1", *small)
    plan.add("whole", "gan.keep_checkpoints=1000")
    plan.plan["sized"] = str(tmp_path / "whole")
    seed = random.Random(20)
    names = [f"run {number}" for number in range(RUNS)]
    for name in names:
        for _ in range(KILLS):
            plan.add(name, **a_kill(seed))
        plan.add(name)
    done = plan.do()

    assert done[0][1].statuses == [0, 0], done[0][1].words
    disturbed = [left for job, (_, left) in zip(plan.jobs, done, strict=True) if "befalls" in job]
    assert len(disturbed) == RUNS * KILLS == 30
    kinds = {job["befalls"]["kind"] for job in plan.jobs if "befalls" in job}
    assert kinds == {"kill", "kill writing", "kill beside writing"}
    for left in disturbed:
        lost = LOST_BUT_FURTHER if left.newest > left.begun_from else LOST
        assert sorted(left.statuses) == [-signal.SIGKILL, lost], left
        assert_one_sentence(left)
    for _, left in done:
        assert left.wrong == [], left
    for name in names:
        last = [left for ended, left in done if ended == name][-1]
        assert last.statuses == [0, 0], last.words
        assert last.newest == ITERATIONS
        whole, weights = plan.weights("whole"), plan.weights(name)
        assert whole.keys() == weights.keys()
        assert [part for part in whole if not torch.equal(whole[part], weights[part])] == []
        assert plan.curve(name) == plan.curve("whole")
        assert plan.steps(name) == [ITERATIONS - 1, ITERATIONS]
        assert {path.suffix for path in (tmp_path / name / "checkpoints").iterdir()} == {".pt", ".sha256"}


def assert_one_sentence(left: Left) -> None:
    """The rank that was not killed says what it knows and how to go on, and that is so."""
    killed = left.statuses.index(-signal.SIGKILL)
    assert left.errors(killed) == []
    (said,) = left.errors(1 - killed)
    assert said.startswith(f"error: rank {1 - killed} has lost another rank, which has ended")
    if left.newest:
        assert said.endswith(f"; the same command continues from the checkpoint of iteration {left.newest}"), left
    else:
        assert said.endswith("; nothing is saved yet, so the same command starts anew"), left
