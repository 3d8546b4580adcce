"""Station 4, training: running means that stay on the device until somebody reads them."""

from __future__ import annotations

import torch
from torch import Tensor

from drdg.distributed.group import Group


class RunningMeans:
    """Means of named losses over iterations and ranks; adding one does not wait for the device."""

    def __init__(self, group: Group):
        self.group = group
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}

    def add(self, values: dict[str, Tensor]) -> None:
        """Count one value for each name."""
        for name, value in values.items():
            value = value.detach().to(torch.float64)
            self.sums[name] = self.sums[name] + value if name in self.sums else value
            self.counts[name] = self.counts.get(name, 0) + 1

    def forget(self, name: str) -> None:
        """Drop what was counted for a name."""
        self.sums.pop(name, None)
        self.counts.pop(name, None)

    def read(self) -> dict[str, float]:
        """The means over all ranks since the last reading, and start anew. Every rank must call it."""
        if not self.sums:
            return {}
        names = sorted(self.sums)
        totals = self.group.sum(torch.stack([self.sums[name] for name in names])).tolist()
        means = {
            name: total / (self.counts[name] * self.group.world_size) for name, total in zip(names, totals, strict=True)
        }
        self.sums, self.counts = {}, {}
        return means

    def state_dict(self) -> dict[str, tuple[list[float], int]]:
        """Every rank's sums and the common counts, for a checkpoint. Every rank must call it."""
        names = sorted(self.sums)
        if not names:
            return {}
        sums = self.group.gather(torch.stack([self.sums[name] for name in names])).T.tolist()
        return {name: (ranks, self.counts[name]) for name, ranks in zip(names, sums, strict=True)}

    def load_state_dict(self, state: dict[str, tuple[list[float], int]]) -> None:
        """Take up this rank's sums, or, with another number of ranks, let rank 0 hold everybody's share."""
        for name, (ranks, count) in state.items():
            if len(ranks) == self.group.world_size:
                own = ranks[self.group.rank]
            else:
                own = sum(ranks) / len(ranks) * self.group.world_size if self.group.is_first else 0.0
            self.sums[name] = torch.tensor(own, dtype=torch.float64, device=self.group.device)
            self.counts[name] = count
