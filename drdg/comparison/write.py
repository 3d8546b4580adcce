"""Station 7, comparison: from the folders of runs to everything that is shown of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from drdg.comparison.pages import as_json, markdown, print_tables
from drdg.comparison.picture import draw
from drdg.comparison.runs import collect
from drdg.comparison.table import compare
from drdg.files import write_json, write_text


def write_comparison(
    folders: Sequence[Path], out: Path, table: str | None = None, console: Console | None = None
) -> list[Path]:
    """Print the table of the runs in ``folders``; write ``comparison.md``, ``.json``, ``.png`` to ``out``, return them.

    ``table``: only the rows of the paper's ``main`` or ``ablation`` table. Raises ``ValueError`` as
    :func:`drdg.comparison.runs.collect` and :func:`drdg.comparison.table.compare` do.
    """
    comparison = compare(collect(folders), table)
    title = title_of(comparison.scoring.get("direction"))
    files = [out / f"comparison.{kind}" for kind in ("md", "json", "png")]
    write_text(files[0], markdown(comparison, title))
    write_json(files[1], as_json(comparison))
    draw(comparison, files[2], title)
    print_tables(comparison, title, console or Console())
    return files


def title_of(direction: str | None) -> str:
    """A direction as a heading: ``potsdam_irrg_to_vaihingen`` is Potsdam IRRG to Vaihingen."""
    if direction is None:
        return "Runs compared"
    asis = {"irrg": "IRRG", "rgb": "RGB", "to": "to"}
    return " ".join(asis.get(word, word.capitalize()) for word in direction.split("_"))
