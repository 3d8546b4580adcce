"""Ranks and figures as sentences have them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drdg.doctor.answers import Answer, Rank, groups, leaders, listed, milliseconds, named, numbers
from drdg.doctor.finding import Finding, bad, ok


def on(*hosts: str) -> list[Rank]:
    return [Rank(number, host) for number, host in enumerate(hosts)]


def test_one_rank_and_several_are_named_with_their_hosts() -> None:
    ranks = on("a", "a", "b", "c")
    assert named(ranks[:1]) == "rank 0 on a"
    assert named(ranks[:2]) == "ranks 0-1 on a"
    assert named([ranks[3], ranks[1], ranks[0]]) == "ranks 0-1, 3 on a, c"


def test_of_many_hosts_a_few_are_named() -> None:
    assert named(on(*(f"node{number}" for number in range(9)))).endswith(" and 5 more")
    assert listed(["a", "b", "c", "d", "e"]) == "a, b, c, d, e"


@given(st.sets(st.integers(0, 30), min_size=1, max_size=4))
def test_runs_of_numbers_are_drawn_together_and_none_is_lost(values: set[int]) -> None:
    back: set[int] = set()
    for part in numbers(sorted(values)).split(", "):
        first, _, last = part.partition("-")
        back |= set(range(int(first), int(last or first) + 1))
    assert back == values


def test_the_first_rank_of_each_host_leads() -> None:
    ranks = on("a", "a", "b", "a", "c")
    assert [rank.number for rank in leaders(reversed(ranks))] == [0, 2, 4]


def test_the_answer_of_the_most_ranks_comes_first() -> None:
    ranks = on("a", "b", "c")
    answers = [Answer(rank, {"v": v}) for rank, v in zip(ranks, "xyy", strict=True)]
    assert groups(answers, lambda value: value["v"]) == {"y": ranks[1:], "x": ranks[:1]}


@pytest.mark.parametrize(("seconds", "said"), [(2.04, "2.0 s"), (0.0123, "12.3 ms"), (4e-5, "40 us")])
def test_times_have_the_unit_that_people_use(seconds: float, said: str) -> None:
    assert milliseconds(seconds) == said


def test_what_is_ill_has_a_cure_and_nothing_else() -> None:
    with pytest.raises(AssertionError):
        bad("x", "is broken", "")
    with pytest.raises(AssertionError):
        Finding("x", "ok", "is whole", "mend it")
    assert ok("x", "is whole", size_bytes=3).figures == {"size_bytes": 3}
