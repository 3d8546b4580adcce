"""Station 4, training: checkpoints that are whole or not there, and that continue bit for bit.

A checkpoint is written to a temporary name, synced and renamed; beside it lies its SHA-256. Loading takes the newest
whose content matches, and says so when that is not the newest there is.
"""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import torch

from drdg.files import clear_abandoned, is_old, sha256, whole_file, write_text

PATTERN = f"step_{'[0-9]' * 9}.pt"


class Unusable(OSError):
    """Checkpoints are there, and training can neither continue from them nor may it begin anew beside them."""


@dataclass(frozen=True)
class Found:
    """What lies in a folder of checkpoints."""

    folder: Path
    state: dict[str, Any] | None
    """The newest whole checkpoint's, on the CPU; None where there is none."""
    damaged: tuple[Path, ...]
    """Those newer than that, whose content is not what was written."""

    @property
    def is_lost(self) -> bool:
        """Whether something was saved of which nothing is left."""
        return self.state is None and bool(self.damaged)

    def state_or_refusal(self) -> dict[str, Any] | None:
        """The state, None where nothing was saved yet. Raises ``Unusable`` when all that was saved is damaged."""
        if self.is_lost:
            raise Unusable(
                f"{self.folder}: of {len(self.damaged)} checkpoints none is whole; bring one back from a copy, with "
                "its .sha256, or remove the folder to start anew"
            )
        return self.state

    def set_aside_damaged(self) -> None:
        """Give the damaged ones another name, lest they count among those that are kept, and say so."""
        for path in self.damaged:
            aside = path.with_suffix(".damaged")
            path.replace(aside)
            _checksum_of(path).unlink(missing_ok=True)
            print(
                f"{path}: is torn or changed and is now {aside.name}; taking the checkpoint before it",
                file=sys.stderr,
                flush=True,
            )


def save_checkpoint(
    folder: Path, step: int, state: dict[str, Any], keep: int, milestone_every: int | None = None
) -> Path:
    """Save ``state`` as the checkpoint of ``step``, then remove all but the newest ``keep`` and the milestones, which
    are those of multiples of ``milestone_every``. Raises ``OSError`` that names a file.
    """
    path = folder / f"step_{step:09d}.pt"
    try:
        _write(path, state)
        _tidy(folder, keep, milestone_every)
    except OSError as error:
        error.filename = error.filename or str(path)  # which a full disk does not say
        raise
    return path


def _write(path: Path, state: dict[str, Any]) -> None:
    checksum = _checksum_of(path)
    with whole_file(path) as file:
        hashed = _Hashed(file)
        try:
            torch.save(state, cast(IO[bytes], hashed))
        except RuntimeError:  # all that torch makes of some of the file's errors
            if hashed.error is not None:
                raise hashed.error from None
            raise
        # It is there before the file is, beside that of the file which this one replaces, if it does: so there is no
        # moment at which a checkpoint is without its checksum.
        replaced = checksum.read_text().split() if path.exists() and checksum.exists() else []
        write_text(checksum, "\n".join([hashed.hexdigest(), *replaced]))
    if replaced:
        write_text(checksum, hashed.hexdigest())


def _tidy(folder: Path, keep: int, milestone_every: int | None) -> None:
    clear_abandoned(folder)  # but not what another process writes: a node may be cut off and not know that it is
    for old in sorted(folder.glob(PATTERN))[:-keep]:
        if not (milestone_every and _step_of(old) % milestone_every == 0):
            old.unlink(missing_ok=True)
            _checksum_of(old).unlink(missing_ok=True)
    for checksum in folder.glob("step_*.sha256"):  # of processes that were killed before or after the file's turn
        if not checksum.with_suffix(".pt").exists() and is_old(checksum):
            checksum.unlink(missing_ok=True)


def find_newest(folder: Path) -> Found:
    """Read the newest whole checkpoint."""
    damaged: list[Path] = []
    for path in sorted(folder.glob(PATTERN), reverse=True):
        if _is_whole(path):
            return Found(folder, torch.load(path, map_location="cpu", weights_only=True), tuple(damaged))
        damaged.append(path)
    return Found(folder, None, tuple(damaged))


def load_newest(folder: Path) -> dict[str, Any] | None:
    """The newest whole checkpoint's state, on the CPU, or ``None`` where nothing was saved yet; damaged ones are set
    aside. Raises ``Unusable`` when there are only such.
    """
    found = find_newest(folder)
    state = found.state_or_refusal()
    found.set_aside_damaged()
    return state


def newest_step(folder: Path) -> int | None:
    """The step of the newest checkpoint that is not evidently torn, without reading it."""
    return max((_step_of(path) for path in folder.glob(PATTERN) if _checksum_of(path).exists()), default=None)


def _is_whole(path: Path) -> bool:
    checksum = _checksum_of(path)
    return checksum.is_file() and sha256(path) in checksum.read_text(errors="replace").split()


def _step_of(path: Path) -> int:
    return int(path.stem.partition("_")[2])


def _checksum_of(path: Path) -> Path:
    return path.with_suffix(".sha256")


class _Hashed:
    """A file to write that knows the SHA-256 of what went into it, and the error that writing ended with."""

    def __init__(self, file: IO[bytes]):
        self.file = file
        self.error: OSError | None = None
        self._hasher = hashlib.sha256()

    def write(self, block: memoryview | bytes) -> int:
        """Write and count in."""
        self._hasher.update(block)
        try:
            return self.file.write(block)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        """Write what the file has buffered."""
        self.file.flush()

    def hexdigest(self) -> str:
        """SHA-256 of all that was written."""
        return self._hasher.hexdigest()
