"""Stores for tests: one with nothing in it yet, one behind a server, and a place where none can be."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from stores import free_port, running_server

from drdg.tracking import Tracking
from drdg.tracking.store import _make_sqlite


@pytest.fixture(autouse=True)
def no_inherited_store(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "DRDG_SPOOL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("drdg.tracking.spool._told", set())


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with its tables and nothing in it: making one takes seconds, copying one nothing."""
    database = tmp_path_factory.mktemp("store") / "mlflow.db"
    _make_sqlite(database)
    return database


@pytest.fixture
def folder(tmp_path: Path, empty_store: Path) -> Path:
    folder = tmp_path / "a sweep's folder, 100 %"
    folder.mkdir()
    shutil.copy(empty_store, folder / "mlflow.db")
    return folder


@pytest.fixture
def tracking(folder: Path) -> Tracking:
    return Tracking(None, "towns", folder)


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def away(spool: Path, tmp_path: Path) -> Tracking:
    """A store that does not answer, with a spool."""
    return Tracking(f"http://127.0.0.1:{free_port()}", "towns", tmp_path / "nowhere", spool=spool)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(empty_store, folder / "mlflow.db")
    with running_server(folder) as uri:
        yield uri
