"""A real Slurm cluster of three nodes on this machine, with accounting: Slurm's daemons, MariaDB and munge."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from daemons import ENVIRONMENT, PATIENCE_S, Daemons, until
from nodes import Nodes
from packages import SEARCH_PATH
from settings import HEAD, NODES, Place, write_settings

ROOT = Path(__file__).parents[2]
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE"}
# Of another cluster's job, in which the tests may have been started.
SLURMS = ("SLURM", "SBATCH", "SRUN", "SALLOC", "SCANCEL", "SQUEUE", "SINFO", "SACCT", "PMI_", "PMI2_", "PMIX_")


class Cluster:
    """Slurm's commands as a person on the login node has them, in the checkout's root, and the nodes' power switches.

    Nodes are called node1, node2 and node3.
    """

    root = ROOT

    def __init__(self, place: Place):
        self.place = place
        self.daemons = Daemons(place)
        self.nodes = Nodes(place, self.daemons)
        self.submitted: list[str] = []
        outside = {name: value for name, value in os.environ.items() if not name.startswith(SLURMS)}
        self.variables = outside | {
            "PATH": SEARCH_PATH,
            "SLURM_CONF": str(place.configuration),
            "DRDG_VENV": sys.prefix,
        }

    # Jobs

    def call(self, *command: object, cwd: Path = ROOT, **variables: str) -> str:
        """What a command prints; it must succeed."""
        done = self._try(*command, cwd=cwd, **variables)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def submit(self, *arguments: object, cwd: Path = ROOT, **variables: str) -> str:
        """Submit by ``sbatch ARGUMENTS`` and return the job's number."""
        self.submitted.append(self.call("sbatch", "--parsable", *arguments, cwd=cwd, **variables).strip())
        return self.submitted[-1]

    def job(self, number: str) -> dict[str, str]:
        """What the controller says of a job: JobState, ExitCode, Restarts and so on."""
        words = self.call("scontrol", "show", "job", "--oneliner", number).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def wait(self, number: str) -> dict[str, str]:
        """Wait for a job's end."""
        while (job := self.job(number))["JobState"] not in ENDED:
            time.sleep(0.2)
        return job

    def sacct(self, number: str) -> list[str]:
        """The state in which each start of a job ended, or is, oldest first. The accounting lags by a second or so."""
        shape = ("--duplicates", "--allocations", "--noheader", "--parsable2", "--format=State")
        states = self.call("sacct", *shape, f"--jobs={number}").splitlines()
        return [state.split()[0] for state in states]  # "CANCELLED by 0"

    # Nodes

    def crash(self, node: str) -> None:
        """A node loses its power: its processes die at once and say no word to the others."""
        self.nodes.crash(node)

    def start(self, node: str) -> None:
        """A node has its power again."""
        self.nodes.start(node)

    def cut(self, node: str) -> None:
        """A node loses its network; its processes go on."""
        self.nodes.cut(node)

    def heal(self, node: str) -> None:
        """A node has its network again."""
        self.nodes.heal(node)

    def restart_slurmd(self, node: str) -> None:
        """Slurm's daemon of a node is killed and started again; jobs go on."""
        self.nodes.restart_slurmd(node)

    def run_on(self, node: str, *command: object) -> str:
        """What a command prints in a node, outside any job; it must succeed."""
        return self.call(*self.nodes.inside(node), *command)

    def wait_idle(self, nodes: int = len(NODES), patience_s: float = PATIENCE_S) -> None:
        """Wait until so many nodes have nothing to do, and take those into service again that were taken out."""

        def are_idle() -> bool:
            self.daemons.must_run("slurmctld")
            states = self.states()
            for node, state in states.items():
                # Not those that Slurm cannot reach ("down*"): they come back by themselves.
                if state in ("drained", "draining", "down"):
                    self._try("scontrol", "update", f"nodename={node}", "state=resume")
            return list(states.values()).count("idle") >= nodes

        try:
            until(are_idle, f"{nodes} nodes are idle", patience_s)
        except TimeoutError as error:
            raise TimeoutError(f"{error}, but {self.states()}") from None

    def states(self) -> dict[str, str]:
        """What Slurm says of each node; nothing while its controller is away."""
        lines = self._try("sinfo", "--noheader", "--Node", "--partition=main", "--format=%N %T").stdout.splitlines()
        return {node: state for node, _, state in (line.partition(" ") for line in lines)}

    def tidy(self, jobs: list[str]) -> None:
        """End what is left of these jobs, and give all nodes power and network."""
        left = set(jobs) & set(self._try("squeue", "--noheader", "--format=%F").stdout.split())
        lost = [node for node in NODES if not self.nodes.is_on(node) or self.nodes.is_cut(node)]
        if left:
            self._try("scancel", *left)
        for node in lost:
            self.nodes.start(node)
            self.nodes.heal(node)
        if left or lost:
            self.wait_idle()

    # The whole

    def up(self) -> None:
        """Start it from nothing. What stands in the way raises ``OSError``, also as ``TimeoutError``."""
        self.down()
        write_settings(self.place)
        folder, run = self.place.folder, self.place.folder / "run"
        self.daemons.start(
            "munged",
            *("munged", "--foreground", f"--socket={self.place.munge_socket}", f"--key-file={run / 'munge.key'}"),
            *(f"--pid-file={run / 'munged.its-pid'}", f"--seed-file={run / 'munge.seed'}"),
            f"--log-file={folder / 'log/munged.log'}",
        )
        self.nodes.connect()
        self.nodes.start(HEAD)
        head = self.nodes.at_its_place(HEAD)
        self._start_accounting(head)
        self.daemons.start("slurmctld", "slurmctld", "-D", "-f", self.place.configuration, inside=head)
        for node in NODES:
            self.nodes.start(node)
        self.wait_idle()

    def _start_accounting(self, head: list[str]) -> None:
        # Nothing of it must outlast a power cut, so it need not wait for the disk.
        lax = ("--innodb-log-file-size=8M", "--innodb-flush-method=nosync", "--innodb-doublewrite=0")
        data = ("--no-defaults", "--user=root", f"--datadir={self.place.folder / 'db'}", *lax)
        made = subprocess.run(
            ["mariadb-install-db", *data, "--auth-root-authentication-method=socket", "--skip-test-db"],
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        if made.returncode:
            raise ChildProcessError(f"mariadb-install-db has ended with status {made.returncode}:\n{made.stdout}")
        mariadb = self.place.folder / "run/mariadbd.sock"
        self.daemons.start(
            "mariadbd",
            *("mariadbd", *data, f"--socket={mariadb}"),
            *(
                "--bind-address=127.0.0.1",
                f"--port={self.place.port('mariadbd')}",
                "--skip-name-resolve",
                "--skip-log-bin",
            ),
            *("--performance-schema=OFF", "--innodb-flush-log-at-trx-commit=0", "--innodb-buffer-pool-size=32M"),
            *("--key-buffer-size=1M", "--max-connections=32", "--innodb-lock-wait-timeout=900"),
            f"--init-file={self.place.folder / 'etc/accounting.sql'}",
            inside=head,
        )
        until(self.daemons.listens("mariadbd", mariadb), "MariaDB answers")
        self.daemons.start("slurmdbd", "slurmdbd", "-D", inside=head)
        accounting = self.place.address(HEAD), self.place.port("slurmdbd")
        until(self.daemons.listens("slurmdbd", accounting), "slurmdbd answers")

    def down(self) -> None:
        """End it, or what an earlier session has left of it, and remove its folder."""
        folder = self.place.folder
        if folder.exists() and folder.stat().st_uid != os.geteuid():
            raise PermissionError(f"{folder} belongs to somebody else; remove it")  # and so do the numbers in it
        self.daemons.kill_all()
        self.nodes.disconnect()
        if folder.exists():
            shutil.rmtree(folder)

    def _try(self, *command: object, cwd: Path = ROOT, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(word) for word in command],
            cwd=cwd,
            env=self.variables | variables,
            capture_output=True,
            text=True,
            timeout=60,  # clients ask on for minutes when the controller is away
            check=False,
        )
