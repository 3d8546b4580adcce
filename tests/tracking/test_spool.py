"""What a store that is away should have got is fetched from the spool once, whoever is killed when."""

from __future__ import annotations

import fcntl
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from stores import TAGS, all_runs, client, history

from drdg.tracking import SpoolHandle, Tracking, sync
from drdg.tracking.base import Handle
from drdg.tracking.spool import LINES


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def work(handle: Handle, tmp_path: Path, *, steps: int = 50) -> None:
    """What a stage does."""
    (tmp_path / "panels" / "deep").mkdir(parents=True, exist_ok=True)
    (tmp_path / "panels" / "deep" / "one.txt").write_text("1")
    (tmp_path / "table.md").write_text("| a |")
    with handle:
        for step in range(steps):
            handle.log({"loss": step / 7, "rate": -step}, step)
        handle.log({"nan": math.nan, "inf": math.inf}, 3)
        handle.tags({"drdg.slurm_job_ids": "17"})
        handle.params({"later": {"x": 1}})
        handle.artifact(tmp_path / "table.md")
        handle.artifact(tmp_path / "panels", "panels")
        handle.text("run: {}", "notes/config.yaml")


def check(tracking: Tracking, run_id: str, *, steps: int = 50) -> None:
    run = client(tracking).get_run(run_id)
    assert history(tracking, run_id, "loss") == [(step, step / 7) for step in range(steps)]
    assert history(tracking, run_id, "rate") == [(step, -step) for step in range(steps)]
    assert [len(history(tracking, run_id, name)) for name in ("nan", "inf")] == [1, 1]
    assert run.data.tags["drdg.slurm_job_ids"] == "17"
    assert run.data.params["later.x"] == "1"
    listed = [
        file.path
        for folder in ("", "panels", "panels/deep", "notes")
        for file in client(tracking).list_artifacts(run_id, folder)
        if not file.is_dir
    ]
    assert listed == ["table.md", "panels/deep/one.txt", "notes/config.yaml"]


def test_a_run_that_never_saw_the_store_gets_there_whole(
    capsys: pytest.CaptureFixture[str], away: Tracking, tracking: Tracking, spool: Path, tmp_path: Path
) -> None:
    assert away.is_away
    assert not tracking.is_away
    parent = tracking.place("sweep", None, {"drdg.digest": "s"}, {})
    stage = away.stage("drdg/gan", parent, TAGS, {"gan": {"epochs": 3}})
    assert isinstance(stage, SpoolHandle)
    work(stage, tmp_path)
    assert capsys.readouterr().err.count("what is logged waits in") == 1
    (tmp_path / "table.md").write_text("changed since")

    assert sync(spool, tracking) == 1
    (run,) = [run for run in all_runs(tracking) if run.info.run_id != parent]
    check(tracking, run.info.run_id)
    assert run.info.run_name == "drdg/gan"
    assert run.info.status == "FINISHED"
    assert run.data.params["gan.epochs"] == "3"
    assert run.data.tags["mlflow.parentRunId"] == parent
    assert {key: run.data.tags[key] for key in TAGS} == {key: str(value) for key, value in TAGS.items()}
    where = client(tracking).download_artifacts(run.info.run_id, "table.md", str(tmp_path))
    assert Path(where).read_text() == "| a |"
    times = [value.timestamp for value in client(tracking).get_metric_history(run.info.run_id, "loss")]
    assert run.info.start_time <= min(times) <= max(times) <= run.info.end_time
    assert names(spool) == [".lock", "runs"]
    assert sync(spool, tracking) == 0


def test_what_a_handle_put_aside_can_be_read_back(away: Tracking) -> None:
    with away.stage("gan", "p", TAGS, {}) as stage:
        for step in (3, 1, 2):
            stage.log({"loss": step / 2}, step)
        stage.flush()
        assert stage.history() == {"loss": [(1, 0.5), (2, 1.0), (3, 1.5)]}


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), KeyboardInterrupt()])
def test_a_run_in_the_spool_ends_as_its_block_does(
    away: Tracking, tracking: Tracking, spool: Path, error: BaseException
) -> None:
    def fail() -> None:
        with away.stage("gan", "p", TAGS, {}) as stage:
            stage.log({"loss": 1.0}, 1)
            raise error

    with pytest.raises(type(error)):
        fail()
    sync(spool, tracking)
    (run,) = all_runs(tracking)
    assert run.info.status == ("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
    assert run.data.tags["drdg.error"].startswith(type(error).__name__)


def test_each_attempt_of_a_stage_is_the_same_run(away: Tracking, tracking: Tracking, spool: Path, folder: Path) -> None:
    """The first saw the store, the second did not and repeats what the first did after its checkpoint."""
    with tracking.stage("gan", "p", TAGS, {"epochs": 3}) as first:
        first.log({"loss": 1.0, "miou": 40.0}, 1)
        first.log({"loss": 2.0}, 2)
    with away.stage("gan", "p", TAGS, {"epochs": 4}) as second:
        second.log({"loss": 2.0, "miou": 41.0}, 2)
        second.log({"loss": 3.0}, 3)
    with away.stage("gan", "p", TAGS, {"epochs": 4}) as third:
        third.log({"loss": 3.0}, 3)
        third.log({"loss": 4.0}, 4)
    assert sync(spool, tracking) == 1
    (run,) = all_runs(tracking)
    assert history(tracking, first.run_id, "loss") == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0)]
    assert history(tracking, first.run_id, "miou") == [(1, 40.0), (2, 41.0)]
    assert run.data.tags["drdg.restarts"] == "2"
    assert run.data.tags["drdg.changed.epochs"] == "4"
    assert run.info.status == "FINISHED"


def test_an_old_attempt_does_not_undo_a_newer_one(
    away: Tracking, tracking: Tracking, spool: Path, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("old")
    (tmp_path / "b.txt").write_text("old")

    def fail() -> None:
        with away.stage("gan", "p", TAGS, {}) as old:
            old.log({"loss": 1.0}, 1)
            old.tags({"drdg.note": "old"})
            old.artifact(tmp_path / "a.txt")
            old.artifact(tmp_path / "b.txt")
            raise RuntimeError("the node is lost")

    with pytest.raises(RuntimeError):
        fail()
    with tracking.stage("gan", "p", TAGS, {}) as new:
        new.log({"loss": 2.0}, 2)
        new.tags({"drdg.note": "new"})
        new.text("new", "a.txt")
    sync(spool, tracking)
    (run,) = all_runs(tracking)
    assert history(tracking, run.info.run_id, "loss") == [(1, 1.0), (2, 2.0)]
    assert run.info.status == "FINISHED"
    assert run.data.tags["drdg.note"] == "new"
    assert "drdg.error" not in run.data.tags
    where = client(tracking).download_artifacts(run.info.run_id, "", str(tmp_path))
    assert (Path(where) / "a.txt").read_text() == "new"
    assert (Path(where) / "b.txt").read_text() == "old"


def test_runs_without_a_digest_stay_apart_and_under_their_parents(
    away: Tracking, tracking: Tracking, spool: Path
) -> None:
    with away.parent("demo", {}, {}) as parent:
        for _ in range(2):
            with away.stage("gan", parent.run_id, {"drdg.stage": "gan"}, {}) as stage:
                stage.log({"loss": 1.0})
    assert sync(spool, tracking) == 3
    by_name: dict[str, list] = {}
    for run in all_runs(tracking):
        by_name.setdefault(run.info.run_name, []).append(run)
    (demo,) = by_name["demo"]
    assert [run.data.tags["mlflow.parentRunId"] for run in by_name["gan"]] == [demo.info.run_id] * 2
    # A stage that begins after its parent was fetched is the same.
    with Tracking(tracking.uri, "towns", spool, spool=spool).stage("later", parent.run_id, {}, {}) as later:
        pass
    assert client(tracking).get_run(later.run_id).data.tags["mlflow.parentRunId"] == demo.info.run_id


def test_ranks_join_a_run_in_the_spool(
    away: Tracking, tracking: Tracking, spool: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with away.stage("gan", "p", TAGS, {}) as stage:
        for name, value in stage.environment().items():
            monkeypatch.setenv(name, value)
        rank = Tracking(None, "towns", tmp_path)
        with rank.join() as joined:
            joined.log({"loss": 1.0}, 1)
        assert Tracking(None, "towns", tmp_path, rank=1).join().environment() == {}
        # The file of who began it is still open: the run is made all the same, and what the rank left is fetched.
        assert sync(spool, tracking) == 1
        (run,) = all_runs(tracking)
        assert run.info.status == "RUNNING"
        assert run.data.metrics == {"loss": 1.0}
        stage.log({"own": 2.0}, 1)
    assert sync(spool, tracking) == 1
    (run,) = all_runs(tracking)
    assert run.data.metrics == {"loss": 1.0, "own": 2.0}
    assert run.info.status == "FINISHED"


def test_a_store_that_goes_away_later_loses_nothing(
    tracking: Tracking, folder: Path, spool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.exceptions import MlflowException

    there = Tracking(None, "towns", folder, spool=spool)
    stage = there.stage("gan", "p", TAGS, {})
    stage.log({"before": 1.0}, 1)
    stage.flush()

    def away(*_: object, **__: object) -> None:
        raise MlflowException("connection refused")

    with monkeypatch.context() as broken:
        for name in ("log_batch", "get_run", "set_tag", "log_artifact", "log_artifacts", "log_text", "set_terminated"):
            broken.setattr(client(there), name, away)
        work(stage, tmp_path)
    assert client(tracking).get_run(stage.run_id).info.status == "RUNNING"
    assert sync(spool, tracking) == 1
    check(tracking, stage.run_id)
    run = client(tracking).get_run(stage.run_id)
    assert run.data.metrics["before"] == 1.0
    assert run.info.status == "FINISHED"
    assert "drdg.restarts" not in run.data.tags


def test_values_wait_in_memory_before_they_go_to_the_spool(
    folder: Path, spool: Path, tracking: Tracking, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that is back within a training gets them at once, without anybody fetching."""
    from mlflow.exceptions import MlflowException

    there = Tracking(None, "towns", folder, spool=spool)
    stage = there.stage("gan", "p", TAGS, {})
    with monkeypatch.context() as broken:
        broken.setattr("drdg.tracking.handle.FLUSH_VALUES", 2)

        def away(*_: object, **__: object) -> None:
            raise MlflowException("connection refused")

        broken.setattr(client(there), "log_batch", away)
        with pytest.warns(UserWarning, match="2 values wait"):
            stage.log({"a": 1.0, "b": 2.0}, 1)
        assert [(name, value, step) for name, value, _, step in stage.try_to_flush()] == [("a", 1.0, 1), ("b", 2.0, 1)]
    stage.close()
    assert not spool.exists()
    assert client(tracking).get_run(stage.run_id).data.metrics == {"a": 1.0, "b": 2.0}


# ----------------------------------------------------------------------------------------------------------- misfortune

KILLED = """
import os, signal, sys
from pathlib import Path
from drdg.tracking import Tracking, sync

spool, folder, at = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
calls = 0


def counted(name, function):
    def call(*given, **named):
        global calls
        result = None
        for when in ("before", "after"):
            if when == "after":
                result = function(*given, **named)
            calls += 1
            if calls == at:
                print(when, name, flush=True)
                os.kill(os.getpid(), signal.SIGKILL)
        return result

    return call


import mlflow
WRITES = "create_run update_run log_batch set_tag delete_tag log_artifact log_artifacts log_text set_terminated".split()
Path.unlink = counted("unlink", Path.unlink)
Path.replace = counted("replace", Path.replace)
import shutil
shutil.rmtree = counted("rmtree", shutil.rmtree)
# Each attempt at its own point, in a child, as importing MLflow takes seconds.
while True:
    calls = 0
    child = os.fork()
    if child == 0:
        fresh = Tracking(None, "towns", folder)
        for name in WRITES:
            setattr(fresh.store.client, name, counted(name, getattr(fresh.store.client, name)))
        sync(spool, fresh)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status):
        sys.exit(os.waitstatus_to_exitcode(status))
    at += 1
"""


def test_whoever_fetches_may_be_killed_at_any_point(
    away: Tracking, tracking: Tracking, spool: Path, folder: Path, tmp_path: Path
) -> None:
    """Before and after each call that changes something, one after the other, until one gets through."""
    with tracking.stage("gan", "p", TAGS, {}) as first:
        first.log({"loss": 0.0}, 0)
    work(away.stage("gan", "p", TAGS, {"epochs": 3}), tmp_path)
    work(away.stage("other", "p", {"drdg.stage": "other"}, {}), tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(spool), str(folder), "1"], text=True, stdout=subprocess.PIPE, check=False
    )
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) >= 10, done.stdout
    assert {run.info.run_name for run in all_runs(tracking)} == {"gan", "other"}
    assert len(all_runs(tracking)) == 2
    for run in all_runs(tracking):
        check(tracking, run.info.run_id)
        assert run.info.status == "FINISHED"
        assert run.data.tags.get("drdg.restarts", "0") == ("1" if run.info.run_name == "gan" else "0")
    assert names(spool) == [".lock", "runs"]


def test_two_that_fetch_at_once_fetch_once(away: Tracking, tracking: Tracking, spool: Path, folder: Path) -> None:
    for number in range(4):
        with away.stage(f"gan{number}", "p", {"drdg.stage": "gan"}, {}) as stage:
            for step in range(200):
                stage.log({"loss": step}, step)
    code = (
        "import sys; from pathlib import Path; from drdg.tracking import Tracking, sync\n"
        "t = Tracking(None, 'towns', Path(sys.argv[2])); t.store.client\n"
        "print('ready', flush=True); sys.stdin.readline(); print(sync(Path(sys.argv[1]), t))"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(spool), str(folder)],
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for _ in range(2)
    ]
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    counts = [int(process.communicate("go\n")[0]) for process in started]
    assert sum(counts) == 4
    assert len(all_runs(tracking)) == 4
    for run in all_runs(tracking):
        values = client(tracking).get_metric_history(run.info.run_id, "loss")
        assert sorted((value.step, value.value) for value in values) == [(step, float(step)) for step in range(200)]


def test_a_line_that_its_writer_did_not_finish_is_none(away: Tracking, tracking: Tracking, spool: Path) -> None:
    """A writer that was killed leaves its file unlocked and perhaps its last line torn."""
    code = (
        "import os, sys; from pathlib import Path; from drdg.tracking import Tracking\n"
        "t = Tracking(sys.argv[1], 'towns', Path(sys.argv[2]), spool=Path(sys.argv[2]))\n"
        "h = t.stage('gan', 'p', {'drdg.digest': 'abc'}, {})\n"
        "h.log({'loss': 1.0}, 1); h.flush(); h.log({'loss': 2.0}, 2); h.flush()\n"
        "os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code, away.uri, str(spool)], stderr=subprocess.DEVNULL, check=False)
    assert done.returncode == -signal.SIGKILL
    (path,) = spool.glob(f"*{LINES}")
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    assert sync(spool, tracking) == 1
    (run,) = all_runs(tracking)
    assert history(tracking, run.info.run_id, "loss") == [(1, 1.0)]
    assert run.info.status == "RUNNING"  # as of any job that was killed
    assert list(spool.glob(f"*{LINES}")) == []


def test_a_file_that_is_written_is_left_for_later(away: Tracking, tracking: Tracking, spool: Path) -> None:
    stage = away.stage("gan", "p", TAGS, {})
    stage.log({"loss": 1.0}, 1)
    stage.flush()
    assert sync(spool, tracking) == 0
    assert all_runs(tracking)[0].data.metrics == {}
    stage.log({"loss": 2.0}, 2)
    stage.close()
    assert sync(spool, tracking) == 1
    (run,) = all_runs(tracking)
    assert history(tracking, run.info.run_id, "loss") == [(1, 1.0), (2, 2.0)]
    assert "drdg.restarts" not in run.data.tags


def test_a_writer_holds_its_file_while_it_lives(away: Tracking, spool: Path) -> None:
    stage = away.stage("gan", "p", TAGS, {})
    (path,) = spool.glob(f"*{LINES}")
    with path.open("rb") as file:
        with pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        stage.close()
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    assert os.getpid() == int(path.name.rsplit("-", 2)[1])


def test_one_run_that_was_deleted_is_no_other_runs_trouble(
    away: Tracking, tracking: Tracking, spool: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = tracking.stage("gone", "p", {}, {})
    with away.join(gone.run_id) as joined:
        joined.log({"loss": 1.0})
    with away.stage("gan", "p", TAGS, {}) as stage:
        stage.log({"loss": 2.0})
    client(tracking).delete_run(gone.run_id)
    assert sync(spool, tracking) == 1
    assert [run.data.metrics for run in all_runs(tracking)] == [{"loss": 2.0}]
    (left,) = spool.glob(f"*{LINES}")
    assert f"{left} stays as it is" in capsys.readouterr().err
    client(tracking).restore_run(gone.run_id)
    assert sync(spool, tracking) == 1
    assert client(tracking).get_run(gone.run_id).data.metrics == {"loss": 1.0}


def test_a_store_that_goes_away_while_fetching_keeps_the_rest(
    away: Tracking, tracking: Tracking, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.exceptions import MlflowException

    with away.stage("gan", "p", TAGS, {}) as stage:
        stage.log({"loss": 2.0})

    def gone(*_: object, **__: object) -> None:
        raise MlflowException("connection refused")

    with monkeypatch.context() as broken:
        broken.setattr(client(tracking), "log_batch", gone)
        broken.setattr(client(tracking), "get_experiment", gone)
        with pytest.raises(ValueError, match="cannot read the MLflow store"):
            sync(spool, tracking)
    assert sync(spool, tracking) == 1
    assert [run.data.metrics for run in all_runs(tracking)] == [{"loss": 2.0}]
    with pytest.raises(ValueError, match=r"cannot be fetched: tracking\.uri: no MLflow server answers"):
        sync(spool, away)


def test_a_spool_that_cannot_be_written_is_named(away: Tracking, spool: Path) -> None:
    spool.write_text("a file in its place")
    with pytest.raises(ValueError, match=r"cannot write to the spool .*make room there or make it writable"):
        away.stage("gan", "p", TAGS, {})


def test_a_full_disk_loses_nothing(
    away: Tracking, tracking: Tracking, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = away.stage("gan", "p", TAGS, {})
    assert isinstance(stage, SpoolHandle)
    stage.log({"loss": 1.0}, 1)
    whole = stage._file._file

    class Full:
        """Takes the half of a line and then no more."""

        def write(self, lines: memoryview) -> int:
            whole.write(lines[: len(lines) // 2])
            raise OSError(28, "No space left on device")

        def __getattr__(self, name: str) -> object:
            return getattr(whole, name)

    monkeypatch.setattr(stage._file, "_file", Full())
    with pytest.raises(ValueError, match="No space left on device"):
        stage.flush()
    monkeypatch.setattr(stage._file, "_file", whole)
    stage.log({"loss": 2.0}, 2)
    stage.close()
    for line in next(iter(spool.glob(f"*{LINES}"))).read_bytes().splitlines():
        json.loads(line)
    sync(spool, tracking)
    (run,) = all_runs(tracking)
    assert history(tracking, run.info.run_id, "loss") == [(1, 1.0), (2, 2.0)]


def test_an_address_that_is_none_is_an_error_with_a_spool_too(spool: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a store MLflow keeps runs in"):
        Tracking("file:./mlruns", "towns", tmp_path, spool=spool)


def test_without_a_spool_in_the_way_nothing_is_fetched(tracking: Tracking, tmp_path: Path) -> None:
    assert sync(tmp_path / "none", tracking) == 0
    assert not (tmp_path / "none").exists()
