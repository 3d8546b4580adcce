"""Station 4, training: where the values go that a training logs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Log = Callable[[dict[str, float], int], None]
Rows = list[tuple[str, float, int, int]]  # values logged and not written yet: name, value, time in ms, step


def nowhere(values: dict[str, float], step: int) -> None:
    """Log nothing."""


def no_rows(rows: Rows) -> None:
    """Log nothing again."""


@dataclass(frozen=True)
class Journal:
    """What rank 0 logs by; as it is, nothing is kept."""

    log: Log = nowhere
    """Gets means over ranks and iterations, and the iteration."""
    flush: Callable[[], Rows] = list
    """Writes what is logged, before each checkpoint, as no run that continues from it logs that again; returns what it
    could not write, which the checkpoint keeps."""
    relog: Callable[[Rows], None] = no_rows
    """Gets what ``flush`` had returned when the checkpoint was made that training continues from."""
    run_id: str = ""
    """The MLflow run that is logged to. Checkpoints keep it, and who continues from one in another run is told."""
