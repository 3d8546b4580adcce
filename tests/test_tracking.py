"""Runs are kept once, whole, and found again; a store that cannot keep them is named in one sentence."""

from __future__ import annotations

import itertools
import math
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drdg.tracking import NullHandle, RunHandle, Tracking, clean_name, flatten, inherited_run_id

TAGS = {"drdg.digest": "abc", "drdg.row": "drdg", "drdg.seed": 0, "drdg.stage": "gan"}


@pytest.fixture(autouse=True)
def no_inherited_store(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with its tables and nothing in it: making one takes seconds, copying one nothing."""
    from drdg.tracking.store import _make_sqlite

    database = tmp_path_factory.mktemp("store") / "mlflow.db"
    _make_sqlite(database)
    return database


@pytest.fixture
def folder(tmp_path: Path, empty_store: Path) -> Path:
    folder = tmp_path / "a run's folder, 100 %"
    folder.mkdir()
    shutil.copy(empty_store, folder / "mlflow.db")
    return folder


@pytest.fixture
def tracking(folder: Path) -> Tracking:
    return Tracking(None, "towns", folder)


def client(tracking: Tracking):
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=tracking.uri)


def history(tracking: Tracking, run_id: str, name: str) -> list[tuple[int, float]]:
    return sorted((value.step, value.value) for value in client(tracking).get_metric_history(run_id, name))


def all_runs(tracking: Tracking) -> list:
    experiment = client(tracking).get_experiment_by_name("towns")
    return list(client(tracking).search_runs([experiment.experiment_id]))


# ------------------------------------------------------------------------------------------------------------- keeping


def test_a_new_store_is_made_whole_beside_its_artifacts(tmp_path: Path) -> None:
    folder = tmp_path / "new place" / "run"
    tracking = Tracking(None, "towns", folder)
    assert tracking.uri == f"sqlite:///{folder}/mlflow.db"
    with tracking.parent("demo", {}, {}) as run:
        run.text("hello", "notes/greeting.txt")
    assert sorted(path.name for path in folder.iterdir()) == ["mlartifacts", "mlflow.db"]
    (kept,) = (folder / "mlartifacts").rglob("greeting.txt")
    assert kept.read_text() == "hello"


def test_stages_lie_under_their_parent(tracking: Tracking) -> None:
    with (
        tracking.parent("demo", {"drdg.digest": "abc"}, {"run": {"name": "demo"}}) as parent,
        tracking.stage("gan", parent.run_id, TAGS, {"gan": {"epochs": 3, "generator_betas": (0.5, 0.999)}}) as stage,
    ):
        stage.log({"loss/critic": 1.5}, step=1)
    run = client(tracking).get_run(stage.run_id)
    assert run.data.tags["mlflow.parentRunId"] == parent.run_id
    assert run.data.tags["drdg.seed"] == "0"
    assert run.data.params == {"gan.epochs": "3", "gan.generator_betas": "[0.5, 0.999]"}
    assert run.data.metrics == {"loss/critic": 1.5}
    assert run.info.run_name == "gan"
    assert run.info.status == "FINISHED"


def test_values_keep_step_and_time_through_the_buffer(tracking: Tracking) -> None:
    with tracking.stage("gan", "p", TAGS, {}) as stage:
        for step in range(1200):  # more than one batch, more than one call of MLflow's limit
            stage.log({"a": step / 7, "b": -step}, step)
        stage.log({"not a number": math.nan, "infinite": math.inf}, 3)
    assert history(tracking, stage.run_id, "a") == [(step, step / 7) for step in range(1200)]
    assert history(tracking, stage.run_id, "b") == [(step, -step) for step in range(1200)]
    times = [value.timestamp for value in client(tracking).get_metric_history(stage.run_id, "a")]
    assert max(times) > min(times)
    assert math.isnan(history(tracking, stage.run_id, "not a number")[0][1])


def test_few_values_wait_and_are_there_after_a_flush(tracking: Tracking) -> None:
    stage = tracking.stage("gan", "p", TAGS, {})
    stage.log({"a": 1.0}, 1)
    assert history(tracking, stage.run_id, "a") == []
    stage.flush()
    assert history(tracking, stage.run_id, "a") == [(1, 1.0)]
    stage.close()


def test_every_kind_of_artifact_is_kept(tracking: Tracking, tmp_path: Path) -> None:
    from mlflow.artifacts import download_artifacts

    (tmp_path / "panels").mkdir()
    (tmp_path / "panels" / "one.txt").write_text("1")
    (tmp_path / "table.md").write_text("| a |")
    with tracking.stage("report", "p", TAGS, {}) as stage:
        stage.artifact(tmp_path / "table.md")
        stage.artifact(tmp_path / "panels", "panels")
        stage.text("run: {}", "config.yaml")
    listed = [file for folder in ("", "panels") for file in client(tracking).list_artifacts(stage.run_id, folder)]
    assert {file.path for file in listed if not file.is_dir} == {
        "table.md",
        "panels/one.txt",
        "config.yaml",
    }
    where = download_artifacts(run_id=stage.run_id, artifact_path="table.md", tracking_uri=tracking.uri)
    assert Path(where).read_text() == "| a |"


def test_the_history_of_a_run_is_read_back_in_the_order_of_steps(tracking: Tracking) -> None:
    with tracking.stage("gan", "p", TAGS, {}) as stage:
        for step in (3, 1, 2):
            stage.log({"loss": step / 2, "rate": 1.0}, step)
        stage.flush()
        assert stage.history() == {"loss": [(1, 0.5), (2, 1.0), (3, 1.5)], "rate": [(1, 1.0), (2, 1.0), (3, 1.0)]}


def test_an_artifact_that_is_not_there_is_named(tracking: Tracking, tmp_path: Path) -> None:
    with tracking.stage("report", "p", TAGS, {}) as stage, pytest.raises(ValueError, match=r"none\.png is not there"):
        stage.artifact(tmp_path / "none.png")


def test_a_long_parameter_is_cut_and_a_great_many_are_kept(tracking: Tracking) -> None:
    settings_ = {"long": "x" * 10_000} | {f"knob{i}": i for i in range(250)}
    with tracking.stage("gan", "p", TAGS, settings_) as stage:
        pass
    kept = client(tracking).get_run(stage.run_id).data.params
    assert len(kept) == 251
    assert kept["long"] == "x" * 5999 + "…"


# -------------------------------------------------------------------------------------------------------------- naming


def test_settings_are_flattened_as_they_are_written_in_yaml() -> None:
    nested = {"a": {"b": None, "c": True, "d": {}}, "e": [1, "x"], "f": Path("x/y"), "g": "plain", "h": 5e-4}
    assert flatten(nested) == {
        "a.b": "null",
        "a.c": "true",
        "a.d": "{}",
        "e": '[1, "x"]',
        "f": '"x/y"',
        "g": "plain",
        "h": "0.0005",
    }


@settings(deadline=None)
@given(st.text(min_size=1, max_size=40))
def test_mlflow_takes_every_cleaned_name(name: str) -> None:
    from mlflow.utils.validation import _validate_metric_name, _validate_param_name

    _validate_metric_name(clean_name(name))
    _validate_param_name(clean_name(name))


def test_good_names_stay() -> None:
    assert clean_name("iou/low_vegetation") == "iou/low_vegetation"
    assert clean_name("loss/critic [S]") == "loss/critic _S_"
    assert clean_name("a//b") == "a__b"


# -------------------------------------------------------------------------------------------------------- found again


def test_a_stage_run_again_continues_its_run(tracking: Tracking, folder: Path) -> None:
    params = {"epochs": 3, "root": "/old"}
    first = tracking.stage("gan", "p", TAGS, params)
    first.log({"loss": 1.0, "miou": 40.0}, 1)
    first.log({"loss": 2.0}, 2)
    first.close("FAILED")

    with Tracking(None, "towns", folder).stage("gan", "p", TAGS, params | {"root": "/new", "added": 1}) as again:
        again.log({"loss": 2.0, "miou": 41.0}, 2)  # step 2 is computed again after a resume, and comes out the same
        again.log({"loss": 3.0}, 3)
    assert again.run_id == first.run_id
    assert len(all_runs(tracking)) == 1
    assert history(tracking, first.run_id, "loss") == [(1, 1.0), (2, 2.0), (3, 3.0)]
    assert history(tracking, first.run_id, "miou") == [(1, 40.0), (2, 41.0)]
    run = client(tracking).get_run(first.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags["drdg.restarts"] == "1"
    assert run.data.params == {"epochs": "3", "root": "/old", "added": "1"}
    assert run.data.tags["drdg.changed.root"] == "/new"


def test_values_that_are_not_finite_are_not_doubled_either(tracking: Tracking) -> None:
    for _ in range(2):
        with tracking.stage("gan", "p", TAGS, {}) as stage:
            stage.log({"nan": math.nan, "inf": math.inf, "-inf": -math.inf}, 1)
    assert [len(history(tracking, stage.run_id, name)) for name in ("nan", "inf", "-inf")] == [1, 1, 1]


def test_a_changed_value_of_the_same_step_becomes_the_newest(tracking: Tracking) -> None:
    with tracking.stage("evaluate", "p", TAGS, {}) as stage:
        stage.log({"miou": 40.0})
    with tracking.stage("evaluate", "p", TAGS, {}) as again:
        again.log({"miou": 45.0})
    assert client(tracking).get_run(stage.run_id).data.metrics == {"miou": 45.0}
    assert again.run_id == stage.run_id


@pytest.mark.parametrize("key", ["drdg.digest", "drdg.row", "drdg.seed", "drdg.stage"])
def test_a_run_of_another_identity_is_another_run(tracking: Tracking, key: str) -> None:
    first = tracking.stage("gan", "p", TAGS, {})
    other = tracking.stage("gan", "p", TAGS | {key: "it's other"}, {})
    without = tracking.stage("gan", "p", {name: value for name, value in TAGS.items() if name != key}, {})
    assert len({first.run_id, other.run_id, without.run_id}) == 3


def test_another_parent_name_or_no_digest_is_another_run(tracking: Tracking) -> None:
    nameless = {"drdg.stage": "gan"}
    handles = [
        tracking.stage("gan", "p", TAGS, {}),
        tracking.stage("gan", "q", TAGS, {}),
        tracking.stage("gan 2", "p", TAGS, {}),
        tracking.parent("gan", TAGS, {}),
        tracking.stage("gan", "p", nameless, {}),
        tracking.stage("gan", "p", nameless, {}),
    ]
    assert len({handle.run_id for handle in handles}) == len(handles)


# -------------------------------------------------------------------------------------------------------------- ending


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (RuntimeError("out of memory"), "FAILED"),
        (KeyboardInterrupt(), "KILLED"),
        (SystemExit(1), "FAILED"),
        (SystemExit(0), "FINISHED"),
    ],
)
def test_a_run_ends_as_its_block_does(tracking: Tracking, error: BaseException, status: str) -> None:
    def work() -> None:
        with tracking.stage("gan", "p", TAGS, {}) as stage:
            stage.log({"loss": 1.0}, 1)
            raise error

    with pytest.raises(type(error)):
        work()
    (run,) = all_runs(tracking)
    assert run.info.status == status
    assert run.data.metrics == {"loss": 1.0}
    if isinstance(error, RuntimeError):
        assert run.data.tags["drdg.error"] == "RuntimeError: out of memory"
        with tracking.stage("gan", "p", TAGS, {}):
            pass
        assert "drdg.error" not in client(tracking).get_run(run.info.run_id).data.tags


def test_a_run_that_another_process_continues_is_not_ended_by_the_first(tracking: Tracking, folder: Path) -> None:
    """The first was cut off, and learns of its end when its run goes on elsewhere."""

    def be_cut_off() -> None:
        with tracking.stage("gan", "p", TAGS, {}) as first:
            first.log({"loss": 1.0}, 1)
            again = Tracking(None, "towns", folder).stage("gan", "p", TAGS, {})
            assert isinstance(again, RunHandle)
            continued.append(again)
            raise ConnectionError("rank 0 has lost another rank")

    continued: list[RunHandle] = []
    with pytest.raises(ConnectionError):
        be_cut_off()
    (run,) = all_runs(tracking)
    assert run.info.status == "RUNNING"
    assert "drdg.error" not in run.data.tags
    assert run.data.metrics == {"loss": 1.0}
    continued[0].close()
    assert all_runs(tracking)[0].info.status == "FINISHED"


def test_values_wait_while_the_store_is_away(tracking: Tracking, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.exceptions import MlflowException

    stage = tracking.stage("gan", "p", TAGS, {})
    assert isinstance(stage, RunHandle)
    whole = stage._store.client.log_batch

    def away(*_: object, **__: object) -> None:
        raise MlflowException("connection refused.\nmore")

    monkeypatch.setattr("drdg.tracking.handle.FLUSH_VALUES", 2)
    monkeypatch.setattr(stage._store.client, "log_batch", away)
    with pytest.warns(UserWarning, match="connection refused.*2 values wait"):
        stage.log({"a": 1.0, "b": 2.0}, 1)
    with pytest.raises(ValueError, match="cannot write to the MLflow store") as caught:
        stage.close()
    assert "\n" not in str(caught.value)
    monkeypatch.setattr(stage._store.client, "log_batch", whole)
    stage.close()
    assert history(tracking, stage.run_id, "a") == [(1, 1.0)]
    assert history(tracking, stage.run_id, "b") == [(1, 2.0)]


def test_while_the_store_is_away_it_is_asked_less_and_less(
    tracking: Tracking, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.exceptions import MlflowException

    tries, now = [], [1000.0]

    def away(*_: object, **__: object) -> None:
        tries.append(now[0])
        raise MlflowException("connection refused")

    stage = tracking.stage("gan", "p", TAGS, {})
    assert isinstance(stage, RunHandle)
    monkeypatch.setattr("drdg.tracking.handle.time.monotonic", lambda: now[0])
    stage._last_flush = now[0]
    monkeypatch.setattr(stage._store.client, "log_batch", away)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for step in range(3600):
            now[0] += 1
            stage.log({"loss": float(step)}, step)
        rows = stage.try_to_flush()
    assert len(tries) < 12
    assert max(after - before for before, after in itertools.pairwise(tries)) <= 601
    assert [(name, value, step) for name, value, _, step in rows] == [("loss", float(n), n) for n in range(3600)]
    # The next attempt, with the store back, writes all of them once.
    monkeypatch.undo()
    again = Tracking(None, "towns", folder).stage("gan", "p", TAGS, {})
    assert isinstance(again, RunHandle)
    again.relog(rows)
    again.relog(rows[:10])
    again.close()
    assert [step for step, _ in again.history()["loss"]] == list(range(3600))


def test_the_first_error_is_the_one_that_is_seen(tracking: Tracking, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object, **__: object) -> None:
        raise OSError("disk full")

    def work() -> None:
        with tracking.stage("gan", "p", TAGS, {}) as stage:
            stage.log({"a": 1.0})
            monkeypatch.setattr(stage._store.client, "log_batch", away)  # type: ignore[attr-defined]
            raise RuntimeError("the real one")

    with pytest.warns(UserWarning, match="disk full"), pytest.raises(RuntimeError, match="the real one"):
        work()


# ------------------------------------------------------------------------------------------------------ many processes

JOINER = """
import sys
from pathlib import Path
from drdg.tracking import Tracking

tracking = Tracking(None, "towns", Path(sys.argv[1]))
which = sys.argv[2]
print("ready", flush=True)
sys.stdin.readline()
with tracking.join() as shared, tracking.stage(which, shared.run_id, {"drdg.digest": which}, {"which": which}) as own:
    for step in range(300):
        shared.log({f"loss/{which}": step, "same": step}, step)
        own.log({"loss": step}, step)
        if step % 50 == 0:
            shared.flush()
            own.flush()
"""


def test_two_processes_write_to_one_store_and_one_run(tracking: Tracking, tmp_path: Path) -> None:
    with tracking.parent("demo", {"drdg.digest": "x"}, {}) as parent:
        assert set(parent.environment()) == {"MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID"}
        environment = os.environ | dict(parent.environment())
        started = [
            subprocess.Popen(
                [sys.executable, "-c", JOINER, str(tmp_path / "elsewhere"), which],
                env=environment,
                cwd=tmp_path,
                text=True,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            for which in ("one", "two")
        ]
        for process in started:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in started:
            process.communicate("go\n")
            assert process.returncode == 0
        assert client(tracking).get_run(parent.run_id).info.status == "RUNNING"  # who joins does not end
    steps = [(step, float(step)) for step in range(300)]
    assert history(tracking, parent.run_id, "loss/one") == steps
    assert history(tracking, parent.run_id, "loss/two") == steps
    assert set(history(tracking, parent.run_id, "same")) == set(steps)
    children = [run for run in all_runs(tracking) if run.info.run_id != parent.run_id]
    assert {run.info.run_name for run in children} == {"one", "two"}
    assert all(history(tracking, run.info.run_id, "loss") == steps for run in children)
    assert not (tmp_path / "elsewhere").exists()


def test_two_processes_that_make_one_store_make_one(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from drdg.tracking import Tracking\n"
        "with Tracking(None, 'towns', Path(sys.argv[1])).parent(sys.argv[2], {}, {}): pass"
    )
    started = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path), name]) for name in ("one", "two")]
    assert [process.wait() for process in started] == [0, 0]
    assert {run.info.run_name for run in all_runs(Tracking(None, "towns", tmp_path))} == {"one", "two"}


def test_other_ranks_keep_nothing(tmp_path: Path) -> None:
    tracking = Tracking("sqlite:////nowhere/mlflow.db", "towns", tmp_path, rank=1)
    for handle in (tracking.parent("p", {}, {}), tracking.stage("s", "", {}, {}), tracking.join("x")):
        assert isinstance(handle, NullHandle)
        with handle:
            handle.log({"a": 1.0}, 1)
            handle.params({"a": 1})
            handle.tags({"a": 1})
            handle.artifact(tmp_path / "none")
            handle.text("", "a.txt")
            assert handle.history() == {}
            handle.flush()
        assert handle.environment() == {}
    assert list(tmp_path.iterdir()) == []


def test_joining_nothing_is_refused(tracking: Tracking, monkeypatch: pytest.MonkeyPatch) -> None:
    assert inherited_run_id() is None
    with pytest.raises(ValueError, match="MLFLOW_RUN_ID is not set"):
        tracking.join()
    monkeypatch.setenv("MLFLOW_RUN_ID", "f" * 32)
    with pytest.raises(ValueError, match="cannot find run ffff"):
        tracking.join()


# -------------------------------------------------------------------------------------------------------------- stores


def test_the_environment_names_the_store_and_the_setting_outranks_it(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
    assert Tracking(None, "towns", tmp_path).uri == f"sqlite:///{folder}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "file:./mlruns")
    monkeypatch.chdir(folder)
    assert Tracking("sqlite:///mlflow.db", "towns", tmp_path).uri == f"sqlite:///{folder}/mlflow.db"


@pytest.mark.parametrize(
    "uri", ["file:./mlruns", "mlruns", "/abs/mlruns", "ftp://host", "sqlite://", "sqlite:///:memory:"]
)
def test_what_is_no_store_is_refused(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"tracking\.uri=.*write sqlite:////absolute/path/mlflow\.db"):
        Tracking(uri, "towns", tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(ValueError, match=r"^MLFLOW_TRACKING_URI="):
        Tracking(None, "towns", tmp_path)


@pytest.fixture
def nobody() -> Iterator[None]:
    """Root may write anywhere, so the test gives that up while it runs."""
    import mlflow  # noqa: F401  # while it can still be read

    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    yield
    os.seteuid(before)


@pytest.fixture
def public(empty_store: Path) -> Iterator[Path]:
    """A folder that others can reach, as pytest's own cannot be, with a store in it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o777)
        shutil.copy(empty_store, folder / "mlflow.db")
        yield folder
        folder.chmod(0o777)


def test_a_folder_without_permission_is_named(public: Path, request: pytest.FixtureRequest) -> None:
    public.chmod(0o555)
    request.getfixturevalue("nobody")
    with pytest.raises(ValueError, match=r"cannot be kept in .*Permission denied.*set tracking\.uri"):
        Tracking(None, "towns", public)


def test_a_read_only_database_is_named(public: Path, request: pytest.FixtureRequest) -> None:
    (public / "mlflow.db").chmod(0o444)
    request.getfixturevalue("nobody")
    with pytest.raises(ValueError, match=r"cannot be written .*readonly database"):
        Tracking(None, "towns", public)


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(ValueError, match="cannot be kept in"):
        Tracking(None, "towns", tmp_path / "taken")


def test_a_locked_store_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drdg.tracking.store.REACH_SECONDS", 0.1)
    holder = sqlite3.connect(folder / "mlflow.db", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(ValueError, match=r"database is locked.*end the process that holds it"):
        Tracking(None, "towns", folder)
    holder.close()


def test_what_is_no_database_is_named(folder: Path) -> None:
    (folder / "mlflow.db").write_text("not a database, but long enough to look at" * 10)
    with pytest.raises(ValueError, match="file is not a database"):
        Tracking(None, "towns", folder)


def test_a_store_of_another_schema_is_named(folder: Path) -> None:
    with sqlite3.connect(folder / "mlflow.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'fromthefuture'")
    connection.close()
    with pytest.raises(ValueError, match="schema is of another MLflow; upgrade"):
        Tracking(None, "towns", folder)


def test_a_deleted_experiment_is_named(tracking: Tracking, folder: Path) -> None:
    experiment = client(tracking).get_experiment_by_name("towns")
    client(tracking).delete_experiment(experiment.experiment_id)
    with pytest.raises(ValueError, match=r"experiment towns was deleted .*mlflow experiments restore"):
        Tracking(None, "towns", folder)


def test_a_server_that_does_not_answer_is_named_without_its_password(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    with pytest.raises(ValueError, match="no MLflow server answers") as caught:
        Tracking(f"http://me:secret@127.0.0.1:{port}", "towns", tmp_path)
    assert "secret" not in str(caught.value)
    assert f"me:***@127.0.0.1:{port}" in str(caught.value)


def test_a_server_that_is_no_mlflow_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    server = HTTPServer(("127.0.0.1", 0), Other)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with pytest.raises(ValueError, match=r"cannot open the MLflow store http://127.0.0.1"):
            Tracking(f"http://127.0.0.1:{server.server_port}", "towns", tmp_path)
    finally:
        server.shutdown()
        server.server_close()


def test_mlflow_is_imported_only_when_it_is_used() -> None:
    code = "import sys, drdg.tracking; assert not {'mlflow', 'torch', 'matplotlib'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("refusal", [FileExistsError, PermissionError])
def test_a_store_is_made_without_hard_links_and_never_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: type[OSError]
) -> None:
    from drdg.tracking.store import _make_sqlite

    class Client:
        def __init__(self, tracking_uri: str) -> None:
            self.database = Path(tracking_uri.removeprefix("sqlite:///"))

        def search_experiments(self, max_results: int) -> None:
            self.database.write_text("tables")

    def link(*_: object) -> None:
        raise refusal()

    monkeypatch.setattr("mlflow.MlflowClient", Client)
    monkeypatch.setattr("os.link", link)
    database = tmp_path / "mlflow.db"
    if refusal is FileExistsError:
        database.write_text("another's")
    _make_sqlite(database)
    assert database.read_text() == ("another's" if refusal is FileExistsError else "tables")
    assert list(tmp_path.iterdir()) == [database]
