"""Why a cell has no scores: the job that is to blame, be it another row's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fleet import leave, planned

from drdg.sweep.plan import Sweep
from drdg.sweep.reasons import reason_for
from drdg.sweep.record import describe


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return planned(tmp_path, rows="mucss,drdg", seeds="0")


def reason(sweep: Sweep, row: str) -> tuple[str, str]:
    runs = {"": "0", **{cell.key: cell.key for cell in sweep.cells}}
    described: dict[str, Any] = describe(sweep, sweep, runs, "sqlite:///x.db")
    (cell,) = [cell for cell in described["cells"] if cell["row"] == row]
    return reason_for(described, cell, sweep.folder)


def say(sweep: Sweep, said: str, *names: str, **more: object) -> None:
    for name in names:
        leave(sweep.jobs[f"{sweep.directions[0].name}/{name}"], said, **more)


def test_a_cell_is_done_when_it_is_scored_whatever_became_of_what_led_there(sweep: Sweep) -> None:
    say(sweep, "done", "seed0/mucss/evaluate")
    say(sweep, "failed", "seed0/dualgan/gan", error="old")
    assert reason(sweep, "mucss") == ("done", "")


def test_another_rows_failure_is_named(sweep: Sweep) -> None:
    say(sweep, "done", "shards", "seed0/baseline_rescaled/translate")
    say(sweep, "failed", "seed0/dualgan/gan", error="gan/critic/loss is nan at iteration 7")
    assert reason(sweep, "mucss") == (
        "failed",
        "stage gan of row dualgan failed: gan/critic/loss is nan at iteration 7",
    )
    assert reason(sweep, "drdg") == ("missing", "stage gan of row drdg has not run")


def test_failed_shards_are_named_for_every_cell(sweep: Sweep) -> None:
    say(sweep, "failed", "shards", error="/data: No space left on device")
    for row in ("mucss", "drdg"):
        assert reason(sweep, row) == ("failed", "stage shards failed: /data: No space left on device")


def test_a_lost_job_is_named_with_its_place(sweep: Sweep) -> None:
    say(sweep, "done", "shards", "seed0/drdg/gan", "seed0/drdg/translate")
    say(sweep, "running", "seed0/drdg/segment")
    state, sentence = reason(sweep, "drdg")
    assert state == "missing"
    assert "stage segment of row drdg ended without a word (job 12, on node1); its log is /logs" in sentence


def test_what_failed_with_other_settings_is_not_blamed(sweep: Sweep) -> None:
    say(sweep, "done", "shards")
    say(sweep, "failed", "seed0/drdg/gan", digest="0" * 16, error="old")
    assert reason(sweep, "drdg") == ("missing", "stage gan of row drdg has not run")


def test_what_was_removed_after_it_was_used_is_not_blamed(sweep: Sweep) -> None:
    say(sweep, "done", "seed0/drdg/translate")
    say(sweep, "done", "shards", result="/gone")
    say(sweep, "failed", "seed0/drdg/segment", error="out of memory")
    assert reason(sweep, "drdg") == ("failed", "stage segment of row drdg failed: out of memory")


def test_an_outcome_that_is_gone_is_named(sweep: Sweep) -> None:
    say(sweep, "done", "shards", "seed0/drdg/gan", "seed0/drdg/translate", "seed0/drdg/segment")
    say(sweep, "done", "seed0/drdg/evaluate", result="/gone")
    assert reason(sweep, "drdg") == ("missing", "stage evaluate of row drdg was done, but its outcome /gone is gone")
