"""The watchdog: quiet while there are steps, and deadly, with the stacks, when there are none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import ctypes, sys, time
from pathlib import Path
from drdg.training.watchdog import Watchdog

def hang_here():
    time.sleep(60)

def hang_with_the_lock():
    ctypes.PyDLL(None).sleep(60)

with Watchdog(float(sys.argv[2]), "rank 5", Path(sys.argv[1]), lambda: "do so") as watchdog:
    for _ in range(4):
        time.sleep(0.3)
        watchdog.step()
    {}
print("end")
"""


def run(stacks: Path, seconds: float, then: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROGRAM.format(then), str(stacks), str(seconds)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_with_steps_in_time_it_is_not_there(tmp_path: Path) -> None:
    done = run(tmp_path / "hangs/rank-5.txt", 30, "pass")
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")
    assert list(tmp_path.iterdir()) == []


def test_without_steps_it_writes_where_and_ends_the_process(tmp_path: Path) -> None:
    stacks = tmp_path / "hangs/rank-5.txt"
    done = run(stacks, 1, "hang_here()")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"error: rank 5 has not ended an iteration for 1 s and ends; where it hangs is in {stacks}; do so\n"
    )
    said = stacks.read_text()
    assert said.startswith("rank 5 has not ended an iteration for 1 s; its threads")
    assert said.index("in hang_here") < said.index("in <module>")


def test_the_process_ends_also_where_its_stacks_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "hangs").write_text("a file in the way")
    done = run(tmp_path / "hangs/rank-5.txt", 1, "hang_here()")
    assert done.returncode == 1
    assert "cannot be written to" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("then", ["hang_with_the_lock()"])
def test_a_thread_that_keeps_the_interpreters_lock_is_ended_with_its_stack(tmp_path: Path, then: str) -> None:
    done = run(tmp_path / "hangs/rank-5.txt", 1, then)
    assert (done.returncode, done.stdout) == (1, "")
    assert "in hang_with_the_lock" in done.stderr


def test_what_is_set_aside_may_take_long_and_counts_as_a_step(tmp_path: Path) -> None:
    done = run(tmp_path / "hangs/rank-5.txt", 1, "with watchdog.aside(): time.sleep(2.5)")
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")
    after = run(tmp_path / "hangs/rank-5.txt", 1, "with watchdog.aside(): time.sleep(1.5)\n    hang_here()")
    assert after.returncode == 1
