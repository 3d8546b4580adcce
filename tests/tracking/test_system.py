"""The machine is watched beside the work, never at its expense."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from stores import TAGS, all_runs, client, history, wait_for

from drdg.tracking import NullHandle, Tracking, sync, watch_system
from drdg.tracking.base import Handle

NAME = "system/cpu_utilization_percentage"
UNITS = ("_percentage", "_megabytes", "_watts")


class Seen(Handle):
    """Remembers what it is given."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, dict[str, float]]] = []

    def log(self, values, step=0) -> None:  # type: ignore[no-untyped-def]
        self.rows.append((step, dict(values)))


def test_what_the_machine_does_is_logged_with_its_units(tracking: Tracking) -> None:
    with tracking.stage("gan", "p", TAGS, {}) as stage, watch_system(stage):
        pass  # even of a run that is over at once
    found = client(tracking).get_run(stage.run_id).data.metrics
    for name in ("cpu_utilization_percentage", "system_memory_usage_megabytes", "disk_usage_percentage"):
        assert f"system/{name}" in found
    assert {"system/network_receive_megabytes", "system/network_transmit_megabytes"} <= set(found)
    assert all(name.startswith("system/") and name.endswith(UNITS) for name in found)


def test_values_are_means_of_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.system_metrics.metrics.base_metrics_monitor import BaseMetricsMonitor

    class Counting(BaseMetricsMonitor):
        count = 0

        def collect_metrics(self) -> None:
            self.count += 1
            self._metrics["count"].append(self.count)

        def aggregate_metrics(self) -> dict[str, float]:
            return {name: sum(values) / len(values) for name, values in self._metrics.items()}

    monkeypatch.setattr("drdg.tracking.system._monitors", lambda: [Counting()])
    seen = Seen()
    with watch_system(seen, every_s=0.001, samples=3):
        wait_for(lambda: len(seen.rows) >= 2)
    assert seen.rows[:2] == [(0, {"system/count": 2.0}), (1, {"system/count": 5.0})]


def test_steps_go_on_after_a_restart(tracking: Tracking) -> None:
    for _ in range(3):
        with tracking.stage("gan", "p", TAGS, {}) as stage, watch_system(stage):
            pass
    assert [step for step, _ in history(tracking, stage.run_id, NAME)] == [0, 1, 2]


def test_steps_go_on_through_the_spool(away: Tracking, tracking: Tracking, spool: Path) -> None:
    for place in (tracking, away, away):
        with place.stage("gan", "p", TAGS, {}) as stage, watch_system(stage):
            stage.log({"loss": 1.0}, 7)
    sync(spool, tracking)
    with tracking.stage("gan", "p", TAGS, {}) as stage, watch_system(stage):
        pass
    steps = [step for step, _ in history(tracking, stage.run_id, NAME)]
    assert len(steps) == 4
    assert len({*steps}) == 4
    assert history(tracking, stage.run_id, "loss") == [(7, 1.0)]
    assert len(all_runs(tracking)) == 1


def test_it_ends_at_once(tracking: Tracking) -> None:
    with tracking.stage("gan", "p", TAGS, {}) as stage:
        began = time.monotonic()
        with watch_system(stage, every_s=100_000.0):
            wait_for(lambda: "system" in [thread.name for thread in threading.enumerate()])
        assert time.monotonic() - began < 1000
        assert "system" not in [thread.name for thread in threading.enumerate()]


def test_no_failure_of_it_is_the_jobs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    class Broken:
        def collect_metrics(self) -> None:
            raise RuntimeError("the driver is gone")

    monkeypatch.setattr("drdg.tracking.system._monitors", lambda: [Broken()])
    with watch_system(Seen()):
        done = True
    assert done
    assert "the machine is not watched any more: RuntimeError('the driver is gone')" in capsys.readouterr().err


def test_other_ranks_watch_nothing() -> None:
    before = threading.active_count()
    with watch_system(NullHandle()):
        assert threading.active_count() == before
