"""Station 7, comparison: every picture of one direction, each with what a reader must know to read it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from drdg.comparison.chapters import Chapter
from drdg.comparison.confusion import draw_matrices, read_matrices
from drdg.comparison.curves import TRAINED, draw_curves, read_curves
from drdg.comparison.exhibits import draw_target, draw_translation, read_targets, read_translation, shown_cells
from drdg.comparison.picture import draw
from drdg.comparison.table import LABELS
from drdg.tracking.query import SweepRecord

STAGES = {"gan": "training the translator", "segment": "training the segmentor"}


@dataclass(frozen=True)
class Picture:
    """One PNG."""

    path: Path
    heading: str
    caption: str


def draw_all(record: SweepRecord, chapter: Chapter, folder: Path) -> tuple[list[Picture], list[str]]:
    """Draw everything about a direction into ``folder``; return that, and a sentence for all there is nothing of."""
    cells = shown_cells(chapter)
    if not cells:
        return [], ["No pictures, as no cell of this direction has scores."]
    pictures = [*_scores(chapter, folder), *_targets(record, chapter, folder)]
    pictures += [*_translations(record, chapter, folder), *_curves(record, chapter, folder)]
    names = {picture.path.name.partition("_")[0] for picture in pictures}
    absent = {
        "panel": "No panels: no evaluation that is shown has kept crops of its TOPs.",
        "translation": "No translated tiles: no row that is shown has kept any.",
        "curves": "No training curves: no training of what is shown has logged two values of a loss.",
        "confusion.png": "No confusion matrices: the scores hold none.",
    }
    return pictures, [said for name, said in absent.items() if name not in names]


def _scores(chapter: Chapter, folder: Path) -> Iterator[Picture]:
    whole = chapter.whole
    spread = "Bars are means over the seeds, whiskers ± the sample standard deviation over them."
    draw(whole, folder / "scores.png", chapter.title)
    yield Picture(folder / "scores.png", "Scores", f"{spread} Diamonds are what papers print.")
    if columns := whole.columns("iou"):
        draw(whole, folder / "classes.png", f"{chapter.title}: IoU of each class", columns, across=3)
        yield Picture(folder / "classes.png", "IoU of each class", f"{spread} Diamonds are what papers print.")
    if matrices := read_matrices(chapter.outcomes):
        classes = [str(name) for name in whole.scoring["classes"]]
        draw_matrices(matrices, classes, folder / "confusion.png", f"{chapter.title}: confusion, percent of the truth")
        said = "Pixels of all TOPs, summed over the seeds; each line is a class of the truth and sums to 100 percent."
        yield Picture(folder / "confusion.png", "Confusion matrices", f"{said} Grey: absent from the labels.")


def _targets(record: SweepRecord, chapter: Chapter, folder: Path) -> Iterator[Picture]:
    cells = shown_cells(chapter)
    for top, by_row in sorted(read_targets(record, cells).items(), key=lambda entry: _by_number(entry[0])):
        path = folder / f"panel_{_plain(top)}.png"
        drawn = draw_target(top, by_row, path, f"{chapter.title}: TOP {top}")
        without = [LABELS.get(cell.row, cell.row) for cell in cells if cell.row not in drawn]
        seeds = sorted({cell.seed for cell in cells if cell.row in drawn})
        said = f"A crop of TOP {top} of the target, and each row's class map with seed {_listed(seeds)}."
        said += f" No class map of this crop: {', '.join(without)}." if without else ""
        yield Picture(path, f"TOP {top}", said)


def _translations(record: SweepRecord, chapter: Chapter, folder: Path) -> Iterator[Picture]:
    for cell in shown_cells(chapter):
        found = read_translation(record, cell)
        if found is None:
            continue
        label, path = LABELS.get(cell.row, cell.row), folder / f"translation_{cell.row}.png"
        draw_translation(found, path, f"{chapter.title}: {label}")
        said = f"Tiles of the source and what {label} (seed {cell.seed}) makes of them."
        said += " The predicted DSM is the generator's." if "predicted_dsm" in found else ""
        yield Picture(path, f"Translation by {label}", said)


def _curves(record: SweepRecord, chapter: Chapter, folder: Path) -> Iterator[Picture]:
    for stage in TRAINED:
        if curves := read_curves(record, chapter, stage):
            path = folder / f"curves_{stage}.png"
            draw_curves(curves, path, f"{chapter.title}: {STAGES[stage]}", chapter.rows)
            said = "Lines are means over the seeds of running means over a twentieth of the training"
            said += "; bands reach from the least seed to the greatest."
            yield Picture(path, f"Curves, {STAGES[stage]}", said)


def _by_number(top: str) -> tuple[int, str]:
    return (int(top), "") if top.isdigit() else (1 << 30, top)


def _plain(name: str) -> str:
    return "".join(sign if sign.isalnum() or sign in "-." else "-" for sign in name)


def _listed(seeds: list[int]) -> str:
    return " or ".join(map(str, seeds))
