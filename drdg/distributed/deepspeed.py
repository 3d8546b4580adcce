"""Station 3, ranks: a phase updated by DeepSpeed, the only file that imports it (which takes six seconds).

One DeepSpeed engine has one phase: both generators, or both critics. The forward goes through the phase itself, not
through the engine: the gradient penalty differentiates twice, and the other phase's networks are guests whose engine
must not notice. Then one backward of the phase's whole loss, through the engine.
"""

from __future__ import annotations

import os
import warnings
from argparse import Namespace
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import Parameter
from torch.optim import Optimizer

from drdg.config import Config, DistributedConfig
from drdg.distributed.deepspeed_settings import complete, read_settings, stage_of
from drdg.distributed.group import Group
from drdg.distributed.microbatches import Result, add_up, split
from drdg.distributed.partitions import Partition, cut_state, whole_state
from drdg.distributed.topology import Topology


class DeepSpeedEngine:
    """The phase with its gradients, and at ZeRO 1 and 2 its optimizer's state, shared by DeepSpeed."""

    def __init__(
        self, config: Config, group: Group, phase: nn.Module, optimizer: Optimizer, micro_batches: int, precision: str
    ):
        settings = read_settings(config.distributed.deepspeed)
        self.phase, self.optimizer, self.micro_batches = phase, optimizer, micro_batches
        # DeepSpeed puts its own tensors in the optimizer: float32 copies, or a flat piece for each group.
        groups: list[list[Parameter]] = [list(options["params"]) for options in optimizer.param_groups]
        self.parameters = [parameter for parameters in groups for parameter in parameters]
        self.has_masters = precision == "bfloat16"
        weights = [parameter.detach().clone() for parameter in self.parameters]
        self.engine = self._start(config, group, settings)
        # At stage 0 with bfloat16 it has made a step on zeros, after which Adam would count from 2.
        optimizer.state.clear()
        self.partitions = [
            Partition(parameters, options["params"][0], group)
            for parameters, options in zip(groups, optimizer.param_groups, strict=True)
            if stage_of(settings) > 0
        ]
        self._set_weights(weights)  # its float32 copies are those of rounded weights

    def _start(self, config: Config, group: Group, settings: dict[str, Any]) -> Any:
        import deepspeed
        from pydantic import ValidationError

        whole = complete(settings, micro_batches=self.micro_batches, bfloat16=self.has_masters)
        try:
            engine, *_ = deepspeed.initialize(
                args=Namespace(device_rank=group.device.index or 0),
                model=self.phase,
                model_parameters=self.parameters,
                optimizer=self.optimizer,
                config=whole,
            )
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"])
            raise ValueError(f"{config.distributed.deepspeed}: DeepSpeed refuses {key}: {first['msg']}") from error
        return engine

    def update(self, batch: dict[str, Tensor]) -> Result:
        """One optimizer step, after a forward and a backward for each micro-batch. Raises ``FloatingPointError`` when
        DeepSpeed leaves the step out because of gradients that are not finite.
        """
        results: list[tuple[float, Result]] = []
        for micro_batch, share in split(batch, self.micro_batches):
            loss, parts = self.phase(micro_batch)
            self.engine.backward(share * loss, scale_wrt_gas=False)
            self.engine.step()  # which counts micro-batches, and is one at the last of them
            results.append((share, (loss.detach(), parts)))
        if self.engine.skipped_steps:
            raise FloatingPointError("DeepSpeed left out an update whose gradients are not finite")
        return add_up(results)

    def state_dict(self) -> dict[str, Any]:
        """torch's own state over whole parameters and, for bfloat16, ``masters``, the float32 weights. Every rank must
        call it.
        """
        state = self.optimizer.state_dict()
        if self.partitions:
            state = whole_state(state, self.partitions)
        return {**state, "masters": self._masters()} if self.has_masters else state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what any backend's ``state_dict`` gave, after the networks have got their weights."""
        weights = state.get("masters", [parameter.detach().float() for parameter in self.parameters])
        plain = {name: state[name] for name in ("state", "param_groups")}
        self.optimizer.load_state_dict(cut_state(plain, self.partitions) if self.partitions else plain)
        self._set_weights(weights)

    def _masters(self) -> list[Tensor]:
        if self.partitions:
            return [weights for partition in self.partitions for weights in partition.whole(partition.piece)]
        copies = [copy for options in self.optimizer.param_groups for copy in options["params"]]
        return [copy.detach().clone() for copy in copies]

    @torch.no_grad()
    def _set_weights(self, weights: list[Tensor]) -> None:
        """Give networks and optimizer these float32 weights, one for each parameter."""
        for parameter, values in zip(self.parameters, weights, strict=True):
            parameter.copy_(values)
        if not self.partitions:
            copies = [copy for options in self.optimizer.param_groups for copy in options["params"]]
            for copy, values in zip(copies, weights, strict=True):
                copy.copy_(values)
        first = 0
        for partition in self.partitions:
            count = len(partition.parameters)
            partition.piece.copy_(partition.cut(weights[first : first + count]))
            first += count


def require(config: DistributedConfig, device: torch.device) -> None:
    """Import DeepSpeed for ``device``. Raises ``ValueError`` when that, or its settings, cannot be used."""
    read_settings(config.deepspeed)
    if device.type == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"  # it looks for GPUs by itself, and when it is imported
    try:
        import deepspeed
    except ImportError as error:
        raise ValueError(
            f"distributed.backend=deepspeed needs a library that is not here ({error}); pip install 'drdg[deepspeed]'"
        ) from error
    # Below are its settings, at length, and that it does not know RMSprop.
    deepspeed.utils.logger.setLevel("ERROR")
    # It calls what torch 2.13 is about to rename; nobody who reads that could do anything about it.
    warnings.filterwarnings("ignore", message=".*(all_gather|reduce_scatter).*deprecated", category=FutureWarning)
    if device.type == "cpu":
        # Only its inference uses this operator, which it would compile, for a minute or more.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def adopt(topology: Topology, timeout: timedelta) -> None:
    """Let DeepSpeed work in the process group that there is. Every rank must call it."""
    from deepspeed.utils import groups

    os.environ["LOCAL_RANK"] = str(topology.local_rank)  # it wants to see one, whoever started this process
    # It would make a copy of the group with torch's timeout instead of ours, and keep that when the group has ended.
    groups._WORLD_GROUP = dist.new_group(range(topology.world_size), timeout=timeout)
