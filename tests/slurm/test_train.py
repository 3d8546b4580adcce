"""``slurm/drdg_multinode.sbatch`` on a real cluster: a job that fails in every way loses nothing."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient
from safetensors.torch import load_file

from drdg.config import Config, load_config, to_yaml
from drdg.shards.build import build_shards

ROOT = Path(__file__).parents[2]
SCRIPT = "slurm/drdg_multinode.sbatch"
NARROW = ("--ntasks-per-node=2", "--gpus-per-node=0", "--cpus-per-task=1", "--mem-per-cpu=500M")
WIDE = ("--nodes=2", *NARROW)
# Of these states a job does not come back; from preemption and a node's failure it does.
OVER = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE")
DEEPSPEED = ("distributed.backend=deepspeed", f"distributed.deepspeed={ROOT}/configs/deepspeed/zero1.json")
# In float64 what is left between numbers of ranks is the order of sums; 60 iterations carry it on.
FLOAT64, AS_GOOD_AS_EQUAL = "gan.precision=float64", 1e-9

# All in one process, as there is one cluster. Each start of four processes takes half a minute where two cores are
# shared with other tests, and a lost node is lost for half a minute more.
pytestmark = [pytest.mark.xdist_group("slurm"), pytest.mark.timeout(1200)]

CHECKPOINT_EVERY = 5
SETTINGS = ("gan.iterations=60", "gan.batch_size=4", f"gan.checkpoint_every={CHECKPOINT_EVERY}", "gan.log_every=8")

Curve = dict[str, list[tuple[int, float]]]


class Run:
    """A training in a folder of its own, over shards that all share."""

    def __init__(self, config: Config, folder: Path):
        self.config = config.model_copy(update={"run": config.run.model_copy(update={"root": folder / "runs"})})
        self.folder = self.config.run.directory / "drdg/gan"
        self.log = folder / "job.log"
        self.path = folder / "config.yaml"
        folder.mkdir()
        self.path.write_text(to_yaml(self.config))

    def networks(self) -> dict[str, torch.Tensor]:
        return load_file(self.folder / "translator.safetensors")

    def at(self) -> int:
        """The newest checkpoint's iteration."""
        return max(
            (int(path.stem.partition("_")[2]) for path in self.folder.glob("checkpoints/step_*.sha256")), default=0
        )

    def said(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def curve(self) -> Curve:
        """What MLflow has of the one run of this training, rates apart."""
        client = MlflowClient(f"sqlite:///{self.config.run.directory.absolute()}/mlflow.db")
        (experiment,) = [found for found in client.search_experiments() if found.name == "drdg"]
        (run,) = client.search_runs([experiment.experiment_id], "tags.`drdg.stage` = 'gan'")
        assert run.info.status == "FINISHED"
        names = [name for name in run.data.metrics if not name.endswith(("per_s", "percent"))]
        history = {name: client.get_metric_history(run.info.run_id, name) for name in names}
        return {name: sorted((metric.step, metric.value) for metric in found) for name, found in history.items()}


class Runs:
    """Trainings by name over the same shards, and those of them that nothing befalls, on this machine alone."""

    def __init__(self, config: Config, folder: Path):
        self.config, self.folder = config, folder
        self._undisturbed: dict[tuple[str, ...], tuple[Run, subprocess.Popen[bytes]]] = {}

    def run(self, name: str, *overrides: str) -> Run:
        return Run(load_config(self._written(), list(overrides)), self.folder / name)

    def begin_undisturbed(self, *overrides: str, ranks: int = 4) -> None:
        """Start the training by torchrun, beside what else goes on, unless it was."""
        if overrides in self._undisturbed:
            return
        run = self.run(f"undisturbed {len(self._undisturbed)}", *overrides)
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
        with run.log.open("w") as log:
            started = subprocess.Popen(
                [*launcher, "launch/train.py", "--config", run.path], stdout=log, stderr=log, cwd=ROOT
            )
        self._undisturbed[overrides] = run, started

    def undisturbed(self, *overrides: str) -> Run:
        """The training at its end."""
        run, started = self._undisturbed[overrides]
        assert started.wait(timeout=300) == 0, run.said()
        return run

    def end(self) -> None:
        for _, started in self._undisturbed.values():
            started.terminate()
            started.wait()

    def _written(self) -> Path:
        path = self.folder / "config.yaml"
        path.write_text(to_yaml(self.config))
        return path


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Runs]]:
    runs: dict[str, Runs] = {}
    yield runs
    for held in runs.values():
        held.end()


@pytest.fixture
def runs(kept: dict[str, Runs], small: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Trainings over shards that are built once."""
    if "runs" not in kept:
        folder = tmp_path_factory.mktemp("train")
        config = small(*SETTINGS, f"shards.root={folder / 'some shards'}")
        build_shards(config.source, config.shards, need_label=True)
        build_shards(config.target, config.shards, need_label=False)
        kept["runs"] = Runs(config, folder)
    return kept["runs"]


def submit(cluster: Any, run: Run, *options: str, size: tuple[str, ...] = WIDE) -> str:
    return cluster.submit(*size, *options, f"--output={run.log}", SCRIPT, "--config", run.path)


def wait_for(cluster: Any, job: str, run: Run, is_so: Callable[[dict[str, str]], bool]) -> dict[str, str]:
    """Wait until the job is as wanted; it must not end before."""
    while not is_so(state := cluster.job(job)):
        assert state["JobState"] not in OVER, run.said()
        time.sleep(0.1)
    return state


def wait_for_progress(cluster: Any, job: str, run: Run, start: int) -> int:
    """Wait until the ``start``-th start of the job has saved something; return the iteration."""
    wait_for(cluster, job, run, lambda _: f"start {start}, 4 processes" in run.said())
    before = run.at()
    wait_for(cluster, job, run, lambda _: run.at() > before)
    return run.at()


def wait_for_restart(cluster: Any, job: str, run: Run, number: int) -> None:
    wait_for(cluster, job, run, lambda state: int(state["Restarts"]) >= number)


def nodes_of(cluster: Any, job: str) -> list[str]:
    """The nodes that the job has, the one of its first process first."""
    return cluster.call("scontrol", "show", "hostnames", cluster.job(job)["NodeList"]).split()


def stops(run: Run) -> list[int]:
    """After which iterations a start of the job was asked to stop, and had saved."""
    return [int(number) for number in re.findall(r"stopped by SIG\w+ after gan's iteration (\d+), which", run.said())]


def continued(run: Run) -> list[int]:
    """From which iterations the starts after the first one continued."""
    return [int(number) for number in re.findall(r"gan: continues from iteration (\d+)", run.said())]


def assert_completed(cluster: Any, job: str, run: Run, restarts: int) -> None:
    ended = cluster.wait(job)
    assert (ended["JobState"], ended["ExitCode"], ended["Restarts"]) == ("COMPLETED", "0:0", str(restarts)), run.said()


def assert_same(run: Run, undisturbed: Run) -> None:
    """The same bits, of the weights and of the loss curve."""
    networks, wanted = run.networks(), undisturbed.networks()
    assert networks.keys() == wanted.keys()
    assert [name for name in networks if not torch.equal(networks[name], wanted[name])] == []
    assert run.curve() == undisturbed.curve()


def test_told_to_stop_preempted_and_robbed_of_a_node(cluster: Any, runs: Runs) -> None:
    run = runs.run("preempted")
    job = submit(cluster, run)
    # As by --signal, when the time is nearly up.
    wait_for_progress(cluster, job, run, 1)
    cluster.call("scancel", "--batch", "--signal=USR2", job)
    # Preempted, as all nodes are wanted.
    wait_for_progress(cluster, job, run, 2)
    urgent = cluster.submit("--partition=urgent", "--nodes=3", "--exclusive", "--output=/dev/null", "--wrap=true")
    assert cluster.wait(urgent)["JobState"] == "COMPLETED"
    # A node loses its power in the middle of an iteration.
    wait_for_progress(cluster, job, run, 3)
    lost = nodes_of(cluster, job)[-1]
    cluster.crash(lost)
    runs.begin_undisturbed()  # while Slurm looks for the node
    wait_for_restart(cluster, job, run, 3)
    cluster.start(lost)
    assert_completed(cluster, job, run, restarts=3)
    # By scancel and, as this cluster warns who is preempted, by that; nobody could warn of the power.
    assert len(stops(run)) == 2
    assert run.said().count(f"job {job} is queued again and will continue") == 2
    began_at = continued(run)
    assert began_at[:2] == stops(run)
    assert len(began_at) == 3
    assert began_at[2] % CHECKPOINT_EVERY == 0
    assert_same(run, runs.undisturbed())


def test_requeued_and_cut_off(cluster: Any, runs: Runs) -> None:
    run = runs.run("cut off")
    job = submit(cluster, run)
    wait_for_progress(cluster, job, run, 1)
    cluster.call("scontrol", "requeue", job)
    wait_for_progress(cluster, job, run, 2)
    # The node whose process saves and logs: it goes on, alone, when the job has long begun elsewhere.
    lost = nodes_of(cluster, job)[0]
    cluster.cut(lost)
    runs.begin_undisturbed()
    wait_for_restart(cluster, job, run, 2)
    wait_for_progress(cluster, job, run, 3)
    cluster.heal(lost)
    assert_completed(cluster, job, run, restarts=2)
    assert len(continued(run)) == 2
    assert_same(run, runs.undisturbed())


def test_deepspeed_at_its_time_limit(cluster: Any, runs: Runs) -> None:
    longer = (*DEEPSPEED, "gan.iterations=200")
    run = runs.run("timed", *longer)
    job = submit(cluster, run, "--time=60", "--signal=B:USR2@180")
    wait_for_progress(cluster, job, run, 1)
    # Less than the signal's time is left now; Slurm looks every 30 s.
    cluster.call("scontrol", "update", f"JobId={job}", "TimeLimit=3")
    wait_for_restart(cluster, job, run, 1)
    cluster.call("scontrol", "update", f"JobId={job}", "TimeLimit=60")
    runs.begin_undisturbed(*longer)
    assert_completed(cluster, job, run, restarts=1)
    assert continued(run) == stops(run)
    assert len(stops(run)) == 1
    assert_same(run, runs.undisturbed(*longer))


def test_cancelled_and_continued_on_a_smaller_cluster(cluster: Any, runs: Runs) -> None:
    run = runs.run("smaller", FLOAT64)
    job = submit(cluster, run)
    wait_for_progress(cluster, job, run, 1)
    cluster.call("scancel", job)
    assert cluster.wait(job)["JobState"] == "CANCELLED"
    done = run.at()
    assert "is queued again" not in run.said()
    assert done < 60
    runs.begin_undisturbed(FLOAT64, ranks=1)
    again = submit(cluster, run, size=("--nodes=1", *NARROW))
    assert_completed(cluster, again, run, restarts=0)
    assert continued(run) == [done]
    networks, wanted = run.networks(), runs.undisturbed(FLOAT64).networks()
    apart = max(float((networks[name] - wanted[name]).abs().max()) for name in wanted)
    assert 0 < apart < AS_GOOD_AS_EQUAL
    curve, wanted_curve = run.curve(), runs.undisturbed(FLOAT64).curve()
    assert {name: [step for step, _ in points] for name, points in curve.items()} == {
        name: [step for step, _ in points] for name, points in wanted_curve.items()
    }


def test_an_error_ends_the_job_with_one_sentence_and_it_is_not_queued_again(cluster: Any, runs: Runs) -> None:
    run = runs.run("wrong", "gan.batch_size=3")
    job = submit(cluster, run)
    ended = cluster.wait(job)
    assert (ended["JobState"], ended["ExitCode"], ended["Restarts"]) == ("FAILED", "2:0", "0")
    (said,) = [line for line in run.said().splitlines() if line.startswith("error: ")]
    assert "gan.batch_size=3 pairs cannot be shared by 4 ranks" in said
