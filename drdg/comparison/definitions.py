"""Station 7, comparison: what the numbers of a table are: over which classes, TOPs and pixels, by which weights."""

from __future__ import annotations

from drdg.comparison.table import Comparison

VOID = {
    "authors_batch_mean": "predictions on them count as errors, as in the authors' released code",
    "global": "they are left out, whatever was predicted on them",
}


def definitions(comparison: Comparison) -> list[str]:
    """Sentences that say what was computed, from what the evaluations wrote; none where nothing was scored."""
    scoring = comparison.scoring
    if "split" not in scoring:
        return ["Nothing was scored, so only printed numbers are shown."]
    absent = [str(name) for name in scoring.get("absent", ())]
    counted = [str(name) for name in scoring["classes"] if name not in absent]
    said = [
        f"Scored: split {scoring['split']} of the target, TOPs {', '.join(map(str, scoring['tops']))}.",
        f"mIoU and mean F1: means over {len(counted)} classes ({', '.join(_plain(name) for name in counted)}).",
    ]
    if absent:
        said.append(f"Absent from the labels, so in no mean: {', '.join(_plain(name) for name in absent)}.")
    protocol = str(scoring.get("protocol", "global"))
    if protocol in VOID:
        said.append(f"Void pixels of the labels: {VOID[protocol]}.")
    said.append("OA: the share of pixels whose class is right.")
    said.append(f"Protocol {protocol}, and which checkpoint was scored: {scoring['definition']}")
    return said


def _plain(name: str) -> str:
    return name.replace("_", " ")
