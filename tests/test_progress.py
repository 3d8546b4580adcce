"""Progress that a job tells to a file, for whoever watches it from elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from drdg import progress as module
from drdg.progress import progress, tell


def test_the_file_says_how_far_the_work_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SECONDS_BETWEEN_WORDS", 0.0)
    path, said = tmp_path / "job/progress.json", []
    with tell(path):
        for _ in progress(range(3), "dig", total=5, start=2):
            said.append(json.loads(path.read_text()))
    assert [(word["done"], word["total"], word["what"]) for word in said] == [
        (2, 5, "dig"),
        (3, 5, "dig"),
        (4, 5, "dig"),
    ]
    assert said[0]["left_s"] is None  # nothing is known of the pace before the first piece
    assert said[1]["left_s"] >= 0


def test_nothing_is_told_outside_the_block_nor_by_quiet_ranks(tmp_path: Path) -> None:
    path = tmp_path / "progress.json"
    with tell(path):
        assert list(progress(range(3), "dig", quiet=True)) == [0, 1, 2]
    assert list(progress(range(3), "dig")) == [0, 1, 2]
    assert not path.exists()


def test_a_file_that_cannot_be_written_stops_no_work(tmp_path: Path) -> None:
    (tmp_path / "a file").write_text("")
    with tell(tmp_path / "a file/progress.json"):
        assert list(progress(range(3), "dig")) == [0, 1, 2]
