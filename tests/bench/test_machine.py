"""One core, and what a process used."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from drdg.bench import machine


def test_all_threads_are_on_one_core_within_the_block_and_free_again_after() -> None:
    allowed = os.sched_getaffinity(0)
    ready, go = threading.Event(), threading.Event()
    thread = threading.Thread(target=lambda: (ready.set(), go.wait()))
    thread.start()
    ready.wait()
    assert thread.native_id is not None
    try:
        with machine.one_core():
            here, there = os.sched_getaffinity(0), os.sched_getaffinity(thread.native_id)
            command = [sys.executable, "-c", "import os; print(len(os.sched_getaffinity(0)))"]
            child = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        assert here == there == {max(allowed)}
        assert child.stdout.strip() == "1"
        assert os.sched_getaffinity(0) == os.sched_getaffinity(thread.native_id) == allowed
        with pytest.raises(RuntimeError), machine.one_core():
            raise RuntimeError
        assert os.sched_getaffinity(0) == allowed
    finally:
        go.set()
        thread.join()


def test_peak_memory_grows_with_what_is_held_and_stays() -> None:
    code = """
import numpy as np
from drdg.bench.machine import peak_memory_mb
before = peak_memory_mb()
held = np.ones(100_000_000, np.uint8)
during = peak_memory_mb()
del held
print(before, during, peak_memory_mb())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    before, during, after = map(float, done.stdout.split())
    assert 90 < during - before < 130
    assert after > during - 1  # the kernel counts in batches


def test_a_system_that_does_not_say_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "STATUS", tmp_path / "none")
    with pytest.raises(ValueError, match="measure on Linux"):
        machine.peak_memory_mb()


def test_caches_and_processor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for number, (level, kind, size) in enumerate(
        [(1, "Data", "48K"), (1, "Instruction", "32K"), (2, "Unified", "2048K"), (3, "Unified", "105M")]
    ):
        folder = tmp_path / f"index{number}"
        folder.mkdir()
        for name, value in (("level", level), ("type", kind), ("size", size)):
            (folder / name).write_text(f"{value}\n")
    monkeypatch.setattr(machine, "CACHES", tmp_path)
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: A Fast One\n")
    monkeypatch.setattr(machine, "PROCESSOR", tmp_path / "cpuinfo")
    assert machine.caches() == {"L2": 2 << 20, "L3": 105 << 20}
    assert "A Fast One" in machine.describe()
    assert "L3 105 MiB" in machine.describe()


def test_a_machine_that_says_nothing_of_itself_is_described_all_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(machine, "CACHES", tmp_path / "none")
    monkeypatch.setattr(machine, "PROCESSOR", tmp_path / "none")
    assert machine.caches() == {}
    assert f"{len(os.sched_getaffinity(0))} cores" in machine.describe()
    assert np.isfinite(os.getloadavg()[0])
