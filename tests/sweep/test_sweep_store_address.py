"""Where a sweep's MLflow store is: it may come back elsewhere, and the password in its address stays in one file."""

from __future__ import annotations

import argparse
import io
import json
import pickle
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fleet import DEMO, Fleet, places, planned
from rich.console import Console

import drdg.tracking
from drdg import cli
from drdg.config import Config
from drdg.stages.cell import tracking_of
from drdg.sweep.command import Surroundings, act
from drdg.sweep.options import add_arguments
from drdg.sweep.record import current_uri, place, read_record
from drdg.sweep.spec import REPORT
from drdg.tracking import Tracking

SECRET = "postgresql://me:secret@host/runs"
Command = Callable[..., str]


@pytest.fixture(autouse=True)
def no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "DRDG_SPOOL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store as MLflow makes it, which takes seconds."""
    folder = tmp_path_factory.mktemp("store")
    Tracking(f"sqlite:///{folder / 'mlflow.db'}", "drdg", folder)
    return folder / "mlflow.db"


@pytest.fixture
def settled() -> list[Mapping[str, Any]]:
    return []


@pytest.fixture
def command(tmp_path: Path, settled: list[Mapping[str, Any]]) -> Command:
    def run(fleet: Fleet, *typed: str) -> str:
        arguments = cli.parser("")
        add_arguments(arguments)
        which = ["--config", DEMO, "--rows", "rdg", "--seeds", "0"]
        options: argparse.Namespace = arguments.parse_intermixed_args([*which, *typed, *places(tmp_path)])
        console = Console(file=io.StringIO(), width=80)
        return act(options, Surroundings(lambda *_: fleet, lambda _: "local", settled.append, console, look_s=0))

    return run


def at(database: Path) -> str:
    return f"sqlite:///{database}"


@pytest.fixture
def old(tmp_path: Path, empty_store: Path) -> Path:
    return Path(shutil.copy(empty_store, tmp_path / "old.db"))


@pytest.fixture
def other(tmp_path: Path, empty_store: Path) -> Path:
    """A store that knows nothing of the sweep."""
    return Path(shutil.copy(empty_store, tmp_path / "other.db"))


def uri_of(folder: Path) -> str:
    return str(json.loads((folder / "sweep.json").read_text())["uri"])


def test_a_store_that_has_the_sweeps_run_is_the_same_at_another_address(
    command: Command, tmp_path: Path, old: Path, other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, fleet = tmp_path / "demo-sweep", Fleet()
    assert command(fleet, f"tracking.uri={at(old)}") == ""
    count = len(fleet.handed_in)
    with pytest.raises(ValueError, match=rf"kept in tracking\.uri={at(old)}; set that again"):
        command(fleet, "evaluation.overlap=0.25", f"tracking.uri={at(other)}")
    assert (len(fleet.handed_in), uri_of(folder)) == (count, at(old))
    new = old.rename(tmp_path / "new.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", at(new))
    run_id = json.loads((folder / "sweep.json").read_text())["run_id"]
    assert command(fleet, "evaluation.overlap=0.25") == ""
    assert len(fleet.handed_in) == count + 2
    assert uri_of(folder) == fleet.jobs[REPORT].sweep["uri"] == at(new)
    assert fleet.jobs[REPORT].sweep["run_id"] == run_id


def test_jobs_that_wait_are_told_by_a_start_that_hands_in_nothing(
    command: Command, tmp_path: Path, old: Path, other: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, fleet = tmp_path / "demo-sweep", Fleet(frozen=True)
    command(fleet, "--detach", f"tracking.uri={at(old)}")
    count = len(fleet.handed_in)
    job = fleet.jobs[fleet.handed_in[0]]
    command(fleet, "--detach", f"tracking.uri={at(other)}")
    assert "the address of the MLflow store stays as it was" in capsys.readouterr().out
    assert uri_of(folder) == at(old)
    new = old.rename(tmp_path / "new.db")
    command(fleet, "--detach", f"tracking.uri={at(new)}")
    assert len(fleet.handed_in) == count
    assert uri_of(folder) == tracking_of(job, Config.model_validate(job.config)).uri == at(new)


def test_what_is_handed_in_before_takes_the_address_of_now(tmp_path: Path, old: Path, other: Path) -> None:
    sweep = planned(tmp_path, rows="rdg", seeds="0")
    job = next(iter(sweep.jobs.values()))
    baked = replace(job, config={**job.config, "tracking": {"uri": at(other), "experiment": "drdg"}})
    config = Config.model_validate(baked.config)
    assert current_uri(sweep.folder, "as before") == "as before"
    sweep.folder.mkdir()
    assert tracking_of(baked, config).uri == at(other)
    (sweep.folder / "sweep.json").write_text("{")
    assert current_uri(sweep.folder, None) is None
    (sweep.folder / "sweep.json").write_text(json.dumps({"uri": at(old)}))
    assert tracking_of(baked, config).uri == at(old)


def test_sync_goes_where_it_is_told_if_the_sweep_is_there(
    command: Command, tmp_path: Path, old: Path, other: Path, settled: list[Mapping[str, Any]]
) -> None:
    folder, fleet = tmp_path / "demo-sweep", Fleet()
    command(fleet, f"tracking.uri={at(old)}")
    with pytest.raises(ValueError, match=rf"kept in tracking\.uri={at(old)}; set that again"):
        command(fleet, "--sync", f"tracking.uri={at(other)}")
    assert settled == []
    new = old.rename(tmp_path / "new.db")
    command(fleet, "--sync", f"tracking.uri={at(new)}")
    command(fleet, "--sync")
    assert [record["uri"] for record in settled] == [at(new)] * 2
    assert uri_of(folder) == at(new)


class Remote:
    """A store behind a password."""

    def __init__(self) -> None:
        self.uri, self.shown = SECRET, SECRET.replace("secret", "***")
        self.seen: list[object] = []

    def place(self, name: str, *values: object) -> str:
        self.seen.append(values)
        return name.replace("/", "-")

    def join(self, run_id: str) -> Any:
        return SimpleNamespace(text=lambda *values: self.seen.append(values), tags=self.seen.append)


@pytest.mark.parametrize("by", ["environment", "configuration"])
def test_a_password_is_in_the_record_alone_which_its_owner_alone_reads(
    by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = planned(tmp_path, rows="rdg", seeds="0")
    if by == "environment":
        monkeypatch.setenv("MLFLOW_TRACKING_URI", SECRET)
    sweep = planned(tmp_path, rows="rdg", seeds="0", **({"store": SECRET} if by == "configuration" else {}))
    assert sweep.uri == SECRET
    assert [job.digest for job in sweep.jobs.values()] == [job.digest for job in plain.jobs.values()]
    sweep.folder.mkdir()
    path = sweep.folder / "sweep.json"
    path.write_text("by an earlier start, for all to read")
    path.chmod(0o644)
    store = Remote()
    placed = place(sweep, sweep, None, store)  # type: ignore[arg-type]
    assert "secret" not in str(store.seen)
    for job in placed.jobs.values():
        assert job.config["tracking"]["uri"] is None
        assert "secret" not in json.dumps(job.as_json())
        assert b"secret" not in pickle.dumps(job)
    assert current_uri(sweep.folder, None) == SECRET
    assert path.stat().st_mode & 0o777 == 0o600
    assert [one.name for one in sweep.folder.iterdir()] == ["sweep.json"]
    # A start after it keeps it so.
    placed = place(sweep, sweep, read_record(sweep.folder), store)  # type: ignore[arg-type]
    assert path.stat().st_mode & 0o777 == 0o600
    assert "secret" not in json.dumps(placed.jobs[REPORT].as_json())


def test_whether_a_store_has_a_run(old: Path, tmp_path: Path) -> None:
    tracking = drdg.tracking.Tracking(at(old), "drdg", tmp_path)
    run_id = tracking.place("sweep", None, {"drdg.digest": "1"}, {})
    assert tracking.has_run(run_id)
    assert not tracking.has_run("0" * 32)
    away = Tracking("http://127.0.0.1:9", "drdg", tmp_path, spool=tmp_path / "spool")
    with pytest.raises(ValueError, match="no MLflow server answers"):
        away.has_run(run_id)
