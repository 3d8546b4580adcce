"""Training waits for the copy of its state, not for the disk, and nothing is lost between the two."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from drdg.training import writer as writers
from drdg.training.checkpoint import load_newest, newest_step, save_checkpoint
from drdg.training.snapshot import Snapshot
from drdg.training.writer import Writer

CPU = torch.device("cpu")


def new_writer(folder: Path) -> Writer:
    return Writer(folder, 2, None, CPU)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """A disk that writes when it is told to."""
    go = threading.Event()

    def slowly(*arguments: Any) -> Path:
        assert go.wait(60)
        return save_checkpoint(*arguments)

    monkeypatch.setattr(writers, "save_checkpoint", slowly)
    return go


def test_training_goes_on_while_its_state_of_before_is_written(tmp_path: Path, disk: threading.Event) -> None:
    weights, count = torch.arange(5.0), torch.tensor(3)
    state = {"weights": weights, "optimizers": [{"state": {0: {"step": count}}}], "betas": (0.5, 0.9), "rate": 1e-3}
    writer = new_writer(tmp_path)
    writer.save(1, state)
    weights += 1
    count += 1
    assert newest_step(tmp_path) is None
    assert writer.error is None
    disk.set()
    writer.finish()
    saved = load_newest(tmp_path)
    assert saved is not None
    assert torch.equal(saved["weights"], torch.arange(5.0))
    assert saved["optimizers"][0]["state"][0]["step"] == 3
    assert (saved["betas"], saved["rate"]) == ((0.5, 0.9), 1e-3)


def test_the_next_copy_waits_for_the_write_before_it(tmp_path: Path, disk: threading.Event) -> None:
    writer = new_writer(tmp_path)
    writer.save(1, {"weights": torch.zeros(3)})
    with pytest.raises(AssertionError, match="still writing"):
        writer.save(2, {"weights": torch.ones(3)})
    disk.set()
    writer.wait()
    writer.save(2, {"weights": torch.ones(3)})
    writer.finish()
    assert [int(path.stem[5:]) for path in sorted(tmp_path.glob("*.pt"))] == [1, 2]


def test_an_error_is_known_when_it_has_happened_and_is_raised_once_it_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    writer = new_writer(tmp_path / "file")
    writer.save(1, {})
    writer.wait()
    assert isinstance(writer.error, OSError)
    with pytest.raises(FileExistsError):
        writer.finish()
    with pytest.raises(FileExistsError):
        writer.save(2, {})


PROGRAM = """
import sys, time, torch
from pathlib import Path
from drdg.training import writer
save = writer.save_checkpoint
writer.save_checkpoint = lambda *arguments: (time.sleep(1), save(*arguments))
writer.Writer(Path(sys.argv[1]), 2, None, torch.device("cpu")).save(4, {"weights": torch.ones(3)})
raise SystemExit(3)
"""


def test_a_process_does_not_end_before_it_has_written(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM, tmp_path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (3, "")
    assert load_newest(tmp_path) is not None


def test_a_snapshot_is_the_same_memory_again_where_shapes_are_the_same(tmp_path: Path) -> None:
    snapshot = Snapshot(CPU)
    first = snapshot.of({"a": torch.ones(4), "b": [torch.ones(2, dtype=torch.bfloat16), "word"]})
    again = snapshot.of({"a": torch.zeros(4), "b": [torch.zeros(3, dtype=torch.bfloat16), "word"]})
    assert again["a"].data_ptr() == first["a"].data_ptr()
    assert torch.equal(first["a"], torch.zeros(4))
    assert torch.equal(first["b"][0], torch.ones(2, dtype=torch.bfloat16))
    assert torch.equal(again["b"][0], torch.zeros(3, dtype=torch.bfloat16))
    assert again["b"][1] == "word"


def test_a_snapshot_holds_no_more_than_what_it_copies() -> None:
    """ZeRO lays all weights out in one buffer, and a view of it would be saved with all of it."""
    views = list(torch.arange(1000.0).split(10))
    copies = Snapshot(CPU).of(views)
    assert all(torch.equal(*pair) for pair in zip(copies, views, strict=True))
    assert {copy.untyped_storage().nbytes() for copy in copies} == {40}
