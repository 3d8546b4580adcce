"""``launch/sweep.py`` on a real cluster: killed, robbed of a job and a node, and typed again, it ends well."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from drdg.config import Config, to_yaml

ROOT = Path(__file__).parents[2]
ROWS = ("rdg", "drdg_wo_dsl", "drdg_wo_dccl", "drdg")
SEEDS = (0, 1)
# Each of its 33 stages is a process of ten seconds, and there are two cores.
pytestmark = [pytest.mark.xdist_group("slurm"), pytest.mark.timeout(2400)]

SMALL = "{nodes: 1, processes: 1, gpus: 0, cpus: 1, memory_gb: 0.5, minutes: 60}"
CLUSTER = (
    f"sweep.shards={SMALL}",
    f"sweep.single={SMALL}",
    f"sweep.gan={SMALL.replace('nodes: 1', 'nodes: 2')}",
    "gan.batch_size=2",
    "gan.iterations=6",
    "gan.checkpoint_every=2",
    'target.archive.splits={val: ["1"], test: ["0"]}',
    "evaluation.split=test",
)


class Command:
    """``launch/sweep.py`` as a person types it, over and over, in a folder of its own."""

    def __init__(self, cluster: Any, config: Path, folder: Path):
        self.cluster, self.config, self.folder = cluster, config, folder
        self.log = config.parent / "command.log"
        self.started: subprocess.Popen[bytes] | None = None

    def start(self, *more: str) -> None:
        """Type it; it goes on by itself."""
        words = ["--ablation", "--seeds", "0,1", "--config", self.config, "--name", self.folder.name, *more]
        with self.log.open("ab") as log:
            self.started = subprocess.Popen(
                [sys.executable, "launch/sweep.py", *map(str, words)],
                cwd=ROOT,
                env=self.cluster.variables,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def end(self) -> int:
        """Wait for its end; its exit status."""
        assert self.started is not None
        return self.started.wait()

    def kill(self) -> None:
        """It is gone, without a word."""
        assert self.started is not None
        self.started.kill()
        self.started.wait()

    def running(self, kind: str) -> dict[str, dict[str, str]]:
        """The jobs that run now and whose names have ``kind``, by number, as the controller has them."""
        found = {}
        for number in self.cluster.call("squeue", "--noheader", "--states=R", "--array", "--format=%i").split():
            job = self.cluster.job(number)
            if job.get("JobState") == "RUNNING" and kind in job["JobName"]:
                found[number] = job
        return found

    def wait_running(self, kind: str, *, beside: str = "") -> tuple[str, dict[str, str]]:
        """Wait for such a job, other than ``beside``; the command must be at it."""
        while not (found := {number: job for number, job in self.running(kind).items() if number != beside}):
            assert self.started is None or self.started.poll() in (None, -signal.SIGKILL), self.log.read_text()
            time.sleep(0.2)
        return next(iter(found.items()))

    def notes(self) -> dict[str, dict[str, Any]]:
        """What each job has said last, by its key."""
        jobs = self.folder / "jobs"
        return {str(path.parent.relative_to(jobs)): json.loads(path.read_bytes()) for path in jobs.rglob("note.json")}

    def runs(self) -> list[Run]:
        """All of MLflow's."""
        client = MlflowClient(f"sqlite:///{self.folder}/mlflow.db")
        return list(client.search_runs([found.experiment_id for found in client.search_experiments()]))


@pytest.fixture
def command(cluster: Any, small: Callable[..., Config], tmp_path: Path) -> Iterator[Command]:
    config = small(*CLUSTER)
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(config))
    command = Command(cluster, path, tmp_path / "my runs/tables")
    yield command
    command.start("--cancel")
    command.end()


def finished_trainings(folder: Path) -> Counter[str]:
    """How often each stage says in its logs that its job was done, by the job's key."""
    said: Counter[str] = Counter()
    for path in folder.rglob("*_0_log.out"):
        key = ""
        for line in path.read_text(errors="replace").splitlines():
            if line.startswith("drdg: ") and ", start " in line:
                key = line.removeprefix("drdg: ").partition(", job ")[0]
            if "Job completed successfully" in line and key:
                said[key] += 1
    return said


def test_killed_robbed_and_typed_again_it_ends_with_both_tables(cluster: Any, command: Command) -> None:
    command.start()
    # The command, a job and a node, in the middle: when translators train, on two nodes each.
    number, _ = command.wait_running("gan")
    command.kill()
    cluster.call("scancel", number)
    _, other = command.wait_running("gan", beside=number)
    node = other["BatchHost"]
    cluster.crash(node)
    command.start()
    while cluster.states()[node].rstrip("*") not in ("down", "drained"):
        time.sleep(0.5)
    cluster.start(node)
    status = command.end()
    said = command.log.read_text()
    if status:  # the job that was cancelled before the command came back may have cost the report: the same again
        assert "error:" in said
        command.start()
        assert command.end() == 0, command.log.read_text()

    # Every stage once: by what was done, by its notes and by MLflow.
    stages = [
        f"seed{seed}/{row}/{stage}"
        for seed in SEEDS
        for row in ROWS
        for stage in ("gan", "translate", "segment", "evaluate")
    ]
    notes = command.notes()
    done = {key.partition("/")[2]: note for key, note in notes.items() if note["said"] == "done"}
    assert set(done) >= {*stages, "shards"}
    assert notes["report"]["said"] == "done"
    repeated = {key: count for key, count in finished_trainings(command.folder / "logs").items() if count > 1}
    assert set(repeated) <= {"report"}, repeated
    runs = command.runs()
    kinds = Counter(run.data.tags.get("drdg.kind") for run in runs)
    assert kinds == {"sweep": 1, "cell": len(ROWS) * len(SEEDS), "stage": len(stages) + 1}
    known = Counter((run.info.run_name, run.data.tags.get("mlflow.parentRunId")) for run in runs)
    assert set(known.values()) == {1}
    assert {run.info.status for run in runs} == {"FINISHED"}
    for run in runs:
        assert {"drdg.row", "drdg.seed", "drdg.direction"} <= set(run.data.tags), run.info.run_name

    report = command.folder / "report"
    page = (report / "index.html").read_text()
    for label in ("RDG", "DRDG w/o DSL", "DRDG w/o DCCL", "DRDG"):
        assert label in page
    names = {path.name for path in report.rglob("*") if path.is_file()}
    for kind in (".tex", ".csv", ".md", ".html", ".png"):
        assert any(name.endswith(kind) for name in names), (kind, names)


def test_ctrl_c_only_stops_looking(cluster: Any, command: Command) -> None:
    command.start()
    number, _ = command.wait_running("shards")
    assert command.started is not None
    while "jobs done, " not in command.log.read_text():  # it looks on
        assert command.started.poll() is None, command.log.read_text()
        time.sleep(0.2)
    os.kill(command.started.pid, signal.SIGINT)
    assert command.end() == 0, command.log.read_text()
    assert cluster.job(number)["JobState"] in ("RUNNING", "COMPLETING", "COMPLETED")
    command.start("--cancel")
    assert command.end() == 0
    while cluster.call("squeue", "--noheader", "--format=%i").split():
        time.sleep(0.2)
