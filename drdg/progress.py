"""Progress of long work: a bar on a terminal, a plain line now and then otherwise, nothing on other ranks than 0.

Whoever watches a job from elsewhere reads the file that it was told to ``tell`` its progress to.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from drdg.files import json_text, whole_file

T = TypeVar("T")
SECONDS_BETWEEN_LINES = 10.0
SECONDS_BETWEEN_WORDS = 2.0
_told: ContextVar[Path | None] = ContextVar("told", default=None)


@contextmanager
def tell(path: Path) -> Iterator[None]:
    """Within the block, keep in ``path`` how far the present piece of work is: JSON with ``done``, ``total``, the
    seconds ``left_s`` that it still takes, ``what`` it is and the time ``at`` which that was so.
    """
    token = _told.set(path)
    try:
        yield
    finally:
        _told.reset(token)


def progress(
    items: Iterable[T],
    what: str,
    total: int | None = None,
    start: int = 0,
    note: Callable[[], str] | None = None,
    quiet: bool = False,
) -> Iterator[T]:
    """Yield ``items`` and show how far they are on standard error.

    ``total`` defaults to ``start + len(items)``; ``start`` counts what an earlier, interrupted run did already;
    ``note()`` is asked for a few words (a loss, say) whenever something is shown.
    """
    if total is None:
        total = start + len(items)  # type: ignore[arg-type]
    if not quiet and (path := _told.get()) is not None:
        items = _telling(items, path, what, total, start)
    if quiet:
        yield from items
    elif sys.stderr.isatty():
        yield from _with_bar(items, what, total, start, note)
    else:
        yield from _with_lines(items, what, total, start, note)


def _with_bar(items: Iterable[T], what: str, total: int, start: int, note: Callable[[], str] | None) -> Iterator[T]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=total, completed=start, note="")
        for item in items:
            yield item
            bar.update(task, advance=1, note=note() if note else "")


def _with_lines(items: Iterable[T], what: str, total: int, start: int, note: Callable[[], str] | None) -> Iterator[T]:
    began = last = time.monotonic()
    done = start
    for item in items:
        yield item
        done += 1
        now = time.monotonic()
        if now - last >= SECONDS_BETWEEN_LINES or done == total:
            last = now
            rate = (done - start) / max(now - began, 1e-9)
            left = (total - done) / rate
            words = f", {note()}" if note else ""
            print(f"{what}: {done}/{total}, {rate:.3g}/s, {left:.0f} s left{words}", file=sys.stderr, flush=True)


def _telling(items: Iterable[T], path: Path, what: str, total: int, start: int) -> Iterator[T]:
    began, last, done = time.monotonic(), -SECONDS_BETWEEN_WORDS, start
    for item in items:
        now = time.monotonic()
        if now - last >= SECONDS_BETWEEN_WORDS:
            last = now
            left = (total - done) * (now - began) / (done - start) if done > start else None
            words = {"done": done, "total": total, "left_s": left, "what": what, "at": time.time()}
            # For looking at only: no work ends because it could not say how far it is.
            with suppress(OSError), whole_file(path, durable=False) as file:
                file.write(json_text(words).encode())
        yield item
        done += 1
