"""Station 7, bench: one rank that trains in several ways in turn, and what it measures of itself.

A way of training is a *side*: ``alone`` is this rank by itself, without a process group; ``ddp`` and ``zero0`` to
``zero2`` are all ranks together; ``own`` is as ``alone``, with networks of the configuration's own width.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from drdg.bench.scaling_ranks import Place
from drdg.bench.scaling_sent import Collectives, Owned, bytes_sent_by_tcp, gathered, reduced
from drdg.bench.scaling_sizes import RANKS
from drdg.bench.timing import collector_at_rest
from drdg.config import Config
from drdg.distributed.engines import Engine
from drdg.distributed.group import Group, process_group
from drdg.distributed.microbatches import Result
from drdg.distributed.topology import Topology
from drdg.methods import Phase
from drdg.shards.store import ShardStore
from drdg.shards.stream import UnpairedStream
from drdg.training.gan import GanTrainer
from drdg.training.journal import Journal
from drdg.training.loop import learned


@contextmanager
def worker(place: Place, rank: int, port: int) -> Iterator[Worker]:
    """Join the other rank, if a side needs it."""
    config = place.config
    if any(side.startswith("zero") for side in place.sides):
        config = side_config(config, next(side for side in place.sides if side.startswith("zero")))
    topology = Topology(rank, RANKS, rank, RANKS, "127.0.0.1", port, "bench")
    with process_group(config.distributed, topology) as group:
        yield Worker(place, group)


def side_config(config: Config, side: str) -> Config:
    """The bench's configuration for one side; DeepSpeed's settings are beside those that the configuration names."""
    distributed: dict[str, Any] = {"backend": "ddp"}
    pairs = RANKS
    if side in ("alone", "own"):
        distributed, pairs = {"backend": "single"}, 1
    elif side.startswith("zero"):
        path = config.distributed.deepspeed.with_name(f"{side}.json")
        distributed = {"backend": "deepspeed", "deepspeed": path}
    return config.model_copy(
        update={
            "gan": config.gan.model_copy(update={"batch_size": pairs}),
            "distributed": config.distributed.model_copy(update=distributed),
        }
    )


class Worker:
    """What the bench asks of a rank, one method for each question."""

    def __init__(self, place: Place, group: Group):
        self.place, self.group = place, group
        stores = [ShardStore(folder) for folder in place.shards]
        self.stream = UnpairedStream(stores[0], stores[1], seed=0, need_dsm=True, dsm=place.config.dsm)
        # All at once and in the same order on all ranks: DeepSpeed's engines make groups of processes.
        self.trainers = {side: self._trainer(side, place.config) for side in place.sides if side != "own"}

    def _trainer(self, side: str, config: Config) -> GanTrainer:
        group = Group(Topology(), self.group.device) if side in ("alone", "own") else self.group
        out = self.place.out / f"{side}-{self.group.rank if group is not self.group else 'all'}"
        return GanTrainer("drdg", side_config(config, side), self.stream, out, group, Journal())

    def train(self, side: str, iterations: int) -> float:
        """Seconds of so many iterations of the loop itself, data, logging and all."""
        trainer = self.trainers[side]
        last = trainer.iteration + iterations
        trainer.knobs = trainer.knobs.model_copy(update={"iterations": last})
        trainer.group.barrier()
        with collector_at_rest():
            began = time.perf_counter()
            trainer.train(quiet=True)
            return time.perf_counter() - began

    def sent(self, side: str, iterations: int) -> dict[str, Any]:
        """Bytes of so many iterations: ``gradients`` and ``weights`` given to collectives, by phase; ``frozen``, the
        gradients that were computed for networks that the phase at work does not update; ``wire``, all that the
        kernel sent for this process meanwhile.
        """
        trainer = self.trainers[side]
        dtype = next(trainer.translator.networks.parameters()).dtype
        with watched(trainer) as watch:
            before = bytes_sent_by_tcp()
            self.train(side, iterations)
            wire = bytes_sent_by_tcp() - before
        return {
            "gradients": {phase: reduced(seen, dtype) for phase, seen in watch.sent.items()},
            "weights": {phase: gathered(seen, dtype) for phase, seen in watch.sent.items()},
            "frozen": watch.frozen,
            "wire": wire,
        }

    def owned(self, side: str) -> dict[str, Owned]:
        """What each phase updates, as its networks have it."""
        return {phase.name: _owned(phase) for phase in self.trainers[side].phases}

    def overlap(self, side: str, iterations: int) -> dict[str, tuple[float, float]]:
        """For each phase, the seconds over which its gradients become ready, and those that it takes in all; of this
        thread, which does all of it, so that whatever else is on its core does not count.

        Were they ready evenly over the last ``w`` seconds of the backward, they would wait ``w / 2`` seconds for its
        end on average; so ``w`` is twice that average over bytes.
        """
        with watched(self.trainers[side]) as watch:
            self.train(side, iterations)
        spans = {}
        for phase, updates in watch.ready.items():
            windows = []
            for moments in updates:
                last = max(moment for moment, _ in moments)
                waiting = sum((last - moment) * size for moment, size in moments)
                windows.append(2 * waiting / sum(size for _, size in moments))
            spans[phase] = (sum(windows) / len(windows), sum(watch.seconds[phase]) / len(windows))
        return spans

    def checkpoint(self, side: str) -> tuple[float, float]:
        """Seconds for which training stands still for a checkpoint, and until that is whole on the disk."""
        trainer = self.trainers[side]
        trainer.group.barrier()
        began = time.perf_counter()
        trainer.checkpoint()
        # By this clock and by the training's own, whichever has seen more.
        blocked = max(time.perf_counter() - began, trainer.checkpoint_stall_s[-1])
        trainer.accord.settle_writing()
        return blocked, time.perf_counter() - began

    def make_own(self, width: int) -> int:
        """Make the networks of the configuration's own size, with optimizers that have their state; their weights."""
        config = self.place.config
        wide = {name: getattr(config, name).model_copy(update={"width": width}) for name in ("generator", "critic")}
        trainer = self._trainer("own", config.model_copy(update=wide))
        for engine in trainer.engines:
            for options in engine.optimizer.param_groups:
                for parameter in options["params"]:
                    parameter.grad = torch.zeros_like(parameter)
            engine.optimizer.step()
            engine.optimizer.zero_grad(set_to_none=True)
        self.trainers["own"] = trainer
        return sum(parameter.numel() for parameter in trainer.translator.networks.parameters())

    def go_on(self, side: str) -> None:
        """Count an iteration that was not done, so that the next checkpoint is another one."""
        self.trainers[side].iteration += 1


class Watch:
    """What was seen of a trainer's updates, by phase."""

    def __init__(self) -> None:
        self.phase = ""
        self.sent: dict[str, list[Any]] = {}
        self.ready: dict[str, list[list[tuple[float, int]]]] = {}
        self.seconds: dict[str, list[float]] = {}
        self.frozen = 0


class WatchedEngine:
    """An engine whose updates are watched."""

    def __init__(self, engine: Engine, phase: str, watch: Watch):
        self.engine, self.phase, self.watch = engine, phase, watch
        self.optimizer = engine.optimizer

    def update(self, batch: dict[str, Tensor]) -> Result:
        """The engine's own update."""
        self.watch.phase = self.phase
        self.watch.ready.setdefault(self.phase, []).append([])
        began = time.thread_time()
        with Collectives() as collectives:
            result = self.engine.update(batch)
        self.watch.seconds.setdefault(self.phase, []).append(time.thread_time() - began)
        self.watch.sent.setdefault(self.phase, []).extend(collectives.seen)
        return result

    def state_dict(self) -> dict[str, Any]:
        """The engine's own."""
        return self.engine.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The engine's own."""
        self.engine.load_state_dict(state)


@contextmanager
def watched(trainer: GanTrainer) -> Iterator[Watch]:
    """Watch every update within the block: its collectives, and when which gradient is there."""
    watch = Watch()
    engines = trainer.engines
    trainer.engines = [
        WatchedEngine(engine, phase.name, watch) for phase, engine in zip(trainer.phases, engines, strict=True)
    ]
    with ExitStack() as hooks:
        for phase in trainer.phases:
            for parameter in learned(phase.module):
                hook = parameter.register_post_accumulate_grad_hook(_note(watch, phase.name))
                hooks.callback(hook.remove)
        try:
            yield watch
        finally:
            trainer.engines = engines


def _note(watch: Watch, owner: str) -> Any:
    def ready(parameter: Tensor) -> None:
        if watch.phase == owner:
            watch.ready[owner][-1].append((time.thread_time(), parameter.nbytes))
        else:
            watch.frozen += parameter.nbytes

    return ready


def _owned(phase: Phase) -> Owned:
    parameters = learned(phase.module)
    return Owned(sum(parameter.numel() for parameter in parameters), parameters[0].element_size(), phase.every)
