"""Station 7, comparison: how a row looks in plots: a colour that the colour-blind can tell apart, and a dash."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from drdg.comparison.table import in_order

# Okabe and Ito (2008), "Color Universal Design", without black, which is text, and yellow, which is faint.
OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
DASHES: tuple[tuple[float, tuple[float, ...]], ...] = ((0, ()), (0, (4, 1.5)), (0, (1, 1.2)))


@dataclass(frozen=True)
class Look:
    """Of one row's line."""

    colour: str
    dash: tuple[float, tuple[float, ...]]


def looks(rows: Iterable[str]) -> dict[str, Look]:
    """One look for each row, in the tables' order; those beyond the colours are dashed."""
    return {
        row: Look(OKABE_ITO[place % len(OKABE_ITO)], DASHES[place // len(OKABE_ITO) % len(DASHES)])
        for place, row in enumerate(in_order(set(rows)))
    }
