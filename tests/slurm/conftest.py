"""A real Slurm cluster of two nodes on this machine, where there are the scripts that bring one up beside the checkout.

Its nodes are namespaces, so it needs Linux and root; the disks, and with them the checkout, are the same on all nodes.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT.parent / "shared/cluster"
# Short, as the paths of sockets below it must fit into 108 characters.
FOLDER = Path("/var/tmp/drdg-test-slurm")
LOCK = FOLDER.with_suffix(".lock")
KNOBS = {"NODES": "2", "CPUS": "4", "GPUS": "1", "ACCT": "0", "DRDG_SLURM_DIR": str(FOLDER)}
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE"}


class Cluster:
    """Slurm's commands as a person on the login node has them, in the checkout's root."""

    root = ROOT
    variables = os.environ | {"SLURM_CONF": str(FOLDER / "etc/slurm.conf"), "DRDG_VENV": sys.prefix}

    def call(self, *command: object, cwd: Path = ROOT, **variables: str) -> str:
        """What a command prints; it must succeed."""
        done = subprocess.run(
            [str(word) for word in command],
            cwd=cwd,
            env=self.variables | variables,
            capture_output=True,
            text=True,
            timeout=60,  # clients ask on for minutes when the controller is away
            check=False,
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def submit(self, *arguments: object, cwd: Path = ROOT, **variables: str) -> str:
        """Submit by ``sbatch ARGUMENTS`` and return the job's number."""
        return self.call("sbatch", "--parsable", *arguments, cwd=cwd, **variables).strip()

    def job(self, number: str) -> dict[str, str]:
        """What the controller says of a job: JobState, ExitCode, Restarts and so on."""
        words = self.call("scontrol", "show", "job", "--oneliner", number).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def node(self, act: str, name: str) -> None:
        """Let a node lose its power (``crash``) or have it again (``start``), lose its network (``cut``) or have it
        again (``heal``).
        """
        done = _run("node.sh", os.environ | KNOBS, act, name)
        assert done.returncode == 0, done.stdout

    def wait(self, number: str) -> dict[str, str]:
        """Wait for a job's end."""
        while (job := self.job(number))["JobState"] not in ENDED:
            time.sleep(0.2)
        return job


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The cluster, brought down when the session ends."""
    if not (SCRIPTS / "up.sh").is_file():
        pytest.skip(f"there are no scripts that bring a cluster up in {SCRIPTS}")
    if sys.platform != "linux" or os.geteuid() != 0 or not shutil.which("unshare"):
        pytest.skip("a cluster of namespaces needs Linux, root and unshare(1)")
    if subprocess.run(
        ["unshare", "--net", "--uts", "--ipc", "--mount", "--pid", "--fork", "true"], check=False
    ).returncode:
        pytest.skip("no namespaces can be made here")
    environment = os.environ | KNOBS
    # One cluster at a time on a machine; other test processes wait for theirs.
    with LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not shutil.which("slurmctld") and _run("up.sh", environment, "install").returncode:
            pytest.skip("Slurm is not installed here and cannot be")
        if not (FOLDER / "run/up").exists() and "drdg-node" in _namespaces():
            pytest.skip("another cluster of namespaces is up on this machine")
        try:
            # A second time, from nothing, where a busy machine's nodes were too late for the first.
            if (up := _run("up.sh", environment)).returncode:
                up = _run("up.sh", environment)
            assert up.returncode == 0, up.stdout
            yield Cluster()
        finally:
            _run("down.sh", environment, "--wipe")


def _run(script: str, environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    # To a file, not a pipe: the daemons keep it open.
    with (FOLDER.with_suffix(".log")).open("w+") as log:
        done = subprocess.run([SCRIPTS / script, *arguments], env=environment, stdout=log, stderr=log, check=False)
        log.seek(0)
        return subprocess.CompletedProcess(done.args, done.returncode, log.read())


def _namespaces() -> str:
    return subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=False).stdout
