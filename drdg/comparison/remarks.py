"""Station 7, comparison: what must be said beside the table, so that nobody reads more into it than it holds."""

from __future__ import annotations

import itertools
import math

from drdg.comparison.table import CEILING, LABELS, MEANS, Comparison, Line
from drdg.published import Published, published_for

MIOU = MEANS[0]
# Papers whose numbers the released code of DRDG and RDG computed.
BY_BATCHES = ("DRDG", "RDG", "RDG, as cited")


def remarks(comparison: Comparison) -> list[str]:
    """All sentences beside the table."""
    return [
        *missing_rows(comparison),
        *about_spread(comparison),
        *about_scoring(comparison),
        *about_print(comparison),
        *order_differences(comparison),
    ]


def missing_rows(comparison: Comparison) -> list[str]:
    """Which rows have no scores, and why; and which printed ones no run has."""
    said = [
        f"No scores for {outcome.result.name} (seed {outcome.result.seed}): {outcome.result.problem}."
        for outcome in comparison.missing
    ]
    here = {line.row for line in comparison.lines}
    if comparison.not_run:
        said.append(f"Not run: {', '.join(LABELS.get(row, row) for row in comparison.not_run)}.")
    lacking = dict.fromkeys(entry.row for entry in comparison.published if entry.row and entry.row not in here)
    if lacking:
        said.append(f"Printed, but not run here: {', '.join(LABELS.get(row, row) for row in lacking)}.")
    return said


def about_spread(comparison: Comparison) -> list[str]:
    """What stands after a plus-minus sign, and which rows have none."""
    seeds = sorted({outcome.result.seed for line in comparison.lines for outcome in line.outcomes})
    if not seeds:
        return []
    said = [f"Means over seeds ({', '.join(map(str, seeds))}) ± sample standard deviation, in percent."]
    single = [line.label for line in comparison.lines if len(line.outcomes) == 1]
    if single:
        said.append(f"One seed only, so without a spread: {', '.join(single)}.")
    if any(line.row == CEILING for line in comparison.lines):
        said.append(f"{LABELS[CEILING]} is a ceiling, not a competitor; bold is the best of the others.")
    return said


def about_scoring(comparison: Comparison) -> list[str]:
    """What was scored, and how."""
    scoring = comparison.scoring
    if "split" not in scoring:
        return ["Nothing was scored."]
    said = [f"Split {scoring['split']}, TOPs {', '.join(map(str, scoring['tops']))}."]
    if scoring["absent"]:
        said.append(f"Absent from the labels, so without scores: {', '.join(scoring['absent'])}.")
    return [*said, str(scoring["definition"])]


def about_print(comparison: Comparison) -> list[str]:
    """Where the printed numbers come from, and why they may not be comparable."""
    if not comparison.published:
        direction = comparison.scoring.get("direction")
        if direction and published_for(str(direction)):
            return ["No printed numbers for these rows."]
        return [f"No printed numbers for the direction {direction}."] if direction else []
    said = [f"Printed: {source}." for source in dict.fromkeys(_source(entry) for entry in comparison.published)]
    if any(not entry.table.verified for entry in comparison.published):
        said.append("A question mark: the number was not read at its source, but cited from memory.")
    by_batches = any(entry.table.source in BY_BATCHES for entry in comparison.published)
    is_scored = "split" in comparison.scoring
    if by_batches and is_scored and comparison.scoring.get("protocol") != "authors_batch_mean":
        said.append(
            "DRDG's and RDG's printed numbers are means over batches of tiles, with void as a miss; ours are not, and "
            "clutter differs most by that. evaluation.protocol=authors_batch_mean computes theirs."
        )
    if comparison.scoring.get("absent"):
        said.append("Printed means are over six classes, ours over those that occur.")
    others = [entry for entry in comparison.published if not _is_shown(comparison, entry)]
    if others:
        listed = "; ".join(f"{entry.table.source}: {entry.method} {_means(entry)}" for entry in others)
        said.append(f"Printed besides (mIoU / mean F1): {listed}.")
    return said


def order_differences(comparison: Comparison) -> list[str]:
    """Pairs of rows that mIoU orders otherwise here than in print, each pair within one source."""
    pairs = [
        pair
        for pair in itertools.combinations(comparison.lines, 2)
        if None not in (pair[0].mean(MIOU), pair[1].mean(MIOU)) and _share_source(*pair)
    ]
    said = [sentence for pair in pairs if (sentence := _order(*pair))]
    if pairs and not said:
        said.append("By mIoU our rows are in the printed order.")
    return said


def _order(one: Line, other: Line) -> str | None:
    """How two rows' order differs from print; None where it does not."""
    low, high = sorted((one, other), key=lambda line: _printed(line))
    ours_low, ours_high = low.mean(MIOU), high.mean(MIOU)
    assert ours_low is not None
    assert ours_high is not None
    if ours_high >= ours_low or _printed(low) == _printed(high):
        return None
    spread = [low.sd(MIOU), high.sd(MIOU)]
    known = [sd for sd in spread if sd is not None]
    within = len(known) == 2 and ours_low - ours_high <= math.hypot(*known)
    remark = ", which is within the spread of the seeds" if within else ""
    return (
        f"Order: {low.label} is above {high.label} here ({ours_low:.2f} and {ours_high:.2f} mIoU{remark}), below it in "
        f"print ({_printed(low):.2f} and {_printed(high):.2f})."
    )


def _printed(line: Line) -> float:
    found = line.in_print(MIOU)
    assert found is not None, line.row
    return found[0]


def _share_source(one: Line, other: Line) -> bool:
    """Whether one paper prints both, in the numbers that are shown."""
    first, second = one.in_print(MIOU), other.in_print(MIOU)
    return first is not None and second is not None and first[1].table.source == second[1].table.source


def _is_shown(comparison: Comparison, entry: Published) -> bool:
    """Whether its mean stands in the table already, be it from another table of the same paper."""
    shown = [found for line in comparison.lines if (found := line.in_print(MIOU))]
    return any(entry.row == other.row and entry.miou == other.miou for _, other in shown)


def _source(entry: Published) -> str:
    return f"{entry.table.source}, {entry.table.where} ({entry.table.about})"


def _means(entry: Published) -> str:
    mark = "" if entry.table.verified else "?"
    return f"{entry.miou:.2f}{mark}" + ("" if entry.mean_f1 is None else f" / {entry.mean_f1:.2f}{mark}")
