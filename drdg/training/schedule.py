"""Station 4, training: learning rates that fall when their loss stops falling, or with time."""

from __future__ import annotations

from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from drdg.config import PlateauConfig


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
