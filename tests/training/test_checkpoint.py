"""Checkpoints are whole or not there, and a damaged one gives way to the one before."""

from pathlib import Path

import pytest
import torch

from drdg.training.checkpoint import load_newest, save_checkpoint


def save(folder: Path, step: int, keep: int = 3) -> Path:
    return save_checkpoint(folder, step, {"step": step, "weights": torch.full((100,), float(step))}, keep)


def test_the_newest_is_loaded_and_only_the_last_few_are_kept(tmp_path: Path) -> None:
    for step in (5, 10, 200, 1000):
        save(tmp_path, step, keep=2)
    state = load_newest(tmp_path)
    assert state is not None
    assert state["step"] == 1000
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "step_000000200.pt",
        "step_000000200.sha256",
        "step_000001000.pt",
        "step_000001000.sha256",
    ]


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert load_newest(tmp_path / "nothing") is None


@pytest.mark.parametrize("damage", ["cut", "flip", "no checksum", "empty"])
def test_a_damaged_newest_gives_way_to_the_one_before_and_says_so(
    tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path, 1)
    newest = save(tmp_path, 2)
    content = bytearray(newest.read_bytes())
    if damage == "cut":
        newest.write_bytes(content[: len(content) // 2])
    elif damage == "flip":
        content[len(content) // 2] ^= 1
        newest.write_bytes(content)
    elif damage == "empty":
        newest.write_bytes(b"")
    else:
        newest.with_suffix(".sha256").unlink()
    state = load_newest(tmp_path)
    assert state is not None
    assert state["step"] == 1
    assert "step_000000002.pt" in capsys.readouterr().err


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    save(tmp_path, 1)

    class Unsaveable:
        def __reduce__(self) -> None:  # type: ignore[override]
            raise RuntimeError("the disk is full, say")

    with pytest.raises(RuntimeError):
        save_checkpoint(tmp_path, 2, {"bad": Unsaveable()}, keep=1)
    state = load_newest(tmp_path)
    assert state is not None
    assert state["step"] == 1
    assert not list(tmp_path.glob("*partial*"))
