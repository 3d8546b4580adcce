"""Station 7, comparison: from a sweep in its store to everything that is shown of it, in one folder."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from drdg.comparison import latex, spreadsheet
from drdg.comparison.chapters import Chapter, chapters
from drdg.comparison.definitions import definitions
from drdg.comparison.pages import as_json, markdown, print_tables
from drdg.comparison.pictures import draw_all
from drdg.comparison.significance import Contrast, explanation
from drdg.comparison.web import page
from drdg.config import digest
from drdg.files import write_json, write_text
from drdg.tracking.query import SweepRecord

MANIFEST = "report.json"


def write_report(record: SweepRecord, out: Path, console: Console | None = None) -> list[Path]:
    """Print the tables of a sweep and write them, with all pictures, to ``out``; return the files, the page first.

    For each direction, in a folder of its name: the paper's Table I and II and the table of all other rows as Markdown,
    LaTeX and CSV, the differences between rows, and the pictures. In ``out`` itself ``index.html``, with all of it,
    ``report.md``, ``tables.tex`` and ``report.json``. What an earlier report left in ``out`` and this one does not make
    is removed. Cells without scores are named with the reason everywhere, so a report comes about whatever became of
    them. Raises ``ValueError`` when the store goes away meanwhile.
    """
    told = chapters(record)
    console = console or Console()
    before = _files_of(out)
    files: list[Path] = []
    shown = {}
    for chapter in told:
        folder = out / chapter.direction
        files += _write_tables(chapter, folder)
        shown[chapter.direction] = draw_all(record, chapter, folder)
        files += [picture.path for picture in shown[chapter.direction][0]]
    title = f"Sweep {record.name}"
    inputs = [path.relative_to(out).with_suffix("").as_posix() for path in files if path.suffix == ".tex"]
    texts = {
        "index.html": page(title, _facts(record), told, shown),
        "report.md": _markdown(title, record, told),
        "tables.tex": latex.document(inputs),
    }
    for name, text in texts.items():
        write_text(out / name, text)
    files = [*(out / name for name in texts), *files]
    _remove(out, before - {path.relative_to(out).as_posix() for path in files})
    write_json(out / MANIFEST, _manifest(record, told, [path.relative_to(out).as_posix() for path in files]))
    _print(told, console)
    return [*files, out / MANIFEST]


def _write_tables(chapter: Chapter, folder: Path) -> list[Path]:
    texts = {}
    for part in chapter.parts:
        texts[f"{part.name}.md"] = markdown(part.comparison, f"{part.title}, {chapter.title}")
        texts[f"{part.name}.tex"] = latex.tables(part, chapter)
        texts[f"{part.name}.csv"] = spreadsheet.scores(part, chapter)
    if chapter.contrasts:
        texts["significance.tex"] = latex.significance(chapter.contrasts, chapter)
        texts["significance.csv"] = spreadsheet.contrasts(chapter.contrasts, chapter)
    for name, text in texts.items():
        write_text(folder / name, text)
    return [folder / name for name in texts]


def _facts(record: SweepRecord) -> list[str]:
    plan = record.plan
    rows, seeds = (", ".join(str(value) for value in plan.get(key, ())) for key in ("rows", "seeds"))
    said = [f"Read from {record.shown}, run {record.run_id}."]
    said += [f"Asked for: rows {rows}; seeds {seeds}."] if rows and seeds else []
    return [*said, f"Preset {plan['preset']}."] if plan.get("preset") else said


def _markdown(title: str, record: SweepRecord, told: Sequence[Chapter]) -> str:
    text = [f"# {title}", "", *(f"- {fact}" for fact in _facts(record)), ""]
    lost = [entry for chapter in told for entry in chapter.missing]
    text += [f"**Missing: {len(lost)} of {len(record.cells)} cells**", ""] if lost else []
    text += [*(f"- **{key}**: {' '.join(problem.split())}." for key, problem in lost), ""] if lost else []
    for chapter in told:
        text += [f"## {chapter.title}", "", *(f"- {said}" for said in definitions(chapter.whole)), ""]
        for part in chapter.parts:
            text.append(markdown(part.comparison, part.title).replace("# ", "### ", 1))
        text += _contrasts(chapter.contrasts)
    return "\n".join(text)


def _contrasts(found: Sequence[Contrast]) -> list[str]:
    if not found:
        return []
    text = ["### Differences between rows", ""]
    text += [
        "| difference of mIoU, points | seeds | TOPs | difference | 95 % interval | p |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for one in found:
        cells = [f"not tested: {one.reason}", "", ""]
        if one.p is not None:
            cells = [f"{one.points:+.2f}", f"{one.low:+.2f} to {one.high:+.2f}", f"{one.p:.4f}"]
        text.append(f"| {one.label} | {len(one.seeds)} | {len(one.tops)} | " + " | ".join(cells) + " |")
    return [*text, "", *(f"- {said}" for said in explanation(found)), ""]


def _manifest(record: SweepRecord, told: Sequence[Chapter], files: Sequence[str]) -> dict[str, Any]:
    """The tables for programs, and by ``digest`` of what: equal ones are reports of the same results."""
    results = {cell.key: (cell.digest, cell.result, cell.state) for cell in record.cells}
    return {
        "version": 1,
        "sweep": record.name,
        "run_id": record.run_id,
        "store": record.shown,
        "digest": digest({"sweep": record.run_id, "results": results}),
        "directions": {chapter.direction: _direction(chapter) for chapter in told},
        "missing": {key: problem for chapter in told for key, problem in chapter.missing},
        "files": list(files),
    }


def _direction(chapter: Chapter) -> Mapping[str, Any]:
    fields = ("reference", "other", "seeds", "tops", "points", "low", "high", "p", "reason")
    return {
        **{part.name: as_json(part.comparison) for part in chapter.parts},
        "definitions": definitions(chapter.whole),
        "differences": [{name: getattr(contrast, name) for name in fields} for contrast in chapter.contrasts],
    }


def _print(told: Sequence[Chapter], console: Console) -> None:
    for chapter in told:
        for part in chapter.parts:
            print_tables(part.comparison, f"{part.title}, {chapter.title}", console, only_means=True)
    lost = [entry for chapter in told for entry in chapter.missing]
    if lost:
        console.print(Text(f"Missing: {len(lost)} of {sum(len(chapter.cells) for chapter in told)} cells", "bold"))
    for key, problem in lost:
        console.print(Text(f"{key}: {problem}."))


def _files_of(out: Path) -> set[str]:
    """What an earlier report says that it wrote to ``out``; paths that lead out of it are no report's."""
    try:
        listed = json.loads((out / MANIFEST).read_text(encoding="utf-8"))["files"]
        return {name for name in listed if not Path(name).is_absolute() and ".." not in Path(name).parts}
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def _remove(out: Path, names: Iterable[str]) -> None:
    for name in sorted(names):
        (out / name).unlink(missing_ok=True)
        folder = (out / name).parent
        if folder != out and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
