"""Where a cluster lives on this machine, and the files that its daemons read."""

from __future__ import annotations

import os
import secrets
import socket
import stat
from dataclasses import dataclass
from pathlib import Path

LISTENING = ("slurmctld", "slurmd", "slurmdbd", "mariadbd")
NODES = ("node1", "node2", "node3")
# The machine of Slurm's controller, so that nothing listens in a network of the machine that the tests are on.
HEAD = "head"
CPUS = 4
GPUS = 2
MEMORY_MB = 4000


@dataclass(frozen=True)
class Place:
    """All that is there once on a machine, told apart by a number: the tests' cluster is 0."""

    number: int = 0

    @classmethod
    def of_environment(cls) -> Place:
        """The number in ``DRDG_TEST_SLURM``, for who wants a second cluster beside the first."""
        return cls(int(os.environ.get("DRDG_TEST_SLURM", "0")))

    @property
    def folder(self) -> Path:
        """Short, as the path of a socket below it must fit into 108 characters; not in /tmp, which jobs may have for
        themselves.
        """
        return Path("/var/tmp/drdg-test-slurm" + (f"-{self.number}" if self.number else ""))

    @property
    def lock(self) -> Path:
        return self.folder.with_suffix(".lock")

    @property
    def configuration(self) -> Path:
        return self.folder / "etc/slurm.conf"

    @property
    def munge_socket(self) -> Path:
        return self.folder / "run/munge.sock"

    @property
    def bridge(self) -> str:
        return f"drdgtest{self.number}"

    @property
    def network(self) -> str:
        return f"10.92.{self.number}"

    @property
    def this_machine(self) -> str:
        """The address of the machine that the tests are on, which jobs are submitted from."""
        return f"{self.network}.253"

    def port(self, daemon: str) -> int:
        """Below those that the system hands out."""
        return 26900 + LISTENING.index(daemon)

    def address(self, node: str) -> str:
        return f"{self.network}.{_place_of(node)}"

    def hardware_address(self, node: str) -> str:
        """The same at each start, as the others keep it for a while; locally administered."""
        return f"02:00:0a:5c:{self.number:02x}:{_place_of(node):02x}"

    def interface(self, node: str) -> str:
        """The end of the node's cable on this machine."""
        return f"{self.bridge}n{_place_of(node)}"


def _place_of(node: str) -> int:
    return 254 if node == HEAD else NODES.index(node) + 1


def write_settings(place: Place) -> None:
    """Make the cluster's folder, with all that the daemons read."""
    # Munge refuses folders that others can write to.
    for name in ("", "etc", "run", "log", "state", "gpu", "db", "spool", *(f"spool/{node}" for node in NODES)):
        (place.folder / name).mkdir(mode=0o755)
    for gpu in range(GPUS):
        # Slurm numbers device files only; these are as good as /dev/null.
        os.mknod(place.folder / f"gpu/gpu{gpu}", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    gres = f"NodeName={','.join(NODES)} AutoDetect=off Name=gpu File={place.folder}/gpu/gpu[0-{GPUS - 1}]\n"
    files = {
        "slurm.conf": _slurm(place),
        "gres.conf": gres,
        "plugstack.conf": "",
        "slurmdbd.conf": _slurmdbd(place),
        "accounting.sql": _ACCOUNTING,
        "hosts": _hosts(place),
        # Nodes never ask the network for a name.
        "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
    }
    for name, text in files.items():
        file = place.folder / "etc" / name
        # Munge and slurmdbd refuse to read secrets that others can read.
        file.touch(mode=0o600 if name == "slurmdbd.conf" else 0o644)
        file.write_text(text)
    key = place.folder / "run/munge.key"
    key.touch(mode=0o600)
    key.write_bytes(secrets.token_bytes(128))


def _hosts(place: Place) -> str:
    names = {place.this_machine: _hostname()} | {place.address(node): node for node in (*NODES, HEAD)}
    return "".join(f"{address} {name}\n" for address, name in {"127.0.0.1": "localhost", **names}.items())


def _hostname() -> str:
    return socket.gethostname().partition(".")[0]


def _slurm(place: Place) -> str:
    hardware = (
        f"CPUs={CPUS} Boards=1 SocketsPerBoard=1 CoresPerSocket={CPUS} ThreadsPerCore=1 RealMemory={MEMORY_MB} "
        f"Gres=gpu:{GPUS} State=UNKNOWN"
    )
    nodes = "\n".join(f"NodeName={node} NodeAddr={place.address(node)} {hardware}" for node in NODES)
    return f"""\
ClusterName=drdgtest
SlurmctldHost={HEAD}({place.address(HEAD)})
SlurmctldPort={place.port("slurmctld")}
SlurmdPort={place.port("slurmd")}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# A credential's life is also how long a job that was queued again is held back: 120 s, if nothing is said.
AuthInfo=socket={place.munge_socket},cred_expire=5
StateSaveLocation={place.folder}/state
SlurmdSpoolDir={place.folder}/spool/%n
SlurmctldPidFile={place.folder}/run/slurmctld.its-pid
SlurmdPidFile={place.folder}/run/slurmd.%n.its-pid
SlurmctldDebug=verbose
SlurmdDebug=verbose
# The hardware is said, not looked at: a laptop's two cores are announced as {CPUS} in each of {len(NODES)} nodes. No
# cgroups, so what a job asks for is counted but not enforced.
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
GresTypes=gpu
MpiDefault=pmi2
# A node that comes back is used again, whatever it was down for.
ReturnToService=2
JobRequeue=1
# Short, so that tests of failures are; but a daemon that is started again on a busy machine is not to be thought lost.
SlurmctldTimeout=30
SlurmdTimeout=20
KillWait=5
MessageTimeout=5
BatchStartTimeout=10
InactiveLimit=0
# Tests ask about jobs that have ended.
MinJobAge=600
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0,sched_min_interval=0
PriorityType=priority/basic
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost={place.address(HEAD)}
AccountingStoragePort={place.port("slurmdbd")}
# No password: munge's socket for this one link.
AccountingStoragePass={place.munge_socket}
AccountingStorageTRES=gres/gpu
{nodes}
# Time for the preempted to save and to be queued again by their own script, on a machine that is busy, too: then Slurm
# waits no longer than they take.
PartitionName=main Nodes=ALL Default=YES DefaultTime=10 MaxTime=INFINITE PriorityTier=1 PreemptMode=REQUEUE GraceTime=60
PartitionName=urgent Nodes=ALL DefaultTime=10 MaxTime=INFINITE PriorityTier=10 PreemptMode=OFF
"""


def _slurmdbd(place: Place) -> str:
    return f"""\
AuthType=auth/munge
AuthInfo=socket={place.munge_socket}
DbdHost={HEAD}
DbdAddr={place.address(HEAD)}
DbdPort={place.port("slurmdbd")}
SlurmUser=root
PidFile={place.folder}/run/slurmdbd.its-pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={place.port("mariadbd")}
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct
"""


# It listens on the head's loopback only, and holds nothing but these tests' jobs.
_ACCOUNTING = """\
CREATE DATABASE IF NOT EXISTS slurm_acct;
CREATE USER IF NOT EXISTS slurm@'127.0.0.1' IDENTIFIED BY 'slurm';
GRANT ALL ON slurm_acct.* TO slurm@'127.0.0.1';
"""
