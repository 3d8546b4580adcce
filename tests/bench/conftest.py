"""What the tests of the bench share: a tiny bench and its sheets."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_bench import TINY

from drdg.bench.sheets import Pixels, link_sheet, town, write_sheets


@pytest.fixture(scope="session")
def place() -> Pixels:
    return town(TINY.side)


@pytest.fixture(scope="session")
def sheets(place: Pixels, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three sheets under ``all``, the first under ``one`` and the second under ``another``."""
    root = tmp_path_factory.mktemp("some sheets")
    write_sheets(root / "all", TINY.tops, TINY.side, [place])
    link_sheet(root / "all", 0, root / "one")
    link_sheet(root / "all", 1, root / "another")
    return root
