"""Station 4, training: learning rates that fall when their loss stops falling."""

from __future__ import annotations

from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from drdg.config import PlateauConfig


def build_schedule(optimizer: Optimizer, config: PlateauConfig) -> ReduceLROnPlateau | None:
    """The schedule that ``config`` asks for, or ``None`` for a constant learning rate."""
    if config.kind == "constant":
        return None
    return ReduceLROnPlateau(
        optimizer, mode="min", factor=config.factor, patience=config.patience, min_lr=config.minimum
    )
