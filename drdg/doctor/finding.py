"""Station 6, doctor: what a check has found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Level = Literal["bad", "warning", "ok"]
LEVELS: tuple[Level, ...] = ("bad", "warning", "ok")
"""Worst first. ``bad``: a job would fail or hang; ``warning``: it would crawl, or something will go wrong one day."""


@dataclass(frozen=True)
class Finding:
    """One line of the page. What is not ok has a cure, in one sentence."""

    check: str
    level: Level
    measured: str
    """What was found, figures with their units."""
    cure: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict)
    """The figures alone, for ``--json``; names end in their unit."""

    def __post_init__(self) -> None:
        assert (self.level == "ok") == (not self.cure), f"{self.check}: a cure for what is ill, and for nothing else"


def ok(check: str, measured: str, **figures: Any) -> Finding:
    """A finding that needs no cure."""
    return Finding(check, "ok", measured, "", figures)


def warning(check: str, measured: str, cure: str, **figures: Any) -> Finding:
    """A finding that a job survives."""
    return Finding(check, "warning", measured, cure, figures)


def bad(check: str, measured: str, cure: str, **figures: Any) -> Finding:
    """A finding that a job does not survive."""
    return Finding(check, "bad", measured, cure, figures)
