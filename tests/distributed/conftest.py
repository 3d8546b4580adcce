"""What tests of several ranks share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from runs import Runs

from drdg.config import Config
from drdg.shards.store import ShardStore


@pytest.fixture
def runs(
    small: Callable[..., Config], two_domains: tuple[ShardStore, ShardStore], tmp_path: Path
) -> Callable[..., Runs]:
    """A plan for runs of a configuration: three iterations of four pairs unless overrides say otherwise."""
    return lambda *overrides: Runs(
        tmp_path, small("gan.iterations=3", "gan.batch_size=4", "run.name=ranks", *overrides), two_domains
    )
