"""Checkpoints are whole or not there, and a damaged one gives way to the one before."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from drdg.files import sha256
from drdg.training import checkpoint
from drdg.training.checkpoint import Unusable, find_newest, load_newest, newest_step, save_checkpoint


def state_of(step: int) -> dict[str, Any]:
    return {"step": step, "weights": torch.full((100,), float(step)), "new": False}


def save(folder: Path, step: int, keep: int = 3, milestone_every: int | None = None) -> Path:
    return save_checkpoint(folder, step, state_of(step), keep, milestone_every)


def loaded(folder: Path) -> int:
    state = load_newest(folder)
    assert state is not None
    assert torch.equal(state["weights"], state_of(state["step"])["weights"])
    return int(state["step"])


def test_the_newest_is_loaded_and_only_the_last_few_are_kept(tmp_path: Path) -> None:
    for step in (5, 10, 200, 1000):
        save(tmp_path, step, keep=2)
    assert loaded(tmp_path) == newest_step(tmp_path) == 1000
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "step_000000200.pt",
        "step_000000200.sha256",
        "step_000001000.pt",
        "step_000001000.sha256",
    ]


def test_milestones_are_never_removed(tmp_path: Path) -> None:
    for step in range(10, 130, 10):
        save(tmp_path, step, keep=2, milestone_every=30)
    assert [int(path.stem[5:]) for path in sorted(tmp_path.glob("*.pt"))] == [30, 60, 90, 110, 120]


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert load_newest(tmp_path / "nothing") is None
    assert newest_step(tmp_path / "nothing") is None


def test_beside_it_lies_its_sha256(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    assert path.with_suffix(".sha256").read_text() == sha256(path)


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8 % len(content)] ^= 1 << bit % 8
    path.write_bytes(content)


DAMAGE: dict[str, Callable[[Path, int], None]] = {
    "bit": flip,
    "cut": lambda path, number: os.truncate(path, number // 8 % path.stat().st_size),
    "longer": lambda path, number: path.write_bytes(path.read_bytes() + b"\0" * (number % 9 + 1)),
    "bit in the checksum": lambda path, bit: flip(path.with_suffix(".sha256"), bit),
    "cut checksum": lambda path, number: os.truncate(path.with_suffix(".sha256"), number % 64),
    "no checksum": lambda path, number: path.with_suffix(".sha256").unlink(),
}


@settings(max_examples=60)
@given(kind=st.sampled_from(sorted(DAMAGE)), number=st.integers(0, 8 * 10_000))
def test_whatever_is_damaged_gives_way_to_the_one_before(
    tmp_path_factory: pytest.TempPathFactory, kind: str, number: int
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    save(folder, 1)
    newest = save(folder, 2)
    DAMAGE[kind](newest, number)
    assert loaded(folder) == 1
    # It does not count any more among those that are kept.
    save(folder, 3, keep=2)
    assert [path.name for path in sorted(folder.glob("*.pt"))] == ["step_000000001.pt", "step_000000003.pt"]


@pytest.mark.parametrize("damage", sorted(DAMAGE))
def test_what_is_damaged_is_named_and_set_aside(
    tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path, 1)
    newest = save(tmp_path, 2)
    DAMAGE[damage](newest, 77)
    assert loaded(tmp_path) == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert said == f"{newest}: is torn or changed and is now step_000000002.damaged; taking the checkpoint before it"
    assert (tmp_path / "step_000000002.damaged").exists()
    assert loaded(tmp_path) == 1
    assert capsys.readouterr().err == ""


def test_where_all_are_damaged_training_does_not_begin_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for step in (1, 2):
        flip(save(tmp_path, step), 999)
    for _ in range(2):
        with pytest.raises(Unusable, match=r"of 2 checkpoints none is whole; bring one back .*, or remove the folder"):
            load_newest(tmp_path)
    assert capsys.readouterr().err == ""
    assert len(find_newest(tmp_path).damaged) == 2


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    save(tmp_path, 1)

    class Unsaveable:
        def __reduce__(self) -> None:  # type: ignore[override]
            raise RuntimeError("no such thing")

    with pytest.raises(RuntimeError, match="no such thing"):
        save_checkpoint(tmp_path, 2, {"bad": Unsaveable()}, keep=1)
    assert loaded(tmp_path) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_000000001.pt", "step_000000001.sha256"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
@pytest.mark.parametrize("buffer", [0, 100_000])
def test_a_full_disk_is_what_the_system_says_it_is_and_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, buffer: int
) -> None:
    open_file = Path.open

    def full(path: Path, mode: str = "r", *arguments: Any, **named: Any) -> Any:
        if mode != "wb":
            return open_file(path, mode, *arguments, **named)
        path.touch()
        return open("/dev/full", "wb", buffering=buffer)  # noqa: PTH123

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", full)
        with pytest.raises(OSError, match="No space left") as caught:
            save_checkpoint(tmp_path, 7, {"weights": torch.zeros(50_000)}, 1)
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == str(tmp_path / "step_000000007.pt")
    assert list(tmp_path.iterdir()) == []


# Where a process that writes the checkpoint of a step dies: in torch, before and after the checksum, and so on.
MOMENTS = ("save", "before 1", "after 1", "before 2", "after 2", "tidy")


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_process_that_dies_while_it_writes_over_a_checkpoint_leaves_the_old_or_the_new(
    tmp_path: Path, moment: str
) -> None:
    save(tmp_path, 1)
    process = multiprocessing.get_context("fork").Process(target=write_and_die, args=(tmp_path, moment))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    state = load_newest(tmp_path)
    assert state is not None
    assert state["new"] is (moment in ("before 2", "after 2", "tidy"))
    assert torch.equal(state["weights"], torch.full((100,), 1.0 + state["new"]))
    save(tmp_path, 2, keep=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_000000002.pt", "step_000000002.sha256"]


def write_and_die(folder: Path, moment: str) -> None:
    calls = []
    write_text = checkpoint.write_text

    def die(*arguments: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def with_checksum(path: Path, text: str) -> None:
        calls.append(text)
        if moment == f"before {len(calls)}":
            die()
        write_text(path, text)
        if moment == f"after {len(calls)}":
            die()

    checkpoint.write_text = with_checksum
    if moment == "save":
        checkpoint.torch.save = lambda state, file: (file.write(b"abc"), file.flush(), die())  # type: ignore
    if moment == "tidy":
        checkpoint._tidy = die
    save_checkpoint(folder, 1, {"new": True, "weights": torch.full((100,), 2.0)}, 1)
