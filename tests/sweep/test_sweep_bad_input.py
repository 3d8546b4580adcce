"""What a user can mend ends the real command with one sentence and a status, and starts and loses nothing."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from fleet import DEMO, places, planned

from drdg.sweep.record import RECORD, place
from drdg.tracking import Tracking

REPOSITORY = Path(__file__).parents[2]
ROWS = ("--rows", "rdg", "--seeds", "0")
Refused = Callable[..., str]


@pytest.fixture
def refused(tmp_path: Path) -> Refused:
    """The one sentence that the command ends with, having started nothing."""

    def run(*typed: str, rows: tuple[str, ...] = ROWS) -> str:
        command = [sys.executable, REPOSITORY / "launch/sweep.py", "--config", DEMO, *rows, "--executor", "local"]
        variables = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
        done = subprocess.run(
            [*command, *places(tmp_path), *typed],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
            env=variables,
            cwd=REPOSITORY,
        )
        assert done.returncode not in (0, None), done.stdout
        (line,) = done.stderr.strip().splitlines()
        assert line.startswith("error: ")
        assert not list(tmp_path.rglob("orders.json"))
        assert not list(tmp_path.rglob("note.json"))
        return line

    return run


@pytest.fixture(scope="module")
def made_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store as MLflow makes it, which takes seconds."""
    folder = tmp_path_factory.mktemp("store")
    Tracking(f"sqlite:///{folder / 'mlflow.db'}", "drdg", folder)
    return folder / "mlflow.db"


@pytest.fixture
def database(made_store: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copy(made_store, tmp_path / "mlflow.db"))


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (("--rows", "rdg,drgd"), ["'drgd' is no row", "did you mean 'drdg'"]),
        (("--rows", "rdg", "--seeds", "0,1,1"), ["--seeds: 1 is named twice"]),
        (("--seeds", "0"), ["--table1, --ablation", "--rows"]),
        (("--rows", "rdg", "--directions", "demo"), ["--config", "only one of the two"]),
        (("--rows", "rdg", "--set", "tracking.uri=runs/mlruns"), ["tracking.uri=runs/mlruns is not a store"]),
        (("--rows", "rdg", "--cancel"), ["holds no sweep"]),
        (("--rows", "rdg", "--sync"), ["holds no sweep"]),
    ],
)
def test_what_is_typed_wrong(rows: tuple[str, ...], words: list[str], refused: Refused, tmp_path: Path) -> None:
    sentence = refused(rows=rows)
    for word in words:
        assert word in sentence
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    assert "file" in refused(f"run.root={tmp_path / 'file'}")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(refused: Refused, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    assert "Permission denied; give yourself permission or choose another place" in refused(f"run.root={closed}")


def test_a_store_that_another_process_holds(refused: Refused, database: Path, tmp_path: Path) -> None:
    before = database.read_bytes()
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        sentence = refused(f"tracking.uri=sqlite:///{database}")
        connection.execute("ROLLBACK")
    assert f"the MLflow store {database} cannot be written (database is locked)" in sentence
    assert database.read_bytes() == before
    assert not list(tmp_path.rglob(RECORD))


def test_a_store_of_a_newer_schema(refused: Refused, database: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'feedfacefeed'")
        connection.commit()
    before = database.read_bytes()
    sentence = refused(f"tracking.uri=sqlite:///{database}")
    assert "its schema is of another MLflow; upgrade MLflow" in sentence
    assert database.read_bytes() == before
    assert not list(tmp_path.rglob(RECORD))


def test_a_store_that_does_not_answer(refused: Refused, tmp_path: Path) -> None:
    assert "no MLflow server answers at http://127.0.0.1:1" in refused("tracking.uri=http://127.0.0.1:1")
    assert not list(tmp_path.rglob(RECORD))


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(mounting, capture_output=True, check=False).returncode:
        pytest.skip("only root may make a small disk")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_disk_that_is_full(refused: Refused, full_disk: Path) -> None:
    mine = full_disk / "mine"
    mine.write_bytes(b"x" * 100_000)
    assert "full" in refused(f"run.root={full_disk}") or "No space left" in refused(f"run.root={full_disk}")
    assert mine.read_bytes() == b"x" * 100_000
    assert not list(full_disk.rglob(RECORD))


def test_a_disk_that_is_full_when_the_plan_is_written(refused: Refused, full_disk: Path, database: Path) -> None:
    with pytest.raises(OSError, match="No space left"):
        (full_disk / "filling").write_bytes(b"x" * 300_000)
    sentence = refused(f"run.root={full_disk}", f"tracking.uri=sqlite:///{database}")
    assert "No space left on device; make room and start the same command again" in sentence
    assert not list(full_disk.rglob(RECORD))


def test_the_runs_are_made_once_also_for_more_seeds_and_the_plan_is_kept_with_them(
    database: Path, tmp_path: Path
) -> None:
    """On a real store, which the reports read."""
    uri = f"sqlite:///{database}"
    tracking = Tracking(uri, "drdg", tmp_path)
    record = None
    for seeds in ("0", "0", "0,1"):
        sweep = planned(tmp_path, rows="rdg", seeds=seeds, store=uri)
        sweep.folder.mkdir(exist_ok=True)
        placed = place(sweep, sweep, record, tracking)
        record = placed.jobs["report"].sweep
    with closing(sqlite3.connect(database)) as connection:
        names = [name for (name,) in connection.execute("SELECT name FROM runs ORDER BY start_time")]
    direction = sweep.directions[0].name
    assert names == ["demo-sweep", f"{direction}/seed0/rdg", f"{direction}/seed1/rdg"]
    from drdg.tracking.query import open_sweep

    found = open_sweep(uri, "drdg", "demo-sweep", tmp_path)
    assert [cell.key for cell in found.cells] == names[1:]
    assert found.plan["seeds"] == [0, 1]
    assert found.plan["jobs"].keys() == sweep.jobs.keys()
