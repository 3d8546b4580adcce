"""``slurm/drdg_multinode.sbatch`` on two nodes of a real cluster: a job that fails in every way loses nothing."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient

from drdg.config import Config, to_yaml
from drdg.shards.build import build_shards

SCRIPT = "slurm/drdg_multinode.sbatch"
WIDE = ("--nodes=2", "--ntasks-per-node=2", "--gpus-per-node=0", "--cpus-per-task=1", "--mem-per-cpu=500M")
GOING_ON = ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "REQUEUED", "PREEMPTED", "NODE_FAIL")

# All in one process, as there is one cluster.
pytestmark = pytest.mark.xdist_group("slurm")

SETTINGS = ("gan.iterations=60", "gan.batch_size=4", "gan.checkpoint_every=5", "gan.log_every=8")

Curve = dict[str, list[tuple[int, float]]]


class Run:
    """A training by four ranks in a folder of its own, over shards that all share."""

    def __init__(self, config: Config, folder: Path):
        self.config = config.model_copy(update={"run": config.run.model_copy(update={"root": folder / "runs"})})
        self.folder = self.config.run.directory / "drdg/gan"
        self.log = folder / "job.log"
        self.path = folder / "config.yaml"
        folder.mkdir()
        self.path.write_text(to_yaml(self.config))

    def networks(self) -> dict[str, torch.Tensor]:
        return torch.load(self.folder / "translator.pt", weights_only=True)["networks"]

    def at(self) -> int:
        """The newest checkpoint's iteration."""
        return max(
            (int(path.stem.partition("_")[2]) for path in self.folder.glob("checkpoints/step_*.sha256")), default=0
        )

    def curve(self) -> Curve:
        """What MLflow has of the one run of this training, rates apart."""
        client = MlflowClient(f"sqlite:///{self.config.run.directory.absolute()}/mlflow.db")
        (experiment,) = [found for found in client.search_experiments() if found.name == "drdg"]
        (run,) = client.search_runs([experiment.experiment_id], "tags.`drdg.stage` = 'gan'")
        assert run.info.status == "FINISHED"
        names = [name for name in run.data.metrics if not name.endswith(("per_s", "percent"))]
        history = {name: client.get_metric_history(run.info.run_id, name) for name in names}
        return {name: sorted((metric.step, metric.value) for metric in found) for name, found in history.items()}


@pytest.fixture
def plan(small: Callable[..., Config], tmp_path: Path) -> Callable[[str], Run]:
    """Runs by name, over shards that are built here."""
    config = small(*SETTINGS)
    build_shards(config.source, config.shards, need_label=True)
    build_shards(config.target, config.shards, need_label=False)
    return lambda name: Run(config, tmp_path / name)


def start_on_one_machine(run: Run) -> subprocess.Popen[bytes]:
    """Four ranks by torchrun."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=4"]
    with run.log.open("w") as log:
        return subprocess.Popen(
            [*launcher, "launch/train.py", "--config", run.path], stdout=log, stderr=log, cwd=Path(__file__).parents[2]
        )


def submit(cluster: Any, run: Run) -> str:
    return cluster.submit(*WIDE, f"--output={run.log}", SCRIPT, "--config", run.path)


def wait_for(cluster: Any, job: str, run: Run, is_so: Callable[[dict[str, str]], bool]) -> dict[str, str]:
    """Wait until the job is as wanted; it must not end before."""
    while not is_so(state := cluster.job(job)):
        assert state["JobState"] in GOING_ON, run.log.read_text()
        time.sleep(0.1)
    return state


def wait_for_progress(cluster: Any, job: str, run: Run, start: int) -> int:
    """Wait until the ``start``-th start of the job has saved something; return the iteration."""
    said = f"start {start}, 4 processes"
    wait_for(cluster, job, run, lambda _: said in run.log.read_text() if run.log.exists() else False)
    before = run.at()
    wait_for(cluster, job, run, lambda _: run.at() > before)
    return run.at()


def test_a_job_that_is_signalled_preempted_and_robbed_of_a_node_ends_as_if_nothing_had_been(
    cluster: Any, plan: Callable[[str], Run]
) -> None:
    job_run, wanted = plan("job"), plan("undisturbed")
    job = submit(cluster, job_run)
    # Told that its time is nearly up, as by --signal.
    wait_for_progress(cluster, job, job_run, 1)
    cluster.call("scancel", "--batch", "--signal=USR2", job)
    # Preempted.
    wait_for_progress(cluster, job, job_run, 2)
    urgent = cluster.submit("--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=true")
    assert cluster.wait(urgent)["JobState"] == "COMPLETED"
    # A node loses its power.
    wait_for_progress(cluster, job, job_run, 3)
    cluster.node("crash", "node2")
    reference = start_on_one_machine(wanted)  # while Slurm looks for the node
    wait_for(cluster, job, job_run, lambda state: state["Restarts"] == "3")
    cluster.node("start", "node2")
    ended = cluster.wait(job)
    said = job_run.log.read_text()
    assert (ended["JobState"], ended["ExitCode"], ended["Restarts"]) == ("COMPLETED", "0:0", "3"), said
    assert said.count("stopped by SIGUSR2 after gan's iteration") >= 1
    assert f"job {job} is queued again and will continue" in said
    assert reference.wait(timeout=300) == 0, wanted.log.read_text()
    networks, undisturbed = job_run.networks(), wanted.networks()
    assert networks.keys() == undisturbed.keys()
    assert [name for name in networks if not torch.equal(networks[name], undisturbed[name])] == []
    assert job_run.curve() == wanted.curve()
