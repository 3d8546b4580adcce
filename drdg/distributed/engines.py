"""Station 3, ranks: how a phase is updated on one rank or on many; DeepSpeed's way is in ``deepspeed.py``.

A phase has one forward and one backward for each micro-batch. That is what makes the gradient penalty's double backward
and the gradient reduction safe together: of several backwards, DDP would reduce some and not others, without a word.
"""

from __future__ import annotations

import inspect
import weakref
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from drdg.config import Config
from drdg.distributed.group import Group
from drdg.distributed.microbatches import Result, add_up, split

# How DDP is told not to send buffers: torch 2.13 warns of the one word, and older versions do not know the other.
_knows = inspect.signature(DistributedDataParallel.__init__).parameters
WITHOUT_BUFFERS: dict[str, Any] = {
    "forward_sync_buffers" if "forward_sync_buffers" in _knows else "broadcast_buffers": False
}


class Engine(Protocol):
    """One phase with its optimizer, kept equal on all ranks."""

    optimizer: Optimizer
    """torch's own, whose ``param_groups`` hold the learning rates."""

    def update(self, batch: dict[str, Tensor]) -> Result:
        """One optimizer step on the gradients of this rank's ``batch`` and of the others'. Gives this rank's detached
        loss and its parts.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """The optimizer's state over whole parameters, as torch's own ``state_dict`` is, whatever the backend and the
        number of ranks, so that each can load it. Every rank must call it.
        """
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what any backend's ``state_dict`` gave, after the networks have got their weights."""
        ...


class PlainEngine:
    """The phase itself, on one rank."""

    def __init__(self, phase: nn.Module, optimizer: Optimizer, micro_batches: int = 1):
        self.phase = phase
        self.optimizer = optimizer
        self.micro_batches = micro_batches

    def update(self, batch: dict[str, Tensor]) -> Result:
        """One optimizer step, after a forward and a backward for each micro-batch."""
        self.optimizer.zero_grad(set_to_none=True)
        results: list[tuple[float, Result]] = []
        for micro_batch, share in split(batch, self.micro_batches):
            is_last = len(results) == self.micro_batches - 1
            with nullcontext() if is_last else self.alone():
                loss, parts = self.phase(micro_batch)
                (share * loss).backward()
            results.append((share, (loss.detach(), parts)))
        self.optimizer.step()
        return add_up(results)

    def alone(self) -> AbstractContextManager[None]:
        """Gradients of forwards and backwards in the block stay on this rank until those of the next one go."""
        return nullcontext()

    def state_dict(self) -> dict[str, Any]:
        """The optimizer's own state."""
        return self.optimizer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what any backend's ``state_dict`` gave."""
        self.optimizer.load_state_dict(state)


class DdpEngine(PlainEngine):
    """The phase with its gradients averaged over ranks while they are computed."""

    def __init__(
        self, group: Group, phase: nn.Module, optimizer: Optimizer, micro_batches: int = 1, finds_unused: bool = False
    ):
        # No static_graph: with a penalty's double backward it skips the reduction without a word (torch 2.13).
        # Buffers, the running statistics of norms that look at all ranks' samples, are equal without being sent.
        devices = [group.device.index] if group.device.type == "cuda" else None
        # To look for unused parameters, of which there are none, is what keeps DDP from packing its buckets anew after
        # the first iteration. In which order three ranks or more add their gradients up depends on a weight's place in
        # its bucket, so an iteration would differ in the last bit when it is the first after a restart. GPUs promise
        # no bits, and there the buckets had better follow the order in which gradients come.
        self.wrapped = DistributedDataParallel(
            phase,
            device_ids=devices,
            gradient_as_bucket_view=True,
            **WITHOUT_BUFFERS,
            find_unused_parameters=finds_unused or group.device.type == "cpu",
        )
        super().__init__(self.wrapped, optimizer, micro_batches)
        wrapped = weakref.ref(self.wrapped)
        group.before_leaving(lambda: _let_go(wrapped()))

    def alone(self) -> AbstractContextManager[None]:
        """Gradients in the block are not sent; DDP sends their sum with the next ones."""
        return self.wrapped.no_sync()


def _let_go(wrapped: DistributedDataParallel | None) -> None:
    """Take from what is left of a training, as an error's frames hold it, its hold on the connections.

    When the reducer is the last to know them, they are closed by whoever forgets it, who has the interpreter's lock and
    waits for gloo's threads; and one of these may be waiting for that lock, to forget a tensor that it has sent. Such a
    rank never ends (pytorch issue 56297).
    """
    if wrapped is not None:
        wrapped.__dict__.pop("reducer", None)
        wrapped.__dict__["logger"] = None  # which knows the reducer


def build_engine(
    config: Config,
    group: Group,
    phase: nn.Module,
    optimizer: Optimizer,
    *,
    micro_batches: int = 1,
    precision: str = "float32",
    finds_unused: bool = False,
) -> Engine:
    """The engine that ``distributed.backend`` asks for. ``phase`` must have float32 (or float64) parameters yet.

    ``finds_unused`` is for phases that may have parameters on which their loss does not depend.
    """
    backend = config.distributed.backend
    if backend == "deepspeed":
        from drdg.distributed.deepspeed import DeepSpeedEngine

        return DeepSpeedEngine(config, group, phase, optimizer, micro_batches, precision)
    if backend == "ddp" and group.world_size == 1:
        raise ValueError("distributed.backend=ddp needs more than one rank; start them by torchrun or srun")
    if backend == "ddp" or (backend == "auto" and group.world_size > 1):
        return DdpEngine(group, phase, optimizer, micro_batches, finds_unused)
    return PlainEngine(phase, optimizer, micro_batches)
