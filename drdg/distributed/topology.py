"""Station 3, ranks: who this process is. The only reader of a launcher's environment variables.

A half-set environment is refused: a rank that believes it is alone trains a model of its own, and nobody notices.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass

TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
# DeepSpeed's launcher sets the same, but for one that it has another name for, and this.
DEEPSPEED = {"LOCAL_WORLD_SIZE": "LOCAL_SIZE"}
DEEPSPEED_ONLY = "CROSS_RANK"
# srun sets these for every task of a step; a batch script outside srun has no SLURM_STEP_ID.
SRUN = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE", "SLURM_STEP_NODELIST")
# What MPI's launchers tell each process: its rank and how many there are. Hydra (MPICH, Intel MPI), Slurm's pmi2 and
# Flux share PMI's names.
MPIEXEC = (
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE"),
    ("PMI_RANK", "PMI_SIZE"),
)
# Which of a node's processes this is, by the launcher that is nearest to it.
LOCAL_RANKS = (
    "LOCAL_RANK",
    "MPI_LOCALRANKID",
    "OMPI_COMM_WORLD_LOCAL_RANK",
    "MV2_COMM_WORLD_LOCAL_RANK",
    "SLURM_LOCALID",
)
# Hydra alone sets this beside PMI's; srun does not.
HYDRA_ONLY = "MPI_LOCALNRANKS"
# Ports above the privileged and below Linux's ephemeral range (32768-60999), picked by job so that jobs do not meet.
FIRST_PORT, PORTS = 20000, 10000
STEP_APART, START_APART = 1009, 2003


@dataclass(frozen=True)
class Topology:
    """One process's place among all of a run."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1
    master_address: str | None = None
    master_port: int | None = None
    launcher: str = "single"
    meeting: str = ""
    """What tells this start of these ranks from all others that may ask at the same port."""


def discover(
    environment: Mapping[str, str] | None = None,
    first_host: Callable[[str], str] | None = None,
    meet: Callable[[int, int], Topology] | None = None,
) -> Topology:
    """Read the place of this process from what torchrun, DeepSpeed's launcher, srun or mpiexec set; alone if none did.

    ``first_host`` resolves a Slurm node list (default: ``scontrol show hostnames``). mpiexec says no more than rank and
    size; with these ``meet`` asks MPI for the rest (default: ``bootstrap.meet_by_mpi``), together with all other ranks.
    Raises ``ValueError`` when a launcher's variables are only partly there, or when it says too little.
    """
    environment = os.environ if environment is None else environment
    if "RANK" in environment or "WORLD_SIZE" in environment:
        return _not_alone_in_a_step(_from_torchrun(environment), environment)
    if _is_by_mpiexec(environment):
        rank, size = mpi_place(environment)
        _not_alone_in_a_step(Topology(world_size=size, launcher="mpiexec"), environment)
        return (meet or _meet_by_mpi)(rank, size) if size > 1 else Topology(launcher="mpiexec")
    if "SLURM_STEP_ID" in environment:
        return _from_srun(environment, first_host or _first_host)
    _refuse_silent_launcher(environment)
    return Topology()


def _not_alone_in_a_step(topology: Topology, environment: Mapping[str, str]) -> Topology:
    # A launcher within a step has at least one process for each of the step's tasks.
    tasks = _tasks_of_step(environment) if "SLURM_STEP_ID" in environment else 1
    if topology.world_size < tasks:
        raise ValueError(
            f"variables of {topology.launcher} say {topology.world_size} rank, but srun started {tasks}; they are of "
            "another launch: unset them"
        )
    return topology


def mpi_processes(environment: Mapping[str, str] | None = None) -> int:
    """How many processes a launcher has started for an MPI program; 1 where none has. See :func:`mpi_place`."""
    return mpi_place(environment)[1]


def mpi_place(environment: Mapping[str, str] | None = None) -> tuple[int, int]:
    """This process's rank and the number of processes by what ``mpiexec`` or ``srun`` set; (0, 1) if neither did.

    Read from the environment alone, so that one process need not load MPI and that processes which MPI does not bring
    together are seen. Raises ``ValueError`` where torchrun has started several, which is no launcher for MPI, or where
    a launcher does not say how many there are.
    """
    environment = os.environ if environment is None else environment
    if "WORLD_SIZE" in environment and _number(environment, "WORLD_SIZE") > 1:
        raise ValueError(
            f"WORLD_SIZE={environment['WORLD_SIZE']} says that torchrun started this; start it by mpiexec or srun, or "
            "unset torchrun's variables to run as one process"
        )
    # First mpiexec's: inside an allocation it starts by srun what starts the ranks, and they inherit that step's.
    for rank, size in MPIEXEC:
        if size in environment:
            return _number(environment, rank) if rank in environment else 0, _number(environment, size)
    if "SLURM_STEP_ID" in environment:
        place = _number(environment, "SLURM_PROCID") if "SLURM_PROCID" in environment else 0
        return place, _tasks_of_step(environment)
    _refuse_silent_launcher(environment)
    return 0, 1


def _refuse_silent_launcher(environment: Mapping[str, str]) -> None:
    if "PMIX_RANK" in environment:
        raise ValueError(
            f"PMIX_RANK={environment['PMIX_RANK']} says that a launcher started this, but nothing how many processes; "
            "start it by srun or by the mpiexec of your MPI"
        )


def _is_by_mpiexec(environment: Mapping[str, str]) -> bool:
    """Whether mpiexec started this process, and not srun, which sets PMI's variables, too, for MPI programs.

    Inside an allocation mpiexec starts by srun what starts the ranks, which inherit the variables of that step.
    """
    names = [size for _, size in MPIEXEC if size in environment]
    if names == ["PMI_SIZE"] and "SLURM_STEP_ID" in environment and HYDRA_ONLY not in environment:
        return _number(environment, "PMI_SIZE") != _tasks_of_step(environment)
    return bool(names)


def _meet_by_mpi(rank: int, size: int) -> Topology:
    from drdg.distributed.bootstrap import meet_by_mpi

    return meet_by_mpi(rank, size)


def _from_torchrun(environment: Mapping[str, str]) -> Topology:
    launcher = "torchrun"
    if DEEPSPEED_ONLY in environment:
        launcher = "deepspeed"
        renamed = {ours: environment[theirs] for ours, theirs in DEEPSPEED.items() if theirs in environment}
        environment = {**renamed, **environment}
    _refuse_half_set(environment, TORCHRUN, launcher)
    return Topology(
        rank=_number(environment, "RANK"),
        world_size=_number(environment, "WORLD_SIZE"),
        local_rank=_number(environment, "LOCAL_RANK"),
        local_world_size=_number(environment, "LOCAL_WORLD_SIZE"),
        master_address=environment["MASTER_ADDR"],
        master_port=_number(environment, "MASTER_PORT"),
        launcher=launcher,
    )


def _from_srun(environment: Mapping[str, str], first_host: Callable[[str], str]) -> Topology:
    _refuse_half_set(environment, (*SRUN, "SLURM_JOB_ID", "SLURM_NODEID"), "srun")
    world_size = _tasks_of_step(environment)
    if world_size == 1:
        return Topology(launcher="srun")
    job, step = _number(environment, "SLURM_JOB_ID"), _number(environment, "SLURM_STEP_ID")
    start = _number(environment, "SLURM_RESTART_COUNT") if environment.get("SLURM_RESTART_COUNT") else 0
    return Topology(
        rank=_number(environment, "SLURM_PROCID"),
        world_size=world_size,
        local_rank=_number(environment, "SLURM_LOCALID"),
        local_world_size=tasks_of_node(environment["SLURM_STEP_TASKS_PER_NODE"], _number(environment, "SLURM_NODEID")),
        master_address=first_host(environment["SLURM_STEP_NODELIST"]),
        # Steps of one job may run beside each other, and what is left of an earlier start may still be there.
        master_port=FIRST_PORT + (job + STEP_APART * step + START_APART * start) % PORTS,
        meeting=f"{job}.{step}.{start}",
        launcher="srun",
    )


def _tasks_of_step(environment: Mapping[str, str]) -> int:
    # The shell that salloc may open on a node is a step of one task that has the whole allocation's SLURM_NTASKS.
    for name in ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"):
        if environment.get(name):
            return _number(environment, name)
    return 1


def _number(environment: Mapping[str, str], name: str) -> int:
    try:
        return int(environment[name])
    except ValueError:
        raise ValueError(
            f"{name}={environment[name]!r} is no number; a launcher sets it, so unset it to run as one process, or "
            "start this by the launcher itself"
        ) from None


def is_first_on_node(environment: Mapping[str, str] | None = None) -> bool:
    """Whether the launcher calls this process its first on this node; also where none started it."""
    environment = os.environ if environment is None else environment
    return next((environment[name] for name in LOCAL_RANKS if name in environment), "0") == "0"


def tasks_of_node(tasks_per_node: str, node: int) -> int:
    """Number of tasks on the ``node``-th node by Slurm's short form, e.g. ``2(x3),1`` for 2, 2, 2 and 1."""
    counts: list[int] = []
    for group in tasks_per_node.split(","):
        count, _, times = group.partition("(x")
        counts += [int(count)] * int(times.rstrip(")") or 1)
    return counts[node]


def _refuse_half_set(environment: Mapping[str, str], names: tuple[str, ...], launcher: str) -> None:
    missing = [name for name in names if not environment.get(name)]
    if missing:
        raise ValueError(
            f"{launcher}'s environment is half set ({', '.join(missing)} missing); start the job by {launcher} itself, "
            f"or unset its other variables to run as one process"
        )


def _first_host(node_list: str) -> str:
    if shutil.which("scontrol") is None:
        raise ValueError(f"the master of SLURM_STEP_NODELIST={node_list} cannot be resolved: scontrol is not on PATH")
    try:
        shown = subprocess.run(["scontrol", "show", "hostnames", node_list], capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired:
        raise ValueError(
            f"the master of SLURM_STEP_NODELIST={node_list} cannot be resolved: scontrol has not answered for a minute"
        ) from None
    hosts = shown.stdout.split()
    if shown.returncode or not hosts:
        raise ValueError(
            f"the master of SLURM_STEP_NODELIST={node_list} cannot be resolved: scontrol says {shown.stderr.strip()!r}"
        )
    return hosts[0]
