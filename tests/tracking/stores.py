"""What tests of the tracking share: an MLflow server, and what a store has."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

from drdg.tracking import Tracking

TAGS = {"drdg.digest": "abc", "drdg.row": "drdg", "drdg.seed": 0, "drdg.stage": "gan"}
HANGS_S = 300


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@contextmanager
def running_server(folder: Path) -> Iterator[str]:
    """An MLflow server with the database in ``folder``, and its address."""
    port = free_port()
    with (folder / "server.log").open("wb") as log:
        command = [
            *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "2"),
            *("--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "files")),
        ]
        environment = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=folder, start_new_session=True)
        try:
            wait_for(lambda: answers(f"http://127.0.0.1:{port}/health") or died(process, folder / "server.log"))
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(process.pid, 15)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, 9)
                process.wait()


def answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=10) as answer:
            return answer.status == 200
    except OSError:
        return False


def died(process: subprocess.Popen[bytes], log: Path) -> bool:
    assert process.poll() is None, log.read_text()
    return False


def wait_for(condition: Callable[[], object]) -> None:
    """Until the condition holds; the limit is no measure of speed but there to end a test that hangs."""
    end = time.monotonic() + HANGS_S
    while not condition():
        assert time.monotonic() < end, "it never came to be"
        time.sleep(0.05)


def client(tracking: Tracking):
    return tracking.store.client


def all_runs(tracking: Tracking) -> list:
    return list(client(tracking).search_runs([tracking.store.experiment_id]))


def history(tracking: Tracking, run_id: str, name: str) -> list[tuple[int, float]]:
    return sorted((value.step, value.value) for value in client(tracking).get_metric_history(run_id, name))
