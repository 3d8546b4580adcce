"""Station 2, summary: a folder of shards in a few lines that people read, one column for each folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

UNKNOWN = "unknown"


def print_table(columns: Sequence[str], lines: Mapping[str, Sequence[str]], console: Console | None = None) -> None:
    """Print one line per fact, a value for each of ``columns``; what is empty everywhere is left out."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("")
    for column in columns:
        table.add_column(Text(column), overflow="fold")
    for name, values in lines.items():
        if any(values):
            table.add_row(Text(name), *(Text(value) for value in values))
    (console or Console()).print(table)


def megabytes(count: int) -> str:
    """A number of bytes, in decimal units."""
    size, unit = float(count), "bytes"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"


def heights(range_m: tuple[float, float] | None) -> str:
    """A range of heights, empty without one."""
    return "" if range_m is None else f"{range_m[0]:.2f} to {range_m[1]:.2f} m"


def ground_resolution(gsd_m: float | None) -> str:
    """Metres per pixel, in the unit people say them in."""
    if gsd_m is None:
        return UNKNOWN
    return f"{gsd_m * 100:.4g} cm" if gsd_m < 1 else f"{gsd_m:.4g} m"


def shares(pixels: Mapping[str, int]) -> dict[str, str]:
    """Percent of all pixels, by class; none when there are no pixels."""
    whole = sum(pixels.values())
    return {name: f"{100 * count / whole:.2f} %" for name, count in pixels.items()} if whole else {}


def class_lines(pixels: Sequence[Mapping[str, int]]) -> dict[str, list[str]]:
    """The lines of a table that show each folder's shares of classes, in the order they first occur in."""
    columns = [shares(counted) for counted in pixels]
    names = dict.fromkeys(name for column in columns for name in column)
    return {name.replace("_", " "): [column.get(name, "") for column in columns] for name in names}
