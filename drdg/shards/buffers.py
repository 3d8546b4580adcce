"""Station 2, buffers: memory for batches that is used again; the threads that fill it are ``drdg.shards.threads``.

By hand, because torch's ``DataLoader`` has only processes, and torchdata's ``StatefulDataLoader`` on top of it resumes
by counting through what was seen, for the same number of workers and ranks. ``torchdata.nodes`` has threads, but not
what saves time: like the others it takes the batch that a function makes, in memory new to the process, and the page
faults of that halve the speed of a copy. Their order and resumption would go unused, because our order is a function of
the position (``drdg.tiles.order``).
"""

from __future__ import annotations

import weakref
from collections import defaultdict, deque

import numpy as np
import torch


class Buffers:
    """Tensors to write batches into, in memory that is used again once nothing refers to a tensor any more.

    With ``pinned`` they are page-locked, and torch's own allocator sees to their reuse: it waits for copies to a device
    that are still under way. Otherwise a buffer returns when the last tensor or array over it is gone, in whatever
    thread that is; at most ``spare`` of a kind are kept.
    """

    def __init__(self, *, spare: int, pinned: bool) -> None:
        self.pinned = pinned
        self._free: dict[tuple[tuple[int, ...], torch.dtype], deque[np.ndarray]] = defaultdict(
            lambda: deque(maxlen=spare)
        )

    def take(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """A contiguous tensor on the CPU that nobody else has, its values arbitrary."""
        if self.pinned:
            return torch.empty(shape, dtype=dtype, pin_memory=True)
        free = self._free[shape, dtype]
        buffer = free.pop() if free else torch.empty(shape, dtype=dtype).numpy()
        # The tensor's storage, which all its views share, holds the view; the buffer itself is nobody's but ours.
        view = buffer.view()
        weakref.finalize(view, free.append, buffer).atexit = False
        return torch.from_numpy(view)
