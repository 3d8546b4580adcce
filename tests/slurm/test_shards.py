"""``slurm/shards_mpi.sbatch`` on two nodes of a real cluster: the bytes of a build alone, also after a requeue."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from drdg.config import Config, to_yaml
from drdg.files import sha256
from drdg.shards.build import build_shards

SCRIPT = "slurm/shards_mpi.sbatch"
WIDE = ("--nodes=2", "--ntasks-per-node=2", "--mem-per-cpu=500M")

# All in one process, as there is one cluster.
pytestmark = pytest.mark.xdist_group("slurm")


def contents(folder: Path) -> dict[str, str]:
    """The digest of each file: were it the bytes, pytest would take longer than anybody to tell them apart."""
    return {str(path.relative_to(folder)): sha256(path) for path in folder.rglob("*") if path.is_file()}


def built_alone(config: Config, root: Path) -> dict[str, str]:
    shards = config.shards.model_copy(update={"root": root})
    build_shards(config.source, shards, need_label=True)
    build_shards(config.target, shards, need_label=False)
    return contents(root)


def write_config(config: Config, folder: Path) -> Path:
    path = folder / "config.yaml"
    path.write_text(to_yaml(config))
    return path


def test_two_nodes_build_the_bytes_of_one_process(cluster: Any, small: Callable[..., Config], tmp_path: Path) -> None:
    config = small()
    log = tmp_path / "job.log"
    # An argument after the configuration, as a person would give it.
    arguments = ["--config", write_config(config, tmp_path), "source.stride=32"]
    job = cluster.submit(*WIDE, f"--output={log}", SCRIPT, *arguments)
    ended = cluster.wait(job)
    said = log.read_text()
    assert (ended["JobState"], ended["ExitCode"]) == ("COMPLETED", "0:0"), said
    assert f"job {job}, start 1, 4 processes on node[1-2]" in said
    folders = [Path(line) for line in said.splitlines() if line.startswith(str(tmp_path))]
    assert sorted(folders) == sorted(config.shards.root.iterdir())
    changed = config.model_copy(update={"source": config.source.model_copy(update={"stride": 32})})
    assert contents(config.shards.root) == built_alone(changed, tmp_path / "alone")


def test_processes_that_slurm_does_not_bring_together_are_refused(
    cluster: Any, small: Callable[..., Config], tmp_path: Path
) -> None:
    """``srun --mpi=none`` starts four processes each of which would be alone."""
    config = small()
    log = tmp_path / "job.log"
    arguments = ["--config", write_config(config, tmp_path)]
    ended = cluster.wait(cluster.submit(*WIDE, f"--output={log}", SCRIPT, *arguments, DRDG_MPI="none"))
    assert (ended["JobState"], ended["ExitCode"]) == ("FAILED", "2:0")
    said = [line for line in log.read_text().splitlines() if line.startswith("error: ")]
    assert len(said) == 1, said
    assert "4 processes were started, but MPICH" in said[0]
    assert "srun --mpi=pmi2" in said[0]
    assert not config.shards.root.exists()


def test_a_requeued_job_goes_on_and_ends_with_the_same_bytes(
    cluster: Any, small: Callable[..., Config], tmp_path: Path
) -> None:
    # One tile a shard, so that there are some 900 of them, and a few seconds in which to stop the job.
    config = small("source.tile=128", "source.stride=12", "shards.samples_per_shard=1")
    log = tmp_path / "job.log"
    job = cluster.submit(*WIDE, f"--output={log}", SCRIPT, "--config", write_config(config, tmp_path))
    while len(list(config.shards.root.glob("*/*.tar"))) < 20:
        assert cluster.job(job)["JobState"] in ("PENDING", "CONFIGURING", "RUNNING"), log.read_text()
        time.sleep(0.02)
    cluster.call("scontrol", "requeue", job)
    while cluster.job(job)["JobState"] != "PENDING":
        time.sleep(0.1)
    assert not list(config.shards.root.glob("*/manifest.json"))
    left = len(list(config.shards.root.glob("*/*.tar")))
    wanted = built_alone(config, tmp_path / "alone")
    assert 20 <= left < len([name for name in wanted if name.endswith(".tar")])
    ended = cluster.wait(job)
    said = log.read_text()
    assert (ended["JobState"], ended["Restarts"]) == ("COMPLETED", "1"), said
    assert "start 1, 4 processes" in said
    assert "start 2, 4 processes" in said
    assert contents(config.shards.root) == wanted


def test_submitted_from_elsewhere_it_says_from_where(cluster: Any, tmp_path: Path) -> None:
    script = shutil.copy(cluster.root / SCRIPT, tmp_path)
    ended = cluster.wait(cluster.submit(*WIDE, "--output=job.log", script, cwd=tmp_path))
    assert (ended["JobState"], ended["ExitCode"]) == ("FAILED", "2:0")
    said = (tmp_path / "job.log").read_text()
    assert said.startswith(
        f"error: {tmp_path} is no checkout of drdg; submit from the checkout's root: sbatch {SCRIPT}"
    )
    assert said.count("\n") == 1


def test_without_the_environment_it_says_how_to_make_it(cluster: Any, tmp_path: Path) -> None:
    log = tmp_path / "job.log"
    ended = cluster.wait(cluster.submit(*WIDE, f"--output={log}", SCRIPT, DRDG_VENV=str(tmp_path / "none")))
    assert (ended["JobState"], ended["ExitCode"]) == ("FAILED", "2:0")
    assert log.read_text().splitlines() == [
        f"error: there is no Python in {tmp_path / 'none'}; run 'make venv' in the checkout, or set DRDG_VENV"
    ]
