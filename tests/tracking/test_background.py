"""With a thread that writes, who logs waits for no store, and nothing is lost or said twice."""

from __future__ import annotations

import threading
import warnings
from pathlib import Path

import pytest
from stores import TAGS, client, history, wait_for

from drdg.tracking import RunHandle, Tracking


@pytest.fixture
def behind(folder: Path) -> Tracking:
    return Tracking(None, "towns", folder, in_background=True)


class Slow:
    """A store that takes nothing until it is let."""

    def __init__(self, stage: RunHandle, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked, self.let = threading.Event(), threading.Event()
        whole = stage._store.client.log_batch

        def log_batch(*given: object, **named: object) -> None:
            self.asked.set()
            assert self.let.wait(300)
            whole(*given, **named)

        monkeypatch.setattr(stage._store.client, "log_batch", log_batch)


def test_who_logs_waits_for_no_store(behind: Tracking, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drdg.tracking.handle.FLUSH_VALUES", 10)
    stage = behind.stage("gan", "p", TAGS, {})
    assert isinstance(stage, RunHandle)
    slow = Slow(stage, monkeypatch)
    for step in range(2000):  # with a store that never answers this would not come to its end
        stage.log({"loss": step}, step)
    assert slow.asked.wait(300)
    rows = stage.try_to_flush()
    assert [(name, value, step) for name, value, _, step in rows] == [("loss", float(n), n) for n in range(2000)]
    slow.let.set()
    wait_for(lambda: stage.try_to_flush() == [])  # without anybody's flush
    stage.close()
    assert history(behind, stage.run_id, "loss") == [(step, float(step)) for step in range(2000)]


def test_what_a_checkpoint_keeps_is_not_doubled(behind: Tracking, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = behind.stage("gan", "p", TAGS, {})
    assert isinstance(stage, RunHandle)
    slow = Slow(stage, monkeypatch)
    stage.log({"loss": 1.0}, 1)
    rows = stage.try_to_flush()
    assert len(rows) == 1
    slow.let.set()
    stage.close()
    with behind.stage("gan", "p", TAGS, {}) as again:
        again.relog(rows)
        again.log({"loss": 2.0}, 2)
    assert history(behind, stage.run_id, "loss") == [(1, 1.0), (2, 2.0)]


def test_flush_waits_until_all_is_written(behind: Tracking) -> None:
    stage = behind.stage("gan", "p", TAGS, {})
    for step in range(1500):
        stage.log({"loss": step}, step)
    stage.flush()
    assert history(behind, stage.run_id, "loss") == [(step, float(step)) for step in range(1500)]
    assert stage.try_to_flush() == []
    stage.close()
    assert client(behind).get_run(stage.run_id).info.status == "FINISHED"


def test_the_thread_warns_and_tries_again(behind: Tracking, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.exceptions import MlflowException

    stage = behind.stage("gan", "p", TAGS, {})
    assert isinstance(stage, RunHandle)
    tries = threading.Event()

    def away(*_: object, **__: object) -> None:
        tries.set()
        raise MlflowException("connection refused")

    with monkeypatch.context() as broken:
        broken.setattr(stage._store.client, "log_batch", away)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            stage.log({"a": 1.0}, 1)
            assert len(stage.try_to_flush()) == 1
            wait_for(lambda: caught)
        assert tries.is_set()
        assert "connection refused" in str(caught[0].message)
        with pytest.raises(ValueError, match="connection refused"):
            stage.close()
    stage.close()
    assert history(behind, stage.run_id, "a") == [(1, 1.0)]


def test_many_threads_log_to_one_handle(behind: Tracking, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drdg.tracking.handle.FLUSH_VALUES", 50)
    with behind.stage("gan", "p", TAGS, {}) as stage:

        def log(which: int) -> None:
            for step in range(500):
                stage.log({f"loss/{which}": step}, step)

        threads = [threading.Thread(target=log, args=(which,)) for which in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for which in range(4):
        assert history(behind, stage.run_id, f"loss/{which}") == [(step, float(step)) for step in range(500)]


def test_no_thread_is_left(behind: Tracking) -> None:
    with behind.stage("gan", "p", TAGS, {}) as stage:
        stage.log({"a": 1.0})
        stage.try_to_flush()
        assert "tracking" in [thread.name for thread in threading.enumerate()]
    assert "tracking" not in [thread.name for thread in threading.enumerate()]
