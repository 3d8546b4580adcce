"""``slurm/mlflow_server.sbatch``: a server that jobs on other nodes log to, and that is there again after its time."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from drdg.tracking import Tracking

ROOT = Path(__file__).parents[2]
SCRIPT = "slurm/mlflow_server.sbatch"
HANGS_S = 300

SCONTROL = """#!/bin/sh
echo "$@" >> {calls}
case "$1-$2" in
    show-job) echo "JobId=7 JobState=RUNNING Reason=None Restarts=0 x=y" ;;
    show-node) exit 1 ;;
esac
"""


def wait_for(condition: Callable[[], object]) -> None:
    end = time.monotonic() + HANGS_S
    while not condition():
        assert time.monotonic() < end, "it never came to be"
        time.sleep(0.2)


class Batch:
    """The script as Slurm starts it, on this machine."""

    def __init__(self, folder: Path, **variables: str) -> None:
        self.folder, self.log, self.calls = folder / "kept here", folder / "job.log", folder / "calls"
        tools = folder / "tools"
        tools.mkdir(exist_ok=True)
        (tools / "scontrol").write_text(SCONTROL.format(calls=self.calls))
        (tools / "scontrol").chmod(0o755)
        plain = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "MLFLOW"))}
        slurms = {"SLURM_SUBMIT_DIR": str(ROOT), "SLURM_JOB_ID": "7", "DRDG_VENV": sys.prefix}
        path = os.pathsep.join([str(tools), plain["PATH"]])
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                ["bash", SCRIPT, str(self.folder)],
                cwd=ROOT,
                env=plain | slurms | {"PATH": path, "DRDG_MLFLOW_BIND": "127.0.0.1"} | variables,
                stdout=log,
                stderr=log,
            )

    @property
    def address(self) -> Path:
        return self.folder / "address.sh"

    def uri(self) -> str:
        wait_for(lambda: self.address.exists() or self.process.poll() is not None)
        assert self.address.exists(), self.log.read_text()
        line = self.address.read_text()
        assert line in self.log.read_text()
        return line.strip().removeprefix("export MLFLOW_TRACKING_URI=")

    def end(self, number: int) -> int:
        self.process.send_signal(number)
        return self.process.wait(HANGS_S)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Batch]]:
    started: list[Batch] = []

    def make(**variables: str) -> Batch:
        started.append(Batch(tmp_path, **variables))
        return started[-1]

    yield make
    for batch in started:
        if batch.process.poll() is None:
            batch.end(signal.SIGTERM)


@pytest.mark.timeout(1200)
def test_it_serves_says_where_and_is_queued_again_before_its_time(start: Callable[..., Batch], tmp_path: Path) -> None:
    batch = start()
    uri = batch.uri()
    with Tracking(uri, "towns", tmp_path).stage("gan", "p", {"drdg.digest": "x"}, {}) as stage:
        stage.log({"loss": 1.0}, 1)
        stage.text("kept", "note.txt")
    assert (batch.folder / "mlflow.db").is_file()
    assert [path.read_text() for path in (batch.folder / "mlartifacts").rglob("note.txt")] == ["kept"]

    other = start()
    assert other.process.wait(HANGS_S) == 2
    assert "another server has" in other.log.read_text()

    assert batch.end(signal.SIGUSR2) == 0
    assert not batch.address.exists()
    assert "requeue 7" in batch.calls.read_text()
    assert "is queued again" in batch.log.read_text()
    # The next start has the same runs, at the same port.
    again = start()
    assert again.uri() == uri
    assert Tracking(uri, "towns", tmp_path).store.client.get_run(stage.run_id).data.metrics == {"loss": 1.0}
    before = batch.calls.read_text()
    assert again.end(signal.SIGTERM) == 0  # as scancel does
    assert batch.calls.read_text() == before
    with socket.socket() as trial:
        assert trial.connect_ex(("127.0.0.1", int(uri.rpartition(":")[2]))) != 0


def test_a_port_that_is_taken_is_named(start: Callable[..., Batch]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        batch = start(DRDG_MLFLOW_PORT=str(taken.getsockname()[1]))
        assert batch.process.wait(HANGS_S) == 2
    assert "set DRDG_MLFLOW_BIND or DRDG_MLFLOW_PORT" in batch.log.read_text()


def test_outside_a_checkout_it_says_so(tmp_path: Path) -> None:
    environment = os.environ | {"SLURM_SUBMIT_DIR": str(tmp_path)}
    done = subprocess.run(
        ["bash", str(ROOT / SCRIPT)], env=environment, capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 2
    assert "is no checkout of drdg" in done.stderr


LOG = """
import sys
from pathlib import Path
from drdg.tracking import Tracking
with Tracking(None, "towns", Path("unused")).stage("gan", "p", {"drdg.digest": "x"}, {}) as stage:
    stage.log({"loss": 1.0}, 1)
print(stage.run_id)
"""


@pytest.mark.xdist_group("slurm")
@pytest.mark.timeout(1200)
def test_jobs_of_another_node_log_to_it(cluster: Any, tmp_path: Path) -> None:
    log, address = tmp_path / "server.log", tmp_path / "kept" / "address.sh"
    shape = ("--nodelist=node1", "--mem=1500M", "--cpus-per-task=1")
    server = cluster.submit(*shape, f"--output={log}", SCRIPT, str(tmp_path / "kept"))
    wait_for(lambda: address.exists() or cluster.job(server)["JobState"] == "FAILED")
    assert address.exists(), log.read_text()
    assert "127.0.0.1" not in address.read_text()
    code = tmp_path / "log.py"
    code.write_text(LOG)
    said = tmp_path / "client.log"
    wrap = f". '{address}' && '{sys.executable}' '{code}'"
    # Where the package lies is the checkout, in which jobs begin.
    ended = cluster.wait(cluster.submit("--nodelist=node2", "--mem=1000M", f"--output={said}", f"--wrap={wrap}"))
    assert ended["JobState"] == "COMPLETED", said.read_text() + log.read_text()
    cluster.call("scancel", server)
    assert cluster.wait(server)["JobState"] == "CANCELLED"
    assert not address.exists()
    client = Tracking(f"sqlite:///{tmp_path}/kept/mlflow.db", "towns", tmp_path).store.client
    assert client.get_run(said.read_text().split()[-1]).data.metrics == {"loss": 1.0}
