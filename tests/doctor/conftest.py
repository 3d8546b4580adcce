"""What tests of the doctor share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from drdg.config import load_config
from drdg.distributed.topology import Topology
from drdg.doctor.context import Context


@pytest.fixture
def context(tmp_path: Path) -> Callable[..., Context]:
    """A rank's context over small networks; overrides and the rank's place may be given."""

    def make(*overrides: str, timeout: float = 5.0, **place: Any) -> Context:
        small = ["generator.width=2", "critic.width=2", "distributed.threads=1", "distributed.device=cpu"]
        places = [f"run.root={tmp_path / 'runs'}", f"shards.root={tmp_path / 'shards'}"]
        config = load_config(None, [*small, *places, *overrides])
        return Context(config, Topology(**place), timeout)

    return make
