"""Ratios, goals and how they are shown."""

from __future__ import annotations

import json

import pytest

from drdg.bench.result import Comparison, dearer, efficiency, faster, more, table
from drdg.bench.timing import Runs

SLOW, FAST = Runs((30.0, 20.0, 40.0)), Runs((10.0, 11.0, 9.0))


@pytest.mark.parametrize(
    ("comparison", "ratio", "met", "words"),
    [
        (more("a", SLOW, FAST, "tiles/s", 3.0), 3.0, True, "a (ratio = ours / peer, goal: at least)"),
        (more("a", SLOW, FAST, "tiles/s", 3.1), 3.0, False, "goal: at least"),
        (faster("a", FAST, SLOW, 3.0), 3.0, True, "(ratio = peer / ours, goal: at least)"),
        (faster("a", SLOW, FAST, 3.0), 1 / 3, False, "goal: at least"),
        (dearer("a", FAST, SLOW, "MB", 0.5), 1 / 3, True, "(ratio = ours / peer, goal: at most)"),
        (dearer("a", SLOW, FAST, "MB", 3.0), 3.0, True, "goal: at most"),
        (dearer("a", SLOW, FAST, "MB", 2.9), 3.0, False, "goal: at most"),
        (efficiency("a", FAST, SLOW, 2, 0.9), 1.5, True, "(ratio = peer / (2 ours), goal: at least)"),
        (efficiency("a", FAST, FAST, 2, 0.9), 0.5, False, "goal: at least"),
        (more("a", SLOW, FAST, "tiles/s"), 3.0, None, "(ratio = ours / peer, no goal)"),
    ],
)
def test_a_ratio_and_its_goal(comparison: Comparison, ratio: float, met: bool | None, words: str) -> None:
    assert comparison.ratio == pytest.approx(ratio)
    assert comparison.met is met
    assert words in comparison.name


def test_a_row_has_exactly_its_keys_and_plain_values() -> None:
    row = json.loads(json.dumps(faster("build", FAST, SLOW, 15.0).row()))
    assert row == {
        "name": "build (ratio = peer / ours, goal: at least)",
        "ours": 10.0,
        "peer": 30.0,
        "unit": "s",
        "ratio": 3.0,
        "goal": 15.0,
        "met": False,
    }


def test_the_table_shows_medians_spread_and_missed_goals() -> None:
    lines = table([faster("build", FAST, SLOW, 15.0), more("zstd", Runs((5.0,)), SLOW, "tiles/s")]).splitlines()
    assert [cell.strip() for cell in lines[2].split("|")[1:-1]] == [
        "build; peer / ours",
        "10 (9 to 11)",
        "30 (20 to 40)",
        "s",
        "3",
        "≥ 15",
        "NO",
    ]
    assert [cell.strip() for cell in lines[3].split("|")[1:-1]] == [
        "zstd; ours / peer",
        "5",
        "30 (20 to 40)",
        "tiles/s",
        "0.167",
        "–",
        "–",
    ]
    assert len({len(line) for line in lines}) == 1


def test_large_numbers_have_no_exponent() -> None:
    assert "1234567" in table([more("a", Runs((1234567.0,)), SLOW, "bytes")])
