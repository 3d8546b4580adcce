"""Ranks for the tests that something befalls: each job of a plan is a training by three of them.

They are forks of this process, so that what takes long to import is imported once. A job is {"out", "overrides"} and
maybe "befalls", which happens to rank 1 in the middle of iteration ``AT``. Beside "out" lie the ranks' words on
standard error, ``OUT.RANK.txt``; what rank 0 logs is added to ``OUT.curve``; the ranks' exit statuses
are printed for each job.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from drdg.cli import one_sentence
from drdg.config import load_config
from drdg.distributed.group import process_group
from drdg.distributed.topology import Topology
from drdg.shards.store import ShardStore
from drdg.shards.stream import UnpairedStream
from drdg.training.gan import GanTrainer, train_translator
from drdg.training.journal import Journal

AT = 6
RANKS = 3  # with two, sums would not depend on the order in which they are made


def hang_here() -> None:
    time.sleep(600)


BEFALLS: dict[str, Callable[[], object]] = {
    "USR2": lambda: os.kill(os.getpid(), signal.SIGUSR2),
    "KILL": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "hang": hang_here,
}


def be_rank(rank: int, plan: dict[str, Any], job: dict[str, Any], port: int) -> None:
    out = Path(job["out"])
    os.dup2(os.open(out.with_suffix(f".{rank}.txt"), os.O_CREAT | os.O_WRONLY | os.O_APPEND), 2)
    torch.set_num_threads(1)
    config = load_config(plan["config"], job["overrides"])
    stream = UnpairedStream(
        ShardStore(plan["source"]), ShardStore(plan["target"]), seed=config.run.seed, need_dsm=True, dsm=config.dsm
    )
    iterate = GanTrainer.iterate

    def disturbed(trainer: GanTrainer, batch: dict[str, torch.Tensor]) -> None:
        if trainer.iteration + 1 == AT and rank == 1 and "befalls" in job:
            BEFALLS[job["befalls"]]()
        iterate(trainer, batch)

    def log(values: dict[str, float], step: int) -> None:
        known = {name: value for name, value in values.items() if not name.endswith(("per_s", "percent"))}
        with out.with_suffix(".curve").open("a") as file:
            print(json.dumps([step, known]), file=file)

    GanTrainer.iterate = disturbed  # type: ignore[method-assign]
    topology = Topology(rank, RANKS, rank, RANKS, "127.0.0.1", port, "test")
    with one_sentence(), process_group(config.distributed, topology) as group:
        train_translator("drdg", config, stream, out, group, Journal(log), quiet=True)


def main(plan: dict[str, Any]) -> None:
    torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])  # the first optimizer imports torch's compiler
    context = multiprocessing.get_context("fork")
    for number, job in enumerate(plan["jobs"]):
        place = (plan, job, plan["port"] + number)
        ranks = [context.Process(target=be_rank, args=(rank, *place)) for rank in range(RANKS)]
        for process in ranks:
            process.start()
        for process in ranks:
            process.join()
        print(json.dumps([process.exitcode for process in ranks]), flush=True)


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
