"""The tests' cluster is one: nodes of their own, GPUs, accounting, dependencies, nodes that fail and come back."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cluster import Cluster
from nodes import ip
from settings import Place

# All in one process, as there is one cluster.
pytestmark = pytest.mark.xdist_group("slurm")


def until(is_so: Callable[[], bool]) -> None:
    while not is_so():
        time.sleep(0.1)


def test_each_node_is_a_machine_of_its_own(cluster: Any) -> None:
    on_each = ("srun", "--nodes=3", "--ntasks-per-node=1")
    assert sorted(cluster.call(*on_each, "hostname").split()) == ["node1", "node2", "node3"]
    kinds = ("net", "uts", "ipc", "mnt", "pid")
    said = cluster.call(*on_each, "readlink", *(f"/proc/self/ns/{kind}" for kind in kinds)).split()
    here = [str(Path(f"/proc/self/ns/{kind}").readlink()) for kind in kinds]
    assert len({*said, *here}) == 4 * len(kinds)
    assert cluster.run_on("node2", "hostname").strip() == "node2"
    # They find each other by name, as rank 0 is found.
    assert cluster.run_on("node1", "getent", "hosts", "node3").split()[0] == cluster.place.address("node3")


def test_gpus_are_handed_out_by_their_numbers(cluster: Any) -> None:
    say = ("sh", "-c", "echo $CUDA_VISIBLE_DEVICES")
    assert cluster.call("srun", "--nodes=2", "--gpus-per-node=2", *say).split() == ["0,1", "0,1"]
    assert sorted(cluster.call("srun", "--ntasks=2", "--gpus-per-task=1", "--nodes=1", *say).split()) == ["0", "1"]
    with pytest.raises(AssertionError, match="node configuration is not available"):
        cluster.submit("--gpus-per-node=3", "--wrap=true")


def test_a_job_waits_for_an_array_and_the_accounting_knows_both(cluster: Any, tmp_path: Path) -> None:
    array = cluster.submit("--array=0-3", f"--output={tmp_path}/%a", "--wrap=echo $SLURM_ARRAY_TASK_ID")
    after = cluster.submit(f"--dependency=afterok:{array}", f"--output={tmp_path}/all", f"--wrap=cat {tmp_path}/[0-3]")
    failing = cluster.submit("--output=/dev/null", "--wrap=exit 3")
    assert cluster.wait(after)["JobState"] == "COMPLETED"
    assert (tmp_path / "all").read_text().split() == ["0", "1", "2", "3"]
    assert cluster.wait(failing)["ExitCode"] == "3:0"
    until(lambda: cluster.sacct(array) == ["COMPLETED"] * 4)
    until(lambda: cluster.sacct(after) == ["COMPLETED"])
    until(lambda: cluster.sacct(failing) == ["FAILED"])


def test_a_node_without_power_costs_its_job_a_start_and_comes_back(cluster: Any, tmp_path: Path) -> None:
    log = tmp_path / "job.log"
    # One step, in which both nodes are when they speak: an srun that a node leaves while it starts ends with an error.
    step = 'hostname; [ "${SLURM_RESTART_COUNT:-0}" = 1 ] || sleep 600'
    job = cluster.submit("--nodes=2", f"--output={log}", "--open-mode=append", f"--wrap=srun sh -c '{step}'")
    until(lambda: log.exists() and len(log.read_text().split()) == 2)
    assert cluster.job(job)["NodeList"] == "node[1-2]"
    cluster.crash("node2")
    until(lambda: cluster.states()["node2"] == "down*")
    cluster.start("node2")
    ended = cluster.wait(job)
    assert (ended["JobState"], ended["Restarts"]) == ("COMPLETED", "1"), log.read_text()
    cluster.wait_idle()
    assert cluster.run_on("node2", "hostname").strip() == "node2"
    until(lambda: cluster.sacct(job) == ["NODE_FAIL", "COMPLETED"])


def test_a_job_goes_on_without_slurmd(cluster: Any, tmp_path: Path) -> None:
    waiting = f"--wrap=until [ -e '{tmp_path}/go' ]; do sleep 0.2; done"
    job = cluster.submit("--nodelist=node1", "--output=/dev/null", waiting)
    until(lambda: cluster.job(job)["JobState"] == "RUNNING")
    cluster.restart_slurmd("node1")
    (tmp_path / "go").touch()
    ended = cluster.wait(job)
    assert (ended["JobState"], ended["Restarts"]) == ("COMPLETED", "0")


def test_a_node_without_network_is_out_of_reach_but_on(cluster: Any) -> None:
    def answers() -> bool:
        with contextlib.suppress(OSError):
            socket.create_connection((cluster.place.address("node3"), cluster.place.port("slurmd")), timeout=1).close()
            return True
        return False

    assert answers()
    cluster.cut("node3")
    assert not answers()
    assert cluster.run_on("node3", "hostname").strip() == "node3"
    cluster.heal("node3")
    until(answers)


def test_a_drained_node_is_taken_into_service_again(cluster: Any) -> None:
    cluster.call("scontrol", "update", "nodename=node3", "state=drain", "reason=test")
    assert cluster.states()["node3"] == "drained"
    cluster.wait_idle()
    assert cluster.states() == dict.fromkeys(("node1", "node2", "node3"), "idle")


def test_a_session_that_is_killed_leaves_no_processes_and_the_next_one_clears_the_rest(cluster: Any) -> None:
    place = Place(cluster.place.number + 100)
    session = subprocess.Popen(
        [sys.executable, "-c", f"from cluster import *; Cluster({place}).up(); print('up', flush=True); input()"],
        cwd=Path(__file__).parent,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert session.stdout
        assert session.stdout.readline() == b"up\n"
        started = {file.stem: int(file.read_text().split()[0]) for file in place.folder.glob("run/*.pid")}
        assert started.keys() == {"munged", "mariadbd", "slurmdbd", "slurmctld", "head", "node1", "node2", "node3"}
        assert alive(place) > len(started)
        session.kill()
        until(lambda: alive(place) == 0)
        assert ip("link", "show", place.bridge).returncode == 0
    finally:
        session.kill()
        session.communicate()
        Cluster(place).down()
    assert ip("link", "show", place.bridge).returncode != 0
    assert not place.folder.exists()


def alive(place: Place) -> int:
    """How many processes have a word of this cluster in what started them, or in their surroundings."""
    folder, found = str(place.folder).encode(), 0
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            found += folder in (process / "environ").read_bytes() + (process / "cmdline").read_bytes()
    return found
