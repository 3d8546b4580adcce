"""Trains translators on several ranks for the tests: reads a plan, starts the ranks, runs its jobs in order.

torch and DeepSpeed are imported once and every rank is a fork of this process, so that many runs of many kinds cost one
start. A job is {"ranks", "out", "overrides"} and maybe "translator" (drdg by default) or "objective" (which trains a
segmentor), "until" (an iteration in which it is told to stop), "after" (a folder, a copy of which it continues),
"lower_rates" (let both schedules fall before the first iteration), "probe" (the name of a function below to call
instead) and "refused" (keep what the error says).
"""

from __future__ import annotations

import importlib
import inspect
import itertools
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing

from drdg.config import Config, load_config
from drdg.distributed.engines import DdpEngine
from drdg.distributed.group import Group, process_group
from drdg.distributed.topology import Topology
from drdg.methods import needs_dsm
from drdg.shards.store import ShardStore
from drdg.shards.stream import UnpairedStream
from drdg.training.gan import GanTrainer
from drdg.training.journal import Journal
from drdg.training.loop import Trainer
from drdg.training.preemption import Stopped
from drdg.training.segmentation import Lesson, SegmentorTrainer

Job = dict[str, Any]
SENT: list[tuple[str, int]] = []
"""The collectives since somebody emptied the list: their names and the bytes that this rank puts in."""


def main(plan: dict[str, Any]) -> None:
    if any("backend=deepspeed" in override for job in plan["jobs"] for override in job["overrides"]):
        import_deepspeed()
    torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])  # the first optimizer imports torch's compiler
    for number, (ranks, jobs) in enumerate(itertools.groupby(plan["jobs"], key=lambda job: job["ranks"])):
        work = (plan, list(jobs), plan["port"] + number)
        torch.multiprocessing.start_processes(be_rank, work, nprocs=ranks, start_method="fork")


def import_deepspeed() -> None:
    """With what its first engine imports, which is most of it: torch's compiler, for an optimizer nobody here uses."""
    os.environ["DS_ACCELERATOR"] = "cpu"
    for module in ("runtime.zero.muon.original_muon", "runtime.zero.stage_1_and_2", "comm.mori"):
        importlib.import_module(f"deepspeed.{module}")
    importlib.import_module("setuptools")


def be_rank(rank: int, plan: dict[str, Any], jobs: list[Job], port: int) -> None:
    torch.set_num_threads(1)
    count_what_is_sent()
    configs = [load_config(plan["config"], job["overrides"]) for job in jobs]
    if jobs[0]["ranks"] == 1:  # a process group for each, as rows of a pipeline have
        for job, config in zip(jobs, configs, strict=True):
            with process_group(config.distributed, Topology()) as group:
                do(job, config, plan, group)
        return
    by_deepspeed = [config for config in configs if config.distributed.backend == "deepspeed"]
    topology = Topology(rank, jobs[0]["ranks"], rank, jobs[0]["ranks"], "127.0.0.1", port, "test")
    with process_group((by_deepspeed or configs)[0].distributed, topology) as group:
        for job, config in zip(jobs, configs, strict=True):
            do(job, config, plan, group)


def do(job: Job, config: Config, plan: dict[str, Any], group: Group) -> None:
    out = Path(job["out"])
    if job.get("after") and group.is_first:
        shutil.copytree(job["after"], out)
        for weights in out.glob("*.safetensors"):
            weights.unlink()
    group.barrier()
    try:
        trainer = trainer_of(job, config, plan, out, group)
    except ValueError as error:
        if job.get("refused"):
            keep(str(error), out, group)
            return
        raise
    if job.get("lower_rates"):
        for schedule in trainer.rates.plateaus:
            schedule.step(-1e9)
            schedule.step(0.0)
    trainer.resume()
    if job.get("probe"):
        keep(globals()[job["probe"]](trainer), out, group)
        return
    if job.get("until"):
        tell_to_stop(trainer, job["until"])
        try:
            trainer.train(quiet=True)
        except Stopped:
            return
    trainer.train(quiet=True)
    trainer.finish()


def tell_to_stop(trainer: Trainer, iteration: int) -> None:
    """Let rank 0 get a scheduler's signal in that iteration."""
    iterate = trainer.iterate

    def told(batch: dict[str, torch.Tensor]) -> None:
        iterate(batch)
        if trainer.iteration == iteration and trainer.group.is_first:
            os.kill(os.getpid(), signal.SIGUSR1)

    trainer.iterate = told  # type: ignore[method-assign]


def trainer_of(job: Job, config: Config, plan: dict[str, Any], out: Path, group: Group) -> Trainer:
    source, target = Path(plan["source"]), Path(plan["target"])
    if objective := job.get("objective"):
        lesson = Lesson(source, objective, target, source)
        return SegmentorTrainer(config, lesson, out, group, None, Journal())
    name = job.get("translator", "drdg")
    need_dsm = needs_dsm(name, config)
    stream = UnpairedStream(ShardStore(source), ShardStore(target), seed=0, need_dsm=need_dsm, dsm=config.dsm)
    return GanTrainer(name, config, stream, out, group, Journal())


def keep(result: Any, out: Path, group: Group) -> None:
    out.mkdir(parents=True, exist_ok=True)
    torch.save(result, out / f"rank{group.rank}.pt")


def count_what_is_sent() -> None:
    for name in ("all_reduce", "reduce", "broadcast", "all_gather", "all_gather_into_tensor", "reduce_scatter_tensor"):
        setattr(dist, name, counted(name, getattr(dist, name)))


def counted(name: str, collective: Callable[..., Any]) -> Callable[..., Any]:
    what_goes_in = ("tensor", "input", "input_tensor")
    names = list(inspect.signature(collective).parameters)

    @wraps(collective)
    def call(*arguments: Any, **named: Any) -> Any:
        given = dict(zip(names, arguments, strict=False)) | named
        SENT.append((name, next(given[known].nbytes for known in what_goes_in if known in given)))
        return collective(*arguments, **named)

    return call


def probe_phases(trainer: GanTrainer) -> list[dict[str, Any]]:
    """For each phase: what its update sends, whose gradients it computes, and whether its networks are what its
    optimizer updates.
    """
    networks = trainer.translator.networks
    place = {"rank": trainer.group.rank, "world_size": trainer.group.world_size}
    (batch,) = trainer.stream.batches(0, 1, **place, batch_size=trainer.batch_per_rank, workers=0)
    batch = trainer.stream.to_device(batch, trainer.group.device)
    computed: set[str] = set()
    for name, parameter in networks.named_parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(lambda _, name=name: computed.add(name))
    seen = []
    for phase, engine in zip(trainer.phases, trainer.engines, strict=True):
        if isinstance(engine, DdpEngine):  # which sends from C++
            engine.wrapped.register_comm_hook(None, lambda _, bucket: average(bucket))
        networks.zero_grad(set_to_none=True)
        computed.clear()
        SENT.clear()
        engine.update(batch)
        sent = list(SENT)
        ids = {id(parameter) for parameter in phase.module.parameters() if parameter.requires_grad}
        own = {name: parameter for name, parameter in networks.named_parameters() if id(parameter) in ids}
        seen.append(
            {
                "own": set(own),
                "bytes": sum(parameter.nbytes for parameter in own.values()),
                "computed": set(computed),
                "sent": sent,
                "networks": [parameter.detach().clone() for parameter in own.values()],
                "masters": masters(engine),
            }
        )
    return seen


def average(bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
    SENT.append(("bucket", bucket.buffer().nbytes))
    work = dist.distributed_c10d.all_reduce(bucket.buffer().div_(dist.get_world_size()), async_op=True)
    return work.get_future().then(lambda future: future.value()[0])


def masters(engine: Any) -> list[torch.Tensor]:
    """The weights that the engine's optimizer updates, whole."""
    if getattr(engine, "partitions", None):
        return [weights for partition in engine.partitions for weights in partition.whole(partition.piece)]
    return [weights.detach().clone() for options in engine.optimizer.param_groups for weights in options["params"]]


def probe_timeout(trainer: GanTrainer) -> float:
    """Seconds after which a collective of DeepSpeed's own process group gives up."""
    group = trainer.engines[0].engine.seq_data_parallel_group  # type: ignore[attr-defined]
    return group._get_backend(torch.device("cpu")).options._timeout.total_seconds()


def probe_gradients_that_are_not_finite(trainer: GanTrainer) -> str:
    """What a run says whose first critic loses its head."""
    with torch.no_grad():
        trainer.phases[0].module.source_critic.head.weight.fill_(torch.nan)
    try:
        trainer.train(quiet=True)
        trainer.finish()
    except FloatingPointError as error:
        return str(error)
    return ""


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
