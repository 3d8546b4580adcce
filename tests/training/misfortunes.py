"""Trainings by two ranks that something befalls, for the tests: at a seeded moment, or while a checkpoint is written.

They are forks of this process, so that what takes long to import is imported once. A job is {"out", "overrides"} and
maybe "befalls", of which ``MISFORTUNES`` has the kinds, and "whole", the folder of a training that nothing befell: to
it each checkpoint that is left after the job is compared. For each job a line is printed: the ranks' exit statuses,
their words on standard error, the newest whole checkpoint and those that are not what they should be.
"""

from __future__ import annotations

import errno
import faulthandler
import json
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import IO, Any

import torch

from drdg.cli import one_sentence
from drdg.config import load_config
from drdg.distributed import voice
from drdg.distributed.engines import Engine
from drdg.distributed.group import process_group
from drdg.distributed.topology import Topology
from drdg.files import sha256
from drdg.shards.store import ShardStore
from drdg.shards.stream import UnpairedStream
from drdg.training import checkpoint, gan, loop
from drdg.training.gan import GanTrainer, train_translator
from drdg.training.journal import Journal

RANKS = 2
HANGS_S = 150  # more than twice the timeout of their collectives, and many times what a job takes
Befalls = dict[str, Any]


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def before_iteration(iteration: int, action: Callable[[GanTrainer], None]) -> None:
    """Let something happen as an iteration begins, counted from 1."""
    iterate = GanTrainer.iterate

    def disturbed(trainer: GanTrainer, batch: dict[str, torch.Tensor]) -> None:
        if trainer.iteration + 1 == iteration:
            action(trainer)
        iterate(trainer, batch)

    GanTrainer.iterate = disturbed  # type: ignore[method-assign]


def kill_at(rank: int, befalls: Befalls, out: Path) -> None:
    """``rank`` dies ``after_s`` seconds after it has begun ``iteration``."""
    if rank == befalls["rank"]:
        before_iteration(befalls["iteration"], lambda _: threading.Timer(befalls["after_s"], die).start())


def in_write(befalls: Befalls, action: Callable[[], None]) -> None:
    """Let something happen in write number ``write``, from 1, of this process: when ``share`` of its bytes are written,
    or at one of the steps that follow.
    """
    begun = {"writes": 0, "bytes": 0}
    last_byte = int(befalls.get("share", 0) * befalls.get("size", 0))
    write, tidy = checkpoint._write, checkpoint._tidy
    whole_file, write_text = checkpoint.whole_file, checkpoint.write_text

    def at(place: str) -> None:
        if begun["writes"] == befalls["write"] and place == befalls["place"]:
            action()

    class Torn:
        def __init__(self, file: IO[bytes]):
            self.file, self.flush = file, file.flush

        def write(self, block: memoryview) -> int:
            left = last_byte - begun["bytes"]
            begun["bytes"] += len(block)
            if 0 <= left < len(block):
                self.file.write(block[:left])
                self.file.flush()
                at("bytes")
                block = block[left:]
            return self.file.write(block)

    @contextmanager
    def torn_file(path: Path) -> Iterator[Any]:
        with whole_file(path) as file:
            yield Torn(file)

    def counted(*arguments: Any) -> None:
        begun["writes"] += 1
        begun["bytes"] = 0
        write(*arguments)
        at("renamed")

    def with_checksum(path: Path, text: str) -> None:
        at("no checksum yet")
        write_text(path, text)
        at("checksum")

    def tidied(*arguments: Any) -> None:
        tidy(*arguments)
        at("tidied")

    checkpoint._write, checkpoint._tidy = counted, tidied
    checkpoint.whole_file, checkpoint.write_text = torn_file, with_checksum


def kill_writing(rank: int, befalls: Befalls, out: Path) -> None:
    """Rank 0 dies while it writes."""
    if rank == 0:
        in_write(befalls, die)


def kill_beside_writing(rank: int, befalls: Befalls, out: Path) -> None:
    """Rank 1 dies while rank 0 writes, which takes its time."""
    mark = out.with_suffix(".writing")

    def mark_and_wait() -> None:
        mark.touch()
        time.sleep(0.1)

    def watch() -> None:
        while not mark.exists():
            time.sleep(0.001)
        die()

    if rank == 0:
        in_write(befalls, mark_and_wait)
    else:
        threading.Thread(target=watch, daemon=True).start()


def fill_disk(rank: int, befalls: Befalls, out: Path) -> None:
    """No room is left while rank 0 writes."""

    def refuse() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if rank == 0:
        in_write(befalls, refuse)


def fill_disk_at_the_end(rank: int, befalls: Befalls, out: Path) -> None:
    """No room is left for the weights of a training that has ended."""

    def refuse(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(out / "translator.safetensors"))

    if rank == 0:
        gan.save_translator = refuse


def spoil_loss(rank: int, befalls: Befalls, out: Path) -> None:
    """The loss of ``phase`` in ``iteration`` is ``value`` on ``rank``, of which its gradients are to know nothing, so
    that weights are good after it.
    """

    def spoil(trainer: GanTrainer) -> None:
        engine: Engine = trainer.engines[befalls["phase"]]
        update = engine.update

        def spoilt(batch: dict[str, torch.Tensor]) -> Any:
            loss, parts = update(batch)
            engine.update = update  # type: ignore[method-assign]
            return loss * float(befalls["value"]), parts

        engine.update = spoilt  # type: ignore[method-assign]

    if rank == befalls["rank"]:
        before_iteration(befalls["iteration"], spoil)


def see_other_checkpoints(rank: int, befalls: Befalls, out: Path) -> None:
    """``rank`` sees no checkpoints."""
    if rank == befalls["rank"]:
        loop.find_newest = lambda folder: checkpoint.Found(folder, None, ())


def damage(rank: int, befalls: Befalls, out: Path) -> None:
    """Every checkpoint is cut, by each rank to the same length."""
    for path in (out / "checkpoints").glob("step_*.pt"):
        os.truncate(path, 5000)


MISFORTUNES: dict[str, Callable[[int, Befalls, Path], None]] = {
    "kill": kill_at,
    "kill writing": kill_writing,
    "kill beside writing": kill_beside_writing,
    "full": fill_disk,
    "full at the end": fill_disk_at_the_end,
    "not finite": spoil_loss,
    "blind": see_other_checkpoints,
    "damage": damage,
}


def be_rank(rank: int, plan: dict[str, Any], job: dict[str, Any], port: int) -> None:
    out = Path(job["out"])
    os.dup2(os.open(words_of(out, rank), os.O_CREAT | os.O_WRONLY | os.O_TRUNC), 2)
    faulthandler.enable(2)  # by SIGABRT one that hangs says where
    torch.set_num_threads(1)
    voice.PATIENCE_S = loop.PATIENCE_S = 0.3  # for ranks that will not come
    config = load_config(plan["config"], job["overrides"])
    stores = ShardStore(plan["source"]), ShardStore(plan["target"])
    stream = UnpairedStream(*stores, seed=config.run.seed, need_dsm=config.loss.uses_depth, dsm=config.dsm)

    def log(values: dict[str, float], step: int) -> None:
        known = {name: value for name, value in values.items() if not name.endswith(("per_s", "percent"))}
        with out.with_suffix(".curve").open("a") as file:
            print(json.dumps([step, known]), file=file)

    if "befalls" in job:
        MISFORTUNES[job["befalls"]["kind"]](rank, job["befalls"], out)
    topology = Topology(rank, RANKS, rank, RANKS, "127.0.0.1", port, "test")
    with one_sentence(), process_group(config.distributed, topology) as group:
        train_translator("drdg", config, stream, out, group, Journal(log), quiet=True)


def words_of(out: Path, rank: int) -> Path:
    return out.with_suffix(f".{rank}.txt")


def whole_checkpoints(out: Path) -> dict[int, Path]:
    """By iteration those whose content is what a checksum beside them says; not asked of the code that is tested."""
    found = {}
    for path in (out / "checkpoints").glob("step_*.pt"):
        checksum = path.with_suffix(".sha256")
        if checksum.exists() and sha256(path) in checksum.read_text().split():
            found[int(path.stem.removeprefix("step_"))] = path
    return found


def wrong_checkpoints(out: Path, whole: Path) -> list[str]:
    """Whole checkpoints that differ from those of the same iteration in the folder ``whole``."""
    right = whole_checkpoints(whole)
    wrong = []
    for iteration, path in whole_checkpoints(out).items():
        states = [torch.load(place, weights_only=True) for place in (path, right[iteration])]
        wrong += [] if same(*states) else [path.name]
    return wrong


def same(one: Any, other: Any) -> bool:
    """Whether two nested structures of tensors and values are bit-equal."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(same(*pair) for pair in zip(one, other, strict=True))
    return type(one) is type(other) and one == other


def free_port() -> int:
    """A port that nobody listens at, as of now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def end_all(ranks: Sequence[BaseProcess], by: float) -> None:
    """Wait for all; those that have not ended by then are made to, and say where they were."""
    for process in ranks:
        process.join(max(0.0, by - time.monotonic()))
    for process in ranks:
        if process.is_alive():
            os.kill(process.pid or 0, signal.SIGABRT)
            process.join()


def main(plan: dict[str, Any]) -> None:
    torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])  # the first optimizer imports torch's compiler
    context = multiprocessing.get_context("fork")
    for job in plan["jobs"]:
        out = Path(job["out"])
        out.with_suffix(".writing").unlink(missing_ok=True)
        before = max(whole_checkpoints(out), default=0)
        if "befalls" in job:
            befalls = job["befalls"]
            if "further" in befalls:  # than where it continues
                befalls["iteration"] = before + befalls["further"]
            if "share" in befalls:
                befalls["size"] = max(path.stat().st_size for path in whole_checkpoints(Path(plan["sized"])).values())
        port = free_port()
        ranks = [context.Process(target=be_rank, args=(rank, plan, job, port)) for rank in range(RANKS)]
        for process in ranks:
            process.start()
        end_all(ranks, time.monotonic() + HANGS_S)
        left = {
            "statuses": [process.exitcode for process in ranks],
            "words": [words_of(out, rank).read_text() for rank in range(RANKS)],
            "from": before,
            "newest": max(whole_checkpoints(out), default=0),
            "wrong": wrong_checkpoints(out, Path(job["whole"])) if "whole" in job else [],
        }
        print(json.dumps(left), flush=True)


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
