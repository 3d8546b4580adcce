"""Station 7, comparison: what rows made of the same place: pictures in the manner of the paper's Fig. 3.

The runs of the stages keep crops of TOPs with their class maps, and a few translated tiles, as arrays (``.npz``).
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from drdg.comparison.chapters import Chapter
from drdg.comparison.table import LABELS, in_order
from drdg.panels import Palette, TranslatedTile, target_panel, translation_panel
from drdg.tracking.query import CellRecord, SweepRecord

FOLDER, TARGET, TRANSLATION = "exhibits", "target_", "exhibits/translation.npz"
MOST_ACROSS = 6
IN_TARGET = {"image", "label", "prediction", "classes", "palette"}
IN_TRANSLATION = {"image", "label", "translated", "classes", "palette"}

Arrays = Mapping[str, Any]


def shown_cells(chapter: Chapter) -> list[CellRecord]:
    """Of each row the cell of the lowest seed that has scores, in the order of the tables."""
    first: dict[str, CellRecord] = {}
    for cell in sorted(chapter.cells, key=lambda cell: cell.seed):
        if chapter.shown(cell):
            first.setdefault(cell.row, cell)
    return [first[row] for row in in_order(first)]


def read_targets(record: SweepRecord, cells: list[CellRecord]) -> dict[str, dict[str, Arrays]]:
    """By TOP, by row: what the row's evaluation has kept of it."""
    found: dict[str, dict[str, Arrays]] = {}
    for cell in cells:
        run = record.stage_run(cell, "evaluate")
        for path in record.artifacts(run, FOLDER) if run else []:
            name = Path(path).name
            if name.startswith(TARGET) and name.endswith(".npz") and run:
                arrays = load(record.download(run, path), IN_TARGET)
                if arrays is not None:
                    found.setdefault(name[len(TARGET) : -len(".npz")], {})[cell.row] = arrays
    return found


def read_translation(record: SweepRecord, cell: CellRecord) -> Arrays | None:
    """What the row's translation has kept; None where the row does not translate or has kept nothing."""
    run = record.stage_run(cell, "translate")
    return None if run is None else load(record.download(run, TRANSLATION), IN_TRANSLATION)


def load(content: bytes | None, needed: set[str]) -> Arrays | None:
    """The arrays of an ``.npz``; None for none, one that is damaged, or one without what is ``needed``."""
    if content is None:
        return None
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            found = dict(file)
    except (ValueError, OSError, zipfile.BadZipFile):
        return None
    return found if needed <= set(found) else None


def draw_target(top: str, by_row: Mapping[str, Arrays], path: Path, title: str) -> list[str]:
    """Draw one TOP: image, DSM, label and each row's class map; return the rows that are in it.

    Rows whose crop is of another place or size are left out.
    """
    first = next(iter(by_row.values()))
    same = {row: found for row, found in by_row.items() if _is_same_place(found, first)}
    predictions = {LABELS.get(row, row): found["prediction"] for row, found in same.items()}
    dsm = first.get("dsm")
    pictures = 2 + (dsm is not None) + len(predictions)
    target_panel(
        path,
        first["image"],
        dsm,
        first["label"],
        predictions,
        *_legend(first),
        title=title,
        gsd_m=float(first["gsd_m"]) if "gsd_m" in first else None,
        across=-(-pictures // -(-pictures // MOST_ACROSS)),  # lines as few as can be, and as even
    )
    return list(same)


def draw_translation(found: Arrays, path: Path, title: str) -> None:
    """Draw a row's tiles: source, DSM, label, translated and predicted DSM, where they were kept."""
    heights, predicted = found.get("dsm_m"), found.get("predicted_dsm")
    tiles = [
        TranslatedTile(
            found["image"][place],
            None if heights is None else heights[place],
            found["label"][place],
            found["translated"][place],
            None if predicted is None else predicted[place],
        )
        for place in range(len(found["image"]))
    ]
    unit = str(found["predicted_unit"]) if "predicted_unit" in found else ""
    translation_panel(path, tiles, *_legend(found), title=title, predicted_unit=unit)


def _is_same_place(one: Arrays, other: Arrays) -> bool:
    return one["image"].shape == other["image"].shape and bool((one["image"] == other["image"]).all())


def _legend(found: Arrays) -> tuple[list[str], Palette]:
    palette = [(int(red), int(green), int(blue)) for red, green, blue in found["palette"]]
    return [str(name) for name in found["classes"]], palette
