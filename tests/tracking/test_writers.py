"""Sixteen processes log at once, and every value of theirs is there: on sqlite, through a server, and by the spool."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from stores import client

from drdg.tracking import Tracking, sync

WRITERS, STEPS = 16, 300
NAMES = ("loss/critic", "loss/generator")

# Importing MLflow takes seconds of a core, so it is done once, before the processes part; stores are opened after.
WRITE = """
import json, os, sys
from pathlib import Path
import mlflow.store.tracking.sqlalchemy_store, mlflow.tracking
from drdg.tracking import Tracking

uri, spool, folder, writers, steps, names, behind = json.loads(sys.argv[1])
go_read, go_write = os.pipe()
children = []
for number in range(writers):
    if (child := os.fork()) == 0:
        os.close(go_write)
        os.read(go_read, 1)  # until the last has been made
        tracking = Tracking(uri, "towns", Path(folder), spool=spool and Path(spool), in_background=behind)
        with tracking.stage(f"writer{number}", "p", {"drdg.digest": str(number)}, {"number": number}) as handle:
            for step in range(steps):
                handle.log({name: number + step / 1000 for name in names}, step)
                if step % 50 == 49:
                    handle.try_to_flush()
        os._exit(0)
    children.append(child)
os.close(go_read)
os.close(go_write)
sys.exit(sum(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0 for child in children))
"""


def write(uri: str | None, folder: Path, spool: Path | None, *, behind: bool) -> None:
    given = json.dumps([uri, spool and str(spool), str(folder), WRITERS, STEPS, NAMES, behind])
    assert subprocess.run([sys.executable, "-c", WRITE, given], check=False).returncode == 0


def check(tracking: Tracking) -> None:
    runs = client(tracking).search_runs([tracking.store.experiment_id], max_results=1000)
    runs = [run for run in runs if run.info.run_name.startswith("writer")]
    assert len(runs) == WRITERS
    for run in runs:
        number = int(run.info.run_name.removeprefix("writer"))
        assert run.info.status == "FINISHED"
        assert run.data.params == {"number": str(number)}
        for name in NAMES:
            values = client(tracking).get_metric_history(run.info.run_id, name)
            found = sorted((value.step, value.value) for value in values)
            assert found == [(step, number + step / 1000) for step in range(STEPS)], (number, name)


@pytest.mark.parametrize("behind", [False, True])
def test_sixteen_writers_of_one_sqlite_file_lose_nothing(tracking: Tracking, folder: Path, behind: bool) -> None:
    write(None, folder, None, behind=behind)
    check(tracking)


def test_sixteen_writers_of_one_server_lose_nothing(server: str, tmp_path: Path) -> None:
    write(server, tmp_path, None, behind=True)
    check(Tracking(server, "towns", tmp_path))


def test_sixteen_writers_of_one_spool_lose_nothing(
    away: Tracking, tracking: Tracking, spool: Path, tmp_path: Path
) -> None:
    write(away.uri, tmp_path, spool, behind=True)
    assert sync(spool, tracking) == WRITERS
    check(tracking)


def test_sixteen_writers_fetched_to_a_server_lose_nothing(
    away: Tracking, server: str, spool: Path, tmp_path: Path
) -> None:
    write(away.uri, tmp_path, spool, behind=False)
    there = Tracking(server, "fetched", tmp_path)
    assert sync(spool, there) == WRITERS
    check(there)
