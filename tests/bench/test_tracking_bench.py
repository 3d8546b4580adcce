"""``launch/bench.py tracking`` measures what a training's step gives for being tracked, and leaves nothing behind."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from drdg.bench.tracking import Timed
from drdg.bench.tracking_sizes import FULL, QUICK, describe

REPOSITORY = Path(__file__).parents[2]
KEYS = {"name", "ours", "peer", "unit", "ratio", "goal", "met"}


@pytest.mark.timeout(1200)
def test_tracking_is_beside_an_iteration(tmp_path: Path) -> None:
    command = [sys.executable, "launch/bench.py", "tracking", "--quick", "--json", "--root", str(tmp_path)]
    done = subprocess.run([*command, "gan.n_critic=1"], capture_output=True, text=True, cwd=REPOSITORY, check=False)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert [row.keys() == KEYS for row in rows] == [True] * 3
    assert [row["goal"] for row in rows] == [0.01, 0.01, None]
    assert all(row["ours"] > 0 for row in rows)
    # The share of one iteration, of which each 20th is logged: far less than the iteration.
    assert rows[0]["peer"] == rows[1]["peer"] == rows[2]["peer"]
    assert rows[0]["ours"] < rows[0]["peer"]
    assert "logged every 20, kept every" in rows[0]["name"]
    assert list(tmp_path.iterdir()) == []


def test_what_calls_take_is_added_up() -> None:
    def sleep(seconds: float) -> str:
        time.sleep(seconds)
        return "slept"

    timed = Timed(sleep)
    assert [timed(0.01), timed(0.02)] == ["slept", "slept"]
    assert timed.calls == 2
    assert timed.s >= 0.03
    assert 0 <= timed.cpu_s <= timed.s


def test_the_size_is_the_demos() -> None:
    from drdg.config import load_config

    demo = load_config(REPOSITORY / "configs/demo.yaml", [])
    assert (FULL.width, FULL.width) == (demo.generator.width, demo.critic.width)
    assert (FULL.source_tile, FULL.target_tile) == (demo.source.tile, demo.target.tile)
    assert FULL.pairs == demo.gan.batch_size
    assert "6 iterations; networks of width 2, 2 pairs of tiles of 256 and 128" in describe(QUICK, 2, ["step"], "here")
