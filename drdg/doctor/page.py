"""Station 6, doctor: what was found, on one page for people and as plain values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from drdg.doctor.finding import LEVELS, Finding

STYLES = {"bad": "bold red", "warning": "yellow", "ok": "green"}
# Of a file that a job's output goes to, as terminals' width is not known there.
WIDTH = 120


def in_order(findings: Sequence[Finding]) -> list[Finding]:
    """Worst first, else as they were found."""
    return sorted(findings, key=lambda finding: LEVELS.index(finding.level))


def print_page(heading: str, findings: Sequence[Finding], console: Console | None = None) -> None:
    """Print a heading and a line for each finding, with its cure below it, and a count."""
    console = console or Console()
    if not console.is_terminal:
        console.width = WIDTH
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1))
    table.add_column("")
    table.add_column("check", no_wrap=True)
    table.add_column("measured, and the cure", overflow="fold")
    for finding in in_order(findings):
        words = Text(finding.measured)
        if finding.cure:
            words.append(f"\n-> {finding.cure}", style="italic")
        table.add_row(Text(finding.level, style=STYLES[finding.level]), Text(finding.check), words)
    with console.capture() as captured:
        console.print(Text(heading, style="bold"))
        console.print(table)
        console.print(Text(summary(findings)))
    # A table is as wide as its widest line; a log need not keep the rest.
    lines = [line.rstrip() for line in captured.get().splitlines()]
    console.file.write("\n".join(lines) + "\n")
    console.file.flush()


def summary(findings: Sequence[Finding]) -> str:
    """How many of each level there are."""
    counts = Counter(finding.level for finding in findings)
    return ", ".join(f"{counts[level]} {level}" for level in LEVELS)


def as_plain_values(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """All of it, for JSON, worst first."""
    return [asdict(finding) | {"figures": dict(finding.figures)} for finding in in_order(findings)]
