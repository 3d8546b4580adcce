"""Station 4, training: checkpoints written beside the training, which waits only while its state is copied."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import torch

from drdg.training.checkpoint import save_checkpoint
from drdg.training.snapshot import Snapshot


class Writer:
    """Writes one thing at a time, in a thread of its own. The process does not end before that is written."""

    def __init__(self, folder: Path, keep: int, milestone_every: int | None, device: torch.device):
        self.folder, self.keep, self.milestone_every = folder, keep, milestone_every
        self._snapshot = Snapshot(device)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="writer")
        self._writing: Future[object] | None = None

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Copy ``state`` and let the copy be written as the checkpoint of ``step``. The former write must have been
        waited for, as its copy lies in the same memory.
        """
        assert self._writing is None or self._writing.done(), "still writing"
        copy = self._snapshot.of(state)
        self.do(lambda: save_checkpoint(self.folder, step, copy, self.keep, self.milestone_every))

    def do(self, write: Callable[[], object]) -> None:
        """Let ``write`` be called after what is written now. Raises the error that the last one ended with."""
        self.finish()
        self._writing = self._thread.submit(write)

    @property
    def error(self) -> BaseException | None:
        """What the last write has ended with; None while it goes on and when it went well."""
        return self._writing.exception() if self._writing is not None and self._writing.done() else None

    def wait(self) -> None:
        """Wait until all is written, or has failed."""
        if self._writing is not None:
            wait([self._writing])

    def finish(self) -> None:
        """Wait until all is written. Raises the error of what is not."""
        self.wait()
        if self.error is not None:
            raise self.error
