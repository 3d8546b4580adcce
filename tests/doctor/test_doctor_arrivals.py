"""Ranks that came, did not, or came twice; the master's port; settings that differ."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from patients import answers_of, said

from drdg.distributed.topology import Topology
from drdg.doctor.answers import Rank
from drdg.doctor.arrivals import judge_port, judge_ranks, judge_settings, probe_agent, probe_settings, whereabouts
from drdg.doctor.context import Context

FOUR = Topology(world_size=4, master_address="node1", master_port=23456, launcher="srun")
TWO_BY_TWO = [Rank(0, "node1", 0, 2), Rank(1, "node1", 1, 2), Rank(2, "node2", 0, 2), Rank(3, "node2", 1, 2)]
Contexts = Callable[..., Context]


def test_all_ranks_on_their_nodes_are_ok(context: Contexts) -> None:
    config = context("gan.batch_size=4").config
    found = judge_ranks(config, FOUR, TWO_BY_TWO, [], {}, [], 1.0)
    assert said(found) == ["ok ranks: 4 ranks on 2 nodes by srun, 2 on each"]


def test_a_missing_rank_is_named_with_its_node(context: Contexts) -> None:
    config = context("gan.batch_size=4").config
    (found,) = judge_ranks(config, FOUR, TWO_BY_TWO[:3], [3], {}, [], 30.0)
    assert said([found]) == ["bad ranks: rank 3, of node2, never came; waited 30 s for 4 ranks"]
    assert found.figures["missing"] == [3]


def test_a_missing_rank_is_where_its_note_says(context: Contexts) -> None:
    config = context("gan.batch_size=4").config
    found = judge_ranks(config, FOUR, TWO_BY_TWO[:2], [2, 3], {3: ("node9", "timed out")}, [], 30.0)
    assert said(found) == ["bad ranks: ranks 2-3, of node9, never came; waited 30 s for 4 ranks"]


def test_ranks_dealt_round_say_nothing_of_a_neighbour() -> None:
    dealt = [Rank(0, "node1", 0, 2), Rank(1, "node2", 0, 2), Rank(2, "node1", 1, 2)]
    assert whereabouts(3, dealt, {}) == ""
    assert whereabouts(3, TWO_BY_TWO[:3], {}) == "node2"


@pytest.mark.parametrize(
    ("override", "world", "words"),
    [
        ("gan.batch_size=6", 4, "gan.batch_size=6 cannot be shared by 4 ranks"),
        ("distributed.backend=single", 2, "distributed.backend=single, but 2 ranks"),
        ("distributed.backend=ddp", 1, "distributed.backend=ddp, but one rank"),
    ],
)
def test_ranks_that_training_would_refuse_are_bad(context: Contexts, override: str, world: int, words: str) -> None:
    config = context("gan.batch_size=4", override).config
    found = judge_ranks(config, replace(FOUR, world_size=world), TWO_BY_TWO[:world], [], {}, [], 1.0)
    assert said(found) == [f"bad ranks: {words}"]


def test_a_stranger_is_bad_and_uneven_nodes_are_a_warning(context: Contexts) -> None:
    config = context("gan.batch_size=3").config
    three = replace(FOUR, world_size=3)
    uneven = [*TWO_BY_TWO[:2], Rank(2, "node2", 0, 1)]
    assert said(judge_ranks(config, three, uneven, [], {}, [], 1.0)) == [
        "warning ranks: 3 ranks on 2 nodes by srun, 1-2 on each"
    ]
    found = judge_ranks(config, three, uneven, [], {}, ["node7 sent rank 9 of 12"], 1.0)
    assert said(found)[0] == "bad ranks: node7 sent rank 9 of 12"


def test_a_port_that_all_reach_is_ok_and_a_slow_one_a_warning() -> None:
    greetings = {1: {"connect_s": 0.001}, 2: {"connect_s": 0.002}}
    (found,) = judge_port(FOUR, "", greetings, [], {})
    assert said([found]) == ["ok port: node1:23456 reached by all, slowest connection 2 ms"]
    (found,) = judge_port(FOUR, "", {1: {"connect_s": 1.5}}, [], {})
    assert (found.level, found.figures["connect_s"]) == ("warning", 1.5)


def test_a_port_that_is_taken_or_not_reached_is_bad() -> None:
    notes = {2: ("node2", "timed out"), 3: ("node2", "timed out")}
    found = judge_port(FOUR, "Address already in use", {1: {"connect_s": 0.001}}, [], notes)
    assert said(found) == [
        "bad port: node1:23456 cannot be listened at by rank 0 (Address already in use)",
        "bad port: ranks 2-3 on node2 cannot reach node1:23456 (timed out)",
    ]
    assert "ss -ltnp 'sport = :23456'" in found[0].cure


def test_torchruns_agent_must_be_reached_by_each_rank() -> None:
    answers = answers_of({"error": ""}, {"error": "timed out"}, connect_s=0.001)
    found = judge_port(replace(FOUR, launcher="torchrun"), "", {}, answers, {})
    assert said(found) == ["bad port: rank 1 on node2 cannot reach torchrun's agent at node1:23456 (timed out)"]


def test_the_agents_port_is_really_called(context: Contexts) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as agent:
        port = agent.getsockname()[1]
        there = probe_agent(context(master_address="127.0.0.1", master_port=port))
    gone = probe_agent(context(master_address="127.0.0.1", master_port=port))
    assert there["error"] == ""
    assert gone["error"] == "Connection refused"


def test_settings_that_differ_are_named_with_both_values(context: Contexts) -> None:
    mine, theirs = context(), context("run.seed=7")
    found = judge_settings(answers_of(probe_settings(mine), probe_settings(theirs), probe_settings(theirs)))
    assert said(found) == ["bad configuration: ranks 1-2 on node2, node3 have run.seed=7 instead of 0"]
    assert said(judge_settings(answers_of(probe_settings(mine), probe_settings(mine)))) == [
        "ok configuration: the same on all ranks"
    ]
