"""The knobs of a sweep: what each kind of its jobs asks of a cluster, and how much of this machine it may take."""

from __future__ import annotations

from pydantic import Field

from drdg.config.archives import Section


class ResourcesConfig(Section):
    """What one kind of job asks for."""

    nodes: int = Field(default=1, ge=1)
    """Machines of one job."""
    processes: int = Field(default=1, ge=1)
    """Ranks on each machine; on a GPU machine as many as it has GPUs."""
    gpus: int = Field(default=1, ge=0)
    """GPUs of each machine; 0 for none."""
    cpus: int = Field(default=4, ge=1)
    """Cores of each rank."""
    memory_gb: float = Field(default=32.0, gt=0)
    """Memory of each machine in GB (10^9 bytes are meant as Slurm means them, 1024^3)."""
    minutes: int = Field(default=1440, ge=1)
    """Time limit. A job that reaches it saves before, is queued again and continues."""
    options: dict[str, str] = Field(default={})
    """Further options of ``sbatch`` by their long names, as ``{reservation: spring}``."""


class SweepConfig(Section):
    """How a sweep's jobs run; no result depends on it."""

    shards: ResourcesConfig = ResourcesConfig(gpus=0, cpus=8, minutes=240)
    """Building the shards of a direction, and the report."""
    gan: ResourcesConfig = ResourcesConfig()
    """Training a translator: the stage for several machines. ``gan.batch_size`` must be a multiple of all its ranks."""
    single: ResourcesConfig = ResourcesConfig()
    """Translating, training a segmentor and scoring it: one process each, packed as job arrays."""
    at_once: int = Field(default=16, ge=1)
    """Most tasks of one job array that run at a time."""
    partition: str | None = None
    """Slurm's partition; null for the cluster's default."""
    account: str | None = None
    """Slurm's account; null for yours."""
    qos: str | None = None
    """Slurm's quality of service; null for the default."""
    constraint: str | None = None
    """Slurm's constraint on nodes' features, as ``h200``."""
    signal_s: int = Field(default=180, ge=10)
    """Seconds before the time limit at which a job is told to save; more than an iteration and a checkpoint take."""
    local_cores: int | None = Field(default=None, ge=1)
    """Cores of this machine that the local executor may use in all; null for all that this process may."""
    local_cores_per_job: int | None = Field(default=None, ge=1)
    """Cores of each of its jobs; null for ``distributed.processes`` for a GAN and 1 for all others, and on a machine
    with GPUs for no fewer than each GPU's share of the cores."""
