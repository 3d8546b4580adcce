"""Station 6, cluster: what Slurm is asked for each batch of jobs, in submitit's words."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import drdg
from drdg.cluster.packing import Batch, dependency
from drdg.cluster.requeue import START
from drdg.cluster.state import logs_of
from drdg.config.sweep import ResourcesConfig, SweepConfig
from drdg.sweep.spec import REPORT, SHARDS

CHECKOUT = Path(drdg.__file__).parents[1]
# As in slurm/drdg_multinode.sbatch: a process that dies ends the others within two minutes, in which the first finishes
# its MLflow run; where a process finds the others it is told by Slurm, not by MPI.
SRUN = ("--kill-on-bad-exit=0", "--wait=120", "--mpi=none", "--export=ALL", "--open-mode=append")
# How often submitit lets a job reach its time limit.
ENDLESS = 1_000_000


def resources(settings: SweepConfig, stage: str) -> ResourcesConfig:
    """What a stage asks of a cluster."""
    if stage in (SHARDS, REPORT):
        return settings.shards
    return settings.gan if stage == "gan" else settings.single


def parameters(settings: SweepConfig, batch: Batch, name: str, waits_for: str, folder: str) -> dict[str, Any]:
    """The parameters of submitit's Slurm executor for jobs started in ``folder``."""
    wanted = resources(settings, batch.stage)
    given: dict[str, Any] = {
        "job_name": name,
        "nodes": wanted.nodes,
        "ntasks_per_node": wanted.processes,
        "gpus_per_node": wanted.gpus or None,
        "cpus_per_task": wanted.cpus,
        "mem": f"{round(wanted.memory_gb * 1024)}M",
        "time": wanted.minutes,
        "partition": settings.partition,
        "account": settings.account,
        "qos": settings.qos,
        "constraint": settings.constraint,
        "dependency": waits_for or None,
        "signal_delay_s": settings.signal_s,
        "array_parallelism": settings.at_once,
        "stderr_to_stdout": True,
        "srun_args": list(SRUN),
        "setup": setup(folder),
        "wckey": None,  # submitit's own, which sites that count by such keys do not know
        "additional_parameters": {"kill-on-invalid-dep": "yes", "requeue": True, **wanted.options},
    }
    return given


def setup(folder: str) -> list[str]:
    """What the batch script does before it starts the processes."""
    lines = [
        f"cd {shlex.quote(folder)} || exit",
        # Slurm tells the processes to end, too, and they may still save; without this the script would be gone before.
        "trap : TERM USR1 USR2",
        f"export {START}=${{SLURM_RESTART_COUNT:-0}}",
    ]
    if (environment := CHECKOUT / "slurm/environment.sh").is_file():
        lines.append(f': "${{DRDG_VENV:={sys.prefix}}}"')
        lines.append(f"source {shlex.quote(str(environment))}")
    return lines


def text(settings: SweepConfig, sweep: Path, batch: Batch, name: str, waits_for: str, folder: str) -> str:
    """The batch script, as submitit writes it; also where there is no Slurm."""
    from submitit.slurm.slurm import _make_sbatch_string

    logs = logs_of(sweep, name)
    command = f"{shlex.quote(sys.executable)} -u -m submitit.core._submit {shlex.quote(str(logs))}"
    given = parameters(settings, batch, name, waits_for, folder)
    count = len(batch.jobs) if batch.is_array else None
    written: str = _make_sbatch_string(command=command, folder=logs, map_count=count, **given)
    return written


def described(
    settings: SweepConfig, sweep: Path, batches: Sequence[Batch], name_of: Callable[[Batch], str], folder: str
) -> str:
    """All batches as they would be handed in, with names where the numbers of others will stand."""
    names = [name_of(batch) for batch in batches]
    placeholders: Mapping[int, str] = {number: f"<{name}>" for number, name in enumerate(names)}
    written = []
    for batch, name in zip(batches, names, strict=True):
        waits_for = dependency(batch, placeholders, batches)
        keys = "".join(f"# {index}: {job.key}\n" for index, job in enumerate(batch.jobs))
        written.append(f"{keys}{text(settings, sweep, batch, name, waits_for, folder)}")
    graph = "".join(
        f"{name} ({len(batch.jobs)}): {dependency(batch, placeholders, batches) or 'waits for nothing'}\n"
        for batch, name in zip(batches, names, strict=True)
    )
    return f"{graph}\n" + "\n".join(written)
