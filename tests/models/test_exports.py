"""Exported weights are numbers and words in a file that runs nothing, and what is not whole is named."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from drdg.models.exports import read_weights, write_weights


def some_weights() -> dict[str, torch.Tensor]:
    flat = torch.arange(24.0)  # as ZeRO lays them out
    return {
        "a": flat[:6].view(2, 3),
        "b": flat[6:].view(3, 6).T,
        "count": torch.tensor(3),
        "low": torch.ones(2, dtype=torch.bfloat16),
        "high": torch.ones((), dtype=torch.float64),
    }


def test_what_is_written_is_read_and_anybody_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / "new/translator.safetensors"
    notes = {"name": "drdg", "config": "a: 1\nb: ä\n", "step": "7"}
    write_weights(path, some_weights(), notes)
    weights, words = read_weights(path, "translator")
    assert words == notes
    with safe_open(path, "pt") as file:
        theirs = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        assert file.metadata() == notes
    for read in (weights, theirs):
        assert read.keys() == some_weights().keys()
        for name, value in some_weights().items():
            assert read[name].dtype == value.dtype
            assert torch.equal(read[name], value)
    assert [found.name for found in path.parent.iterdir()] == [path.name]


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"segmentor\.safetensors: there is no trained segmentor; train one first"):
        read_weights(tmp_path / "segmentor.safetensors", "segmentor")


@pytest.mark.parametrize("size", [0, 5, 100, 435])
def test_a_torn_file_is_named(tmp_path: Path, size: int) -> None:
    path = tmp_path / "translator.safetensors"
    write_weights(path, some_weights(), {})
    assert path.stat().st_size > size
    os.truncate(path, size)
    with pytest.raises(ValueError, match=r"translator.safetensors: is torn or no trained translator") as error:
        read_weights(path, "translator")
    assert "\n" not in str(error.value)
