"""Station 7, bench: what each subject of ``launch/bench.py`` measures, and the folder it does that in."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from drdg.bench.data import measure_stream
from drdg.bench.machine import describe
from drdg.bench.once import mpiexec
from drdg.bench.result import Comparison
from drdg.bench.sheets import link_sheet, photographed, town, write_sheets
from drdg.bench.sizes import PARTS, Sizes, num_sheets
from drdg.bench.tiling import measure_build, measure_memory, measure_ranks
from drdg.bench.timing import say
from drdg.config import Config


def measure_data(
    config: Config, sizes: Sizes, repeats: int, parts: Sequence[str], *, root: Path | None, real: bool
) -> list[Comparison]:
    """Measure the ``parts`` of the way from archives to batches on sheets written for it.

    ``root``: where to work, a temporary folder by default; all that is written there is removed in the end. ``real``:
    fill the sheets with the TOPs of the configuration's source instead of a generated town. Raises ``ValueError`` with
    one sentence when something that is measured cannot be had.
    """
    if "ranks" in parts:
        mpiexec()  # said now rather than after minutes
    say(describe())
    measured: list[Comparison] = []
    with _workplace(root) as here:
        count = num_sheets(sizes, parts)
        say(f"{count} TOPs of {sizes.side} x {sizes.side} pixels in {here}")
        places = photographed(config.source, count) if real else [town(sizes.side)]
        write_sheets(here / "all", count, sizes.side, places)
        del places
        link_sheet(here / "all", 0, here / "one")
        link_sheet(here / "all", 1, here / "another")
        for part in PARTS:
            if part not in parts:
                continue
            if part == "stream":
                archives = (here / "one", here / "another")
                measured += measure_stream(config, sizes, repeats, archives, here / part)
            elif part == "build":
                measured += measure_build(config.shards, sizes, repeats, here / "one", here / part)
            elif part == "ranks":
                measured += measure_ranks(config.shards, sizes, repeats, here / "all", here / part)
            else:
                archives = (here / "one", here / "all")
                measured += measure_memory(config.shards, sizes, repeats, archives, here / part)
            if (here / part).exists():
                shutil.rmtree(here / part)
    return measured


@contextmanager
def _workplace(root: Path | None) -> Iterator[Path]:
    if root is not None:
        root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="drdg-bench-", dir=root) as folder:
        yield Path(folder).resolve()
