"""Station 7, bench: our side beside a peer, with the goal, as a table for people and as plain values for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from drdg.bench.timing import Runs


@dataclass(frozen=True)
class Comparison:
    """One measured thing: medians of ours and the peer's, their ratio by ``formula``, and whether a goal is met."""

    what: str
    ours: Runs
    peer: Runs
    unit: str
    formula: str
    """How ``ratio`` comes from the two medians, in words."""
    ratio: float
    goal: float | None = None
    at_most: bool = False
    """Whether the goal is the largest good ratio rather than the smallest."""

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None without a goal."""
        if self.goal is None:
            return None
        return self.ratio <= self.goal if self.at_most else self.ratio >= self.goal

    @property
    def name(self) -> str:
        """What was measured, how the ratio is formed and on which side of the goal it should lie."""
        side = "no goal" if self.goal is None else f"goal: at {'most' if self.at_most else 'least'}"
        return f"{self.what} (ratio = {self.formula}, {side})"

    def row(self) -> dict[str, Any]:
        """The comparison as plain values: name, ours, peer, unit, ratio, goal, met."""
        return {
            "name": self.name,
            "ours": self.ours.median,
            "peer": self.peer.median,
            "unit": self.unit,
            "ratio": self.ratio,
            "goal": self.goal,
            "met": self.met,
        }


def more(what: str, ours: Runs, peer: Runs, unit: str, goal: float | None = None) -> Comparison:
    """How many times the peer's rate ours is; ``goal`` is the smallest good ratio."""
    return Comparison(what, ours, peer, unit, "ours / peer", ours.median / peer.median, goal)


def faster(what: str, ours: Runs, peer: Runs, goal: float | None = None) -> Comparison:
    """How many times our seconds the peer takes; ``goal`` is the smallest good ratio."""
    return Comparison(what, ours, peer, "s", "peer / ours", peer.median / ours.median, goal)


def dearer(what: str, ours: Runs, peer: Runs, unit: str, goal: float | None = None) -> Comparison:
    """How many times the peer's cost ours is; ``goal`` is the largest good ratio."""
    return Comparison(what, ours, peer, unit, "ours / peer", ours.median / peer.median, goal, at_most=True)


def efficiency(what: str, many: Runs, one: Runs, ranks: int, goal: float | None = None) -> Comparison:
    """Share of ``ranks`` times the speed of one rank that ``ranks`` ranks reach, from seconds."""
    ratio = one.median / (ranks * many.median)
    return Comparison(what, many, one, "s", f"peer / ({ranks} ours)", ratio, goal)


def share_of_many(what: str, together: Runs, one: Runs, many: int, unit: str, goal: float | None = None) -> Comparison:
    """Share of ``many`` times the rate of one that ``many`` together reach."""
    ratio = together.median / (many * one.median)
    return Comparison(what, together, one, unit, f"ours / ({many} peer)", ratio, goal)


def equal(what: str, counted: float, expected: float, unit: str) -> Comparison:
    """How far what was counted is from what it has to be, as a share of that; met by nothing but 0."""
    apart = abs(counted - expected) / expected
    return Comparison(what, Runs((counted,)), Runs((expected,)), unit, "distance / peer", apart, 0.0, at_most=True)


def table(comparisons: Sequence[Comparison]) -> str:
    """The comparisons as a Markdown table: medians, with the lowest and highest run in brackets."""
    head = ("measured", "ours", "peer", "unit", "ratio", "goal", "met")
    lines = [head, *(_cells(comparison) for comparison in comparisons)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    lines.insert(1, tuple("-" * width for width in widths))
    return "\n".join("| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in lines)


def _cells(comparison: Comparison) -> tuple[str, ...]:
    goal = "–" if comparison.goal is None else f"{'≤' if comparison.at_most else '≥'} {comparison.goal:g}"
    met = {None: "–", True: "yes", False: "NO"}[comparison.met]
    return (
        f"{comparison.what}; {comparison.formula}",
        _spread(comparison.ours),
        _spread(comparison.peer),
        comparison.unit,
        f"{comparison.ratio:.3g}",
        goal,
        met,
    )


def _spread(runs: Runs) -> str:
    if runs.low == runs.high:
        return _number(runs.median)
    return f"{_number(runs.median)} ({_number(runs.low)} to {_number(runs.high)})"


def _number(value: float) -> str:
    """Three digits at least, and no exponent."""
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
