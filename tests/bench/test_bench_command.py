"""The command and what it strings together, on tiny sheets."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_bench import TINY

from drdg.bench import sizes
from drdg.bench.sheets import domain_of
from drdg.bench.sizes import FULL, PARTS, QUICK, Sizes
from drdg.bench.suite import measure_data
from drdg.config import Config, load_config
from drdg.tiles.windows import grid

REPOSITORY = Path(__file__).parents[2]
COMMAND = [sys.executable, "launch/bench.py", "data"]
KEYS = {"name", "ours", "peer", "unit", "ratio", "goal", "met"}
# A tile is measured once at this size; what the figures are is no matter here.
TINIEST = Sizes(side=256, tile=128, stride=128, tops=2, batch=2, passes=1)


def run(*arguments: str, cwd: Path = REPOSITORY) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=300, cwd=cwd, check=False)


def test_all_parts_measure_and_leave_nothing_behind(tmp_path: Path) -> None:
    cores = os.sched_getaffinity(0)
    root = tmp_path / "work place"
    comparisons = measure_data(load_config(None, []), TINIEST, 1, PARTS, root=root, real=False)
    assert list(root.iterdir()) == []
    assert os.sched_getaffinity(0) == cores
    rows = [comparison.row() for comparison in comparisons]
    assert all(row.keys() == KEYS for row in rows)
    assert all(row["ours"] > 0 and row["peer"] > 0 and row["ratio"] > 0 for row in rows)
    assert [(row["goal"], "at most" in row["name"], "at least" in row["name"]) for row in rows] == [
        (50.0, False, True),  # PNG folders
        (4.0, False, True),  # webdataset
        (0.7, False, True),  # memory copy
        (None, False, False),  # zstd: speed
        (None, False, False),  # zstd: size
        (15.0, False, True),  # open per tile
        (2.0, True, False),  # plain copy, all cores
        (2.0, True, False),  # plain copy, one core
        (None, False, False),  # zstd: build
        (0.9, False, True),  # ranks
        (1.1, True, False),  # memory
    ]
    assert len({row["name"] for row in rows}) == len(rows)
    size = rows[4]
    assert size["peer"] > 5 * TINIEST.tile**2 > 0
    assert size["ratio"] < 1  # zstd saves something


def test_real_pixels_come_from_the_configured_source(small: Callable[..., Config], tmp_path: Path) -> None:
    comparisons = measure_data(small(), TINY, 1, ["memory"], root=tmp_path, real=True)
    assert [comparison.unit for comparison in comparisons] == ["MB"]


def test_a_failure_leaves_nothing_behind_either(small: Callable[..., Config], tmp_path: Path) -> None:
    config = small(f"source.archive.root={tmp_path / 'nowhere'}")
    with pytest.raises(ValueError, match="nowhere"):
        measure_data(config, TINY, 1, ["memory"], root=tmp_path / "work", real=True)
    assert list((tmp_path / "work").iterdir()) == []


@pytest.mark.parametrize("as_json", [True, False])
def test_results_alone_are_on_standard_output(
    as_json: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sizes, "QUICK", TINIEST)
    arguments = ["--quick", "--repeats", "1", "--only", "build", "--root", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["bench.py", "data", *arguments, *(["--json"] if as_json else [])])
    runpy.run_path(str(REPOSITORY / "launch/bench.py"), run_name="__main__")
    out, err = capsys.readouterr()
    assert "run 1 of 1" in err
    if as_json:
        assert [row.keys() == KEYS for row in json.loads(out)] == [True] * 4
        assert "| build of one TOP" in err
    else:
        assert [line[0] for line in out.splitlines()] == ["|"] * 6
        assert "| build of one TOP" in out
        assert "| build of one TOP" not in err


def test_a_dry_run_says_what_and_loads_no_torch(tmp_path: Path) -> None:
    look = "import atexit, sys; atexit.register(lambda: print('torch' in sys.modules))"
    arguments = ["x", "data", "--dry-run", "--only", "stream", "build", "--root", str(tmp_path / "there")]
    code = f"{look}; sys.argv = {arguments!r}; import runpy; runpy.run_path('launch/bench.py', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    said, loaded = done.stdout.splitlines()
    assert said.startswith("data: stream, build; 5 interleaved runs of each side; 2 TOPs of 6000 x 6000 pixels")
    assert str(tmp_path / "there") in said
    assert loaded == "False"
    assert not (tmp_path / "there").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--repeats", "0"], "error: argument --repeats: 0 runs measure nothing; take 5 or more"),
        (["--repeats", "some"], "some runs measure nothing"),
        (["--only", "everything"], "invalid choice: 'everything'"),
        (["shards.codec=bz2"], "shards.codec"),
    ],
)
def test_bad_arguments_end_with_a_sentence(arguments: list[str], words: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_the_full_size_is_the_one_that_is_asked_for() -> None:
    """121 tiles of a 6000 x 6000 TOP, and at least 64 tiles in the stream."""
    assert (
        len(grid(FULL.side, FULL.side, FULL.tile, FULL.stride, domain_of(Path(), FULL.tile, FULL.stride).edge)) == 121
    )
    assert 2 * (FULL.side // FULL.tile) ** 2 >= 64
    assert (FULL.side // FULL.tile) ** 2 % FULL.batch == 0
    assert (QUICK.side // QUICK.tile) ** 2 % QUICK.batch == 0
