"""One sweep in one store, with something of everything that can become of a cell, and the report of it."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from sweep_stores import IRRG, Reported, some_of_everything, write_sweep

from drdg.comparison.store_report import write_report
from drdg.tracking import Tracking
from drdg.tracking.query import open_sweep


@pytest.fixture(scope="session")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Reported:
    """The report; nobody may change it."""
    folder = tmp_path_factory.mktemp("sweep")
    tracking = Tracking(f"sqlite:///{folder / 'mlflow.db'}", "drdg", folder)
    cells = some_of_everything()
    run_id = write_sweep(tracking, cells, name="tables", folder=folder)
    shown = io.StringIO()
    out = folder / "out"
    record = open_sweep(tracking.uri, "drdg", "tables")
    files = write_report(record, out, Console(file=shown, width=160))
    assert (out / IRRG).is_dir()
    return Reported(folder, run_id, cells, out, files, shown.getvalue())
