"""What tests of executors share: jobs of theirs find ``cheap_jobs``, and none outlives its test."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cheap_jobs import HERE, RUN, of_sweep

from drdg.cluster.local import LocalSweep
from drdg.cluster.machine import cores
from drdg.config.sweep import SweepConfig

# A hang guard, no expectation.
PATIENCE_S = 240.0


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(HERE))


@pytest.fixture
def wait() -> Callable[[Callable[[], bool], Callable[[], object]], None]:
    """Wait until something is so; else say how it is."""

    def wait_until(is_so: Callable[[], bool], how: Callable[[], object]) -> None:
        end = time.monotonic() + PATIENCE_S
        while not is_so():
            assert time.monotonic() < end, how()
            time.sleep(0.05)

    return wait_until


@pytest.fixture
def sweep(tmp_path: Path) -> Iterator[LocalSweep]:
    """A sweep on this machine, on one of its cores."""
    folder = tmp_path / "a sweep"
    yield LocalSweep(folder, SweepConfig(local_cores=1), RUN)
    for process in of_sweep(folder):
        process.send_signal(signal.SIGKILL)


@pytest.fixture
def two_cores() -> int:
    if len(cores()) < 2:
        pytest.skip("there is one core here")
    return 2
