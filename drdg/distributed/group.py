"""Station 3, ranks: the process group, its device, and the few collectives that the loop needs."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
import xxhash
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous

from drdg.config import DistributedConfig
from drdg.distributed.topology import Topology, discover
from drdg.distributed.voice import once_per_run


class Group:
    """All ranks of a run as one of them sees them."""

    def __init__(self, topology: Topology, device: torch.device):
        self.topology = topology
        self.device = device
        self._before_leaving: list[Callable[[], None]] = []

    @property
    def rank(self) -> int:
        """This process's number among all."""
        return self.topology.rank

    @property
    def world_size(self) -> int:
        """How many processes there are."""
        return self.topology.world_size

    @property
    def is_first(self) -> bool:
        """Whether this is the rank that writes and logs."""
        return self.topology.rank == 0

    def before_leaving(self, action: Callable[[], None]) -> None:
        """Have something done before this rank leaves the others, however it comes to that."""
        self._before_leaving.append(action)

    def leave(self) -> None:
        """Do what is to be done before the connections to the others are closed."""
        while self._before_leaving:
            self._before_leaving.pop()()

    def sum(self, values: Tensor) -> Tensor:
        """The sum of ``values`` over all ranks, on every rank."""
        values = values.clone()
        if self.world_size > 1:
            dist.all_reduce(values)
        return values

    def gather(self, values: Tensor) -> Tensor:
        """Every rank's ``values``, stacked in the order of ranks, on every rank."""
        if self.world_size == 1:
            return values[None].clone()
        gathered = [torch.empty_like(values) for _ in range(self.world_size)]
        dist.all_gather(gathered, values.contiguous())
        return torch.stack(gathered)

    def barrier(self) -> None:
        """Wait until every rank is here."""
        if self.world_size > 1:
            dist.barrier()

    def refuse_different(self, network: nn.Module, when: str) -> None:
        """Raise ``RuntimeError`` on every rank unless all have bit-equal parameters."""
        own = torch.tensor(list(bytes.fromhex(fingerprint(network))), dtype=torch.uint8, device=self.device)
        everyone = self.gather(own)
        different = [rank for rank in range(self.world_size) if not torch.equal(everyone[rank], everyone[0])]
        if different:
            raise RuntimeError(
                f"{when}: the parameters of ranks {different} are not those of rank 0; nothing was saved"
            )


def fingerprint(network: nn.Module) -> str:
    """XXH3 (128 bits), which is made at memory speed, of a network's parameters and buffers, in hexadecimal."""
    hasher = xxhash.xxh3_128()
    for name, value in network.state_dict().items():
        hasher.update(name.encode())
        hasher.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy())
    return hasher.hexdigest()


@contextmanager
def process_group(config: DistributedConfig, topology: Topology | None = None) -> Iterator[Group]:
    """Join the run's ranks (gloo on CPUs, nccl on GPUs), and leave them at the end."""
    topology = discover() if topology is None else topology
    if config.backend == "single" and topology.world_size > 1:
        raise ValueError(
            f"distributed.backend=single, but {topology.launcher} started {topology.world_size} ranks; "
            "set distributed.backend=ddp or start one"
        )
    device = pick_device(config, topology)
    if config.backend == "deepspeed":
        from drdg.distributed.deepspeed import require

        require(config, device)  # before anybody waits for this rank
    if config.threads is not None or "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(config.threads or fair_threads(topology.local_world_size))
    if topology.world_size == 1 and config.backend != "deepspeed":
        yield Group(topology, device)
        return
    group = Group(topology, device)
    timeout = timedelta(seconds=config.timeout_s)
    with _naming_who_does_not_come(topology):
        store = _meeting_place(topology, timeout)
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            store=dist.PrefixStore("group", store),
            rank=topology.rank,
            world_size=topology.world_size,
            timeout=timeout,
        )
    try:
        if config.backend == "deepspeed":
            from drdg.distributed.deepspeed import adopt

            adopt(topology, timeout)
        with once_per_run(store, topology):
            yield group
    finally:
        group.leave()
        dist.destroy_process_group()


def _meeting_place(topology: Topology, timeout: timedelta) -> dist.Store:
    """Where ranks find each other: by torchrun's own variables, at the master, or, for DeepSpeed alone, nowhere."""
    if topology.world_size == 1:
        return dist.HashStore()
    where = f"tcp://{topology.master_address}:{topology.master_port}"
    url = "env://" if topology.launcher == "torchrun" else where
    store, _, _ = next(rendezvous(url, topology.rank, topology.world_size, timeout=timeout))
    store.set_timeout(timeout)
    # A stranger at the same port waits for ranks of its own, in vain, and does not take part.
    return dist.PrefixStore(topology.meeting, store) if topology.meeting else store


@contextmanager
def _naming_who_does_not_come(topology: Topology) -> Iterator[None]:
    master = f"{topology.master_address}:{topology.master_port}"
    if topology.world_size > 1:
        try:
            socket.getaddrinfo(topology.master_address, topology.master_port)
        except OSError as error:
            raise ValueError(
                f"rank {topology.rank} cannot resolve the master's name in {master} ({error.strerror or error}); "
                "launch/doctor.py says more"
            ) from None
    try:
        yield
    except dist.DistError as error:
        reason = str(error).strip().partition("\n")[0]
        raise ConnectionError(
            f"rank {topology.rank} of {topology.world_size} has not met the others at {master} ({reason}); "
            "launch/doctor.py, started in the same way, says why"
        ) from error


def fair_threads(processes: int) -> int:
    """Threads for each of ``processes`` on this machine, so that together they use its cores once."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // processes)


def pick_device(config: DistributedConfig, topology: Topology | None = None) -> torch.device:
    """The device that ``distributed.device`` asks for. Raises ``ValueError`` when there are fewer GPUs than ranks."""
    topology = Topology() if topology is None else topology
    if config.device == "cpu" or (config.device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ValueError("distributed.device=cuda, but torch sees no GPU here; set it to auto or cpu")
    visible = torch.cuda.device_count()
    # srun can give each task a GPU of its own, which is then the only one that the task sees.
    index = 0 if visible == 1 and topology.launcher == "srun" else topology.local_rank
    if index >= visible:
        raise ValueError(f"local rank {topology.local_rank} has no GPU: {visible} are visible; start one rank per GPU")
    torch.cuda.set_device(index)
    # float32 is to mean float32, above all in the gradient penalty; by default cuDNN's convolutions would take TF32.
    torch.backends.cudnn.allow_tf32 = False
    return torch.device("cuda", index)
