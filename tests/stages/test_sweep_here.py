"""``launch/sweep.py`` whole, on this machine: all of Table I in one process, and Table II by jobs within its cores."""

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

import psutil
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from drdg.config import Config, to_yaml
from drdg.experiments import ROWS

ROOT = Path(__file__).parents[2]
TABLE_I = ("baseline", "benjdira", "adaptsegnet", "mucss", "rdg", "drdg")
SPLIT = ('target.archive.splits={val: ["1"], test: ["0"]}', "evaluation.split=test")
NARROW = (
    *(f"{method}.{knob}=2" for method in ("benjdira", "dualgan") for knob in ("width", "critic_width")),
    "output_space.width=2",
)
pytestmark = pytest.mark.timeout(1500)


class Sweep:
    """The command and its folder."""

    def __init__(self, config: Config, folder: Path, *options: str):
        path = folder / "config.yaml"
        path.write_text(to_yaml(config))
        self.words = [sys.executable, "launch/sweep.py", "--config", str(path), *options]
        self.root = config.run.root

    def start(self, *more: str) -> subprocess.Popen[str]:
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        # The person's own, whatever the tests were started with.
        preparing = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.default_int_handler)}
        outside = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
        return subprocess.Popen(
            [*self.words, *more], cwd=ROOT, stdin=subprocess.DEVNULL, env=outside, **pipes, **preparing
        )

    def run(self, *more: str) -> tuple[int, str]:
        started = self.start(*more)
        said = started.communicate()[0]
        return started.returncode, said

    def folder(self) -> Path:
        (folder,) = [path.parent for path in self.root.glob("*/sweep.json")]
        return folder

    def runs(self) -> list[Run]:
        client = MlflowClient(f"sqlite:///{self.folder()}/mlflow.db")
        return list(client.search_runs([found.experiment_id for found in client.search_experiments()]))


def test_all_of_table_i_in_this_process(small: Callable[..., Config], tmp_path: Path) -> None:
    """Two iterations of every stage, as ``--smoke`` makes them, though the configuration asks for far more."""
    config = small(*NARROW, *SPLIT, "gan.iterations=null", "gan.epochs=1000", "segmentation.iterations=5000")
    sweep = Sweep(config, tmp_path, "--table1", "--seeds", "3", "--smoke", "--executor", "debug")
    status, said = sweep.run()
    assert status == 0, said
    runs = sweep.runs()
    kinds = Counter(run.data.tags.get("drdg.kind") for run in runs)
    assert kinds["sweep"] == 1
    assert {run.data.tags["drdg.row"] for run in runs if run.data.tags.get("drdg.stage") == "evaluate"} == set(TABLE_I)
    trained = [run for run in runs if run.data.tags.get("drdg.stage") in ("gan", "segment")]
    # What MUCSS learns from is made once, by DualGAN and by resizing, though neither was asked for.
    assert Counter(run.data.tags["drdg.row"] for run in trained if run.data.tags["drdg.stage"] == "gan") == Counter(
        name for name in (*TABLE_I, "dualgan") if ROWS[name].is_trained
    )
    for run in runs:
        assert {"drdg.row", "drdg.seed", "drdg.direction"} <= set(run.data.tags), run.info.run_name
        units = [name for name in run.data.metrics if name.startswith("target/")]
        assert all("percent" in name for name in units), units
    page = (sweep.folder() / "report/index.html").read_text()
    assert "MUCSS-style" in page
    # Typed again there is nothing to do.
    before = {run.info.run_id for run in runs}
    assert sweep.run()[0] == 0
    assert {run.info.run_id for run in sweep.runs()} == before


@pytest.fixture
def here(small: Callable[..., Config], tmp_path: Path) -> Iterator[Sweep]:
    config = small(*SPLIT, "sweep.local_cores=1")
    sweep = Sweep(config, tmp_path, "--ablation", "--seeds", "0", "--executor", "local")
    yield sweep
    sweep.run("--cancel")


def test_on_one_machine_the_same_command_goes_on_without_it(here: Sweep) -> None:
    first = here.start()
    jobs = None
    while jobs is None or not any(path.parent.name == "gan" for path in jobs.rglob("note.json")):
        assert first.poll() is None, first.communicate()[0]
        time.sleep(0.2)
        jobs = next(iter(here.root.glob("*/jobs")), None)
    first.kill()
    first.communicate()
    busy = working(here)
    status, said = here.run()
    assert status == 0, said
    # sweep.local_cores=1: one job at a time, on one core, also while nobody looked on.
    assert busy <= 1
    for order in json.loads((here.folder() / "orders.json").read_text())["orders"]:
        assert len(order["on_cores"]) <= 1
    runs = here.runs()
    counts = Counter((run.data.tags.get("drdg.row"), run.data.tags.get("drdg.stage")) for run in runs)
    for row in ("rdg", "drdg_wo_dsl", "drdg_wo_dccl", "drdg"):
        for stage in ("gan", "translate", "segment", "evaluate"):
            assert counts[row, stage] == 1
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert not [run for run in runs if int(run.data.tags.get("drdg.restarts", 0))]  # nothing was begun twice
    for kind in ("*.tex", "*.csv", "*.md", "index.html"):
        assert list((here.folder() / "report").rglob(kind)), kind


def working(sweep: Sweep) -> int:
    """How many of the sweep's jobs have a process that works, at this moment."""
    mine = 0
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        mine += "submitit.core._submit" in words and any(str(sweep.root) in word for word in words)
    return mine


def test_ctrl_c_stops_looking_and_cancel_ends_it(here: Sweep) -> None:
    first = here.start()
    while not list(here.root.glob("*/jobs/*/shards/note.json")):
        assert first.poll() is None, first.communicate()[0]
        time.sleep(0.2)
    os.kill(first.pid, signal.SIGINT)
    said = first.communicate()[0]
    assert first.returncode == 0, said
    assert "--cancel" in said
    assert working(here) == 1
    assert here.run("--cancel")[0] == 0
    while working(here):
        time.sleep(0.2)
