"""Station 4, training: checkpoints that are whole or not there, and that continue bit for bit.

A checkpoint is written to a temporary name, synced and renamed; beside it lies its SHA-256. Loading takes the newest
whose content matches, and says so when that is not the newest there is.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

from drdg.files import sha256, whole_file, write_text

PATTERN = "step_*.pt"


def save_torch(path: Path, state: Any) -> str:
    """Save ``state`` by ``torch.save``, whole or not at all, and return its SHA-256."""
    with whole_file(path) as file:
        torch.save(state, file)
    return sha256(path)


def save_checkpoint(folder: Path, step: int, state: dict[str, Any], keep: int) -> Path:
    """Save ``state`` as the checkpoint of ``step`` and remove all but the newest ``keep``."""
    path = folder / f"step_{step:09d}.pt"
    # The old checksum goes first: a new file under an old checksum would look torn, an old pair is simply older.
    _checksum_of(path).unlink(missing_ok=True)
    checksum = save_torch(path, state)
    write_text(_checksum_of(path), checksum)
    for unfinished in folder.glob(f".{PATTERN}*.tmp"):  # of processes that were killed while they wrote
        unfinished.unlink(missing_ok=True)
    for old in sorted(folder.glob(PATTERN))[:-keep]:
        _checksum_of(old).unlink(missing_ok=True)
        old.unlink()
    return path


def load_newest(folder: Path) -> dict[str, Any] | None:
    """The newest whole checkpoint's state, on the CPU, or ``None`` if there is none."""
    for path in sorted(folder.glob(PATTERN), reverse=True):
        checksum = _checksum_of(path)
        if checksum.is_file() and checksum.read_text() == sha256(path):
            return torch.load(path, map_location="cpu", weights_only=True)
        print(f"{path}: is torn or changed; taking the checkpoint before it", file=sys.stderr, flush=True)
    return None


def _checksum_of(path: Path) -> Path:
    return path.with_suffix(".sha256")
