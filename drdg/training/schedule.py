"""Station 4, training: learning rates that fall when their loss stops falling, or with time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from drdg.config import PlateauConfig
from drdg.distributed.group import Group
from drdg.methods import Phase
from drdg.training.means import RunningMeans


class Rates:
    """The learning rates of all phases, of which those with ``fixed_rate`` keep theirs."""

    def __init__(self, phases: Sequence[Phase], optimizers: Sequence[Optimizer], config: PlateauConfig, group: Group):
        self.config = config
        self.optimizers = {phase.name: optimizer for phase, optimizer in zip(phases, optimizers, strict=True)}
        self.falling = [phase.name for phase in phases if not phase.fixed_rate]
        self.first = self.read()
        self.plateaus = [
            None if phase.fixed_rate else build_schedule(self.optimizers[phase.name], config) for phase in phases
        ]
        self.since_epoch = RunningMeans(group)

    def read(self) -> dict[str, float]:
        """The rate of each phase."""
        return {name: optimizer.param_groups[0]["lr"] for name, optimizer in self.optimizers.items()}

    def begin_iteration(self, iteration: int, iterations: int) -> None:
        """Set the rates of an ``iteration`` from 0, where they are a function of time."""
        if self.config.kind == "linear":
            for name in self.falling:
                for group in self.optimizers[name].param_groups:
                    group["lr"] = self.first[name] * linear_decay(iteration, iterations)

    def watch(self, phase: str, loss: Tensor) -> None:
        """Remember what the rates look at: every loss of the epoch, or only the last."""
        if self.config.watch == "last_batch":
            self.since_epoch.forget(phase)
        self.since_epoch.add({phase: loss})

    def end_epoch(self) -> None:
        """Let the rates fall by the epoch's losses. Every rank must call it."""
        losses = self.since_epoch.read()
        for name, plateau in zip(self.optimizers, self.plateaus, strict=True):
            if plateau is not None and name in losses:
                plateau.step(losses[name])

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds of them besides the rates, which are the optimizers'. Every rank must call it."""
        return {
            "schedules": [None if plateau is None else plateau.state_dict() for plateau in self.plateaus],
            "since_epoch": self.since_epoch.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what :meth:`state_dict` gave."""
        for plateau, saved in zip(self.plateaus, state["schedules"], strict=True):
            if plateau is not None:
                plateau.load_state_dict(saved)
        self.since_epoch.load_state_dict(state["since_epoch"])


def build_schedule(optimizer: Optimizer, config: PlateauConfig) -> ReduceLROnPlateau | None:
    """The schedule that ``config`` asks for, or ``None`` for rates that no loss changes."""
    if config.kind != "plateau":
        return None
    return ReduceLROnPlateau(
        optimizer, mode="min", factor=config.factor, patience=config.patience, min_lr=config.minimum
    )


def linear_decay(iteration: int, iterations: int) -> float:
    """The factor of the learning rate at an ``iteration`` from 0: 1 for half of all, then evenly down to 0 after all.

    CycleGAN (Zhu et al. 2017, section 4: 100 epochs at one rate, and 100 in which it falls linearly to zero).
    """
    return min(1.0, 2 * (iterations - iteration) / iterations)
