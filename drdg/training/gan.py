"""Station 4, training: the loop that trains a translator.

Its own state is one integer, the number of iterations done. Everything random is a function of the seed and a sample's
place in the stream, so a checkpoint needs no random state and a resumed run equals an uninterrupted one.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn, Protocol

import torch
from torch import Tensor

from drdg.config import Config, digest
from drdg.distributed.engines import Engine, build_engine
from drdg.distributed.group import Group
from drdg.distributed.lost import naming_lost_ranks
from drdg.distributed.microbatches import Result
from drdg.progress import progress
from drdg.training.accord import Accord
from drdg.training.checkpoint import Unusable, find_newest, newest_step
from drdg.training.clock import Clock
from drdg.training.finite import is_finite
from drdg.training.means import RunningMeans
from drdg.training.preemption import Stopped, listening
from drdg.training.schedule import build_schedule
from drdg.training.watchdog import Watchdog
from drdg.training.weights import fresh_translator, save_translator
from drdg.training.writer import Writer

Log = Callable[[dict[str, float], int], None]
Rows = list[tuple[str, float, int, int]]  # values logged and not written yet: name, value, time in ms, step
# Of distributed.timeout_s: where a rank hangs is to be written before the ranks that wait for it give up and end it.
WATCHDOG = 0.95
# For how long a rank that ends looks whether the checkpoint that rank 0 was writing has come.
PATIENCE_S = 2.0
POLL_S = 0.02

TRANSLATOR = "translator.safetensors"
# What may differ between a run and the one that continues it: how long, how often, by how many processes.
FREE_TO_CHANGE = frozenset(
    {"epochs", "iterations", "workers", "micro_batch", "log_every"}
    | {"checkpoint_every", "keep_checkpoints", "milestone_every"}
)


class PairStream(Protocol):
    """Unpaired batches as a function of the place in the stream."""

    @property
    def epoch_size(self) -> int:
        """Pairs in an epoch."""
        ...

    @property
    def content(self) -> list[str]:
        """What the samples are known by."""
        ...

    def batches(
        self, first_step: int, last_step: int, *, rank: int, world_size: int, batch_size: int, workers: int
    ) -> Iterable[dict[str, Tensor]]:
        """This rank's batches of the steps from ``first_step`` up to and without ``last_step``, on the host."""
        ...

    def to_device(self, batch: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
        """The networks' input, on ``device``, from one of the ``batches``."""
        ...


def train_translator(
    name: str,
    config: Config,
    stream: PairStream,
    out: Path,
    group: Group,
    log: Log,
    quiet: bool = False,
    flush: Callable[[], Rows] = list,
    relog: Callable[[Rows], None] = lambda _: None,
    run_id: str = "",
) -> Path:
    """Train the translator called ``name`` and return the file of its final weights, written last.

    Continues from the newest checkpoint under ``out``. ``log`` gets means over ranks and iterations, on rank 0 only;
    ``flush`` is called there before each checkpoint, which no run that continues from it logs again; what it could not
    write it returns, and the checkpoint keeps that for ``relog``. ``run_id`` is the MLflow run that rank 0 logs to;
    checkpoints keep it, and who continues from one in another run is told.
    Raises ``ValueError`` when the checkpoints are another configuration's, ``Unusable`` when all of them are damaged,
    ``FloatingPointError`` on a loss that is not finite, ``OSError`` when a file cannot be written, ``Stopped`` after a
    signal that asks for it, each on all ranks together; ``RankLost`` when another rank has ended.
    """
    trainer: GanTrainer | None = None
    began_at = newest_step(out / "checkpoints") or 0

    def how_to_continue() -> str:
        return "the same command continues where it was" if trainer is None else trainer.how_to_continue()

    def got_further() -> bool:
        return (newest_step(out / "checkpoints") or 0) > began_at

    with naming_lost_ranks(group, how_to_continue, got_further):
        trainer = GanTrainer(name, config, stream, out, group, log, flush, relog, run_id)
        trainer.resume()
        trainer.train(quiet or not group.is_first)
        return trainer.finish()


class GanTrainer:
    """One translator with its engines, schedules and running means."""

    def __init__(
        self,
        name: str,
        config: Config,
        stream: PairStream,
        out: Path,
        group: Group,
        log: Log,
        flush: Callable[[], Rows] = list,
        relog: Callable[[Rows], None] = lambda _: None,
        run_id: str = "",
    ):
        self.name, self.config, self.stream, self.out, self.group = name, config, stream, out, group
        self.log, self.flush, self.relog, self.run_id = log, flush, relog, run_id
        self.checkpoints = out / "checkpoints"
        self.batch_per_rank, left = divmod(config.gan.batch_size, group.world_size)
        if left:
            below = config.gan.batch_size - left
            raise ValueError(
                f"gan.batch_size={config.gan.batch_size} pairs cannot be shared by {group.world_size} ranks; take "
                f"{' or '.join(str(size) for size in (below, below + group.world_size) if size)}"
            )
        self.translator = fresh_translator(name, config, group.device)
        self.phases = self.translator.phases()
        self.engines = [
            build_engine(config, group, phase.module, phase.optimizer(learned(phase.module))) for phase in self.phases
        ]
        self.schedules = [build_schedule(engine.optimizer, config.gan.schedule) for engine in self.engines]
        self.since_log = RunningMeans(group)
        self.since_epoch = RunningMeans(group)
        gan = config.gan
        self.writer = Writer(self.checkpoints, gan.keep_checkpoints, gan.milestone_every, group.device)
        phases = [phase.name for phase in self.phases]
        self.accord = Accord(group, timedelta(seconds=config.distributed.timeout_s), self.writer, phases)
        self.iteration = 0
        self.saved: int | None = None
        """The iteration of the last checkpoint, which rank 0 may be writing yet."""
        self.checkpoint_stall_s: list[float] = []
        """How long training has waited for each checkpoint, in seconds."""

    @property
    def iterations(self) -> int:
        """Length of the whole training."""
        pairs = self.config.gan.epochs * self.stream.epoch_size
        return self.config.gan.iterations or math.ceil(pairs / self.config.gan.batch_size)

    def train(self, quiet: bool) -> None:
        """Run the iterations that are left, or those until a signal asks to stop. Raises ``Stopped`` then."""
        gan = self.config.gan
        batches = self.stream.batches(
            self.iteration,
            max(self.iteration, self.iterations),
            rank=self.group.rank,
            world_size=self.group.world_size,
            batch_size=self.batch_per_rank,
            workers=gan.workers,
        )
        left = max(0, self.iterations - self.iteration)
        clock = Clock()
        shown = progress(clock.watch(batches), "gan", start=self.iteration, total=self.iteration + left, quiet=quiet)
        try:
            with listening() as asked, self.watchdog() as watchdog:
                for batch in shown:
                    self.iterate(batch)
                    if self.iteration % gan.log_every == 0 or self.iteration == self.iterations:
                        self.report(clock)
                    if self.epoch_ended():
                        self.end_epoch()
                    if self.checkpoint_is_due() and self.iteration != self.iterations:
                        self.checkpoint()
                    if (number := self.accord.hear(asked.number)) and self.iteration != self.iterations:
                        self.stop(number)
                    watchdog.step()
                self.accord.close()
        finally:
            self.writer.wait()

    def stop(self, number: int) -> NoReturn:
        """Save, and end all ranks because one of them got the signal ``number``."""
        self.accord.close()
        if self.saved != self.iteration:
            self.checkpoint()
        self.accord.settle_writing()
        raise Stopped(number, f"gan's iteration {self.iteration}", self.group.is_first)

    def watchdog(self) -> Watchdog:
        """What ends this rank when it hangs."""
        rank = self.group.rank
        seconds = WATCHDOG * self.config.distributed.timeout_s
        return Watchdog(seconds, f"rank {rank}", self.out / f"hangs/rank-{rank}.txt", self.how_to_continue)

    def how_to_continue(self) -> str:
        """From where, in words, for a rank that ends without the others: so what lies on the disk counts."""
        end = time.monotonic() + PATIENCE_S
        while (saved := newest_step(self.checkpoints) or 0) < (self.saved or 0) and time.monotonic() < end:
            time.sleep(POLL_S)
        if not saved:
            return "nothing is saved yet, so the same command starts anew"
        return f"the same command continues from the checkpoint of iteration {saved}"

    def iterate(self, batch: dict[str, Tensor]) -> None:
        """Update every phase that is due, in order."""
        batch = self.stream.to_device(batch, self.group.device)
        losses: dict[int, Tensor] = {}
        for number, (phase, engine) in enumerate(zip(self.phases, self.engines, strict=True)):
            if self.iteration % phase.every == 0:
                loss, parts = self.update(phase.name, engine, batch)
                losses[number] = loss
                self.since_log.add({f"{phase.name}/loss": loss, **{f"{phase.name}/{k}": v for k, v in parts.items()}})
                self.watch_for_schedule({phase.name: loss})
        self.iteration += 1
        self.accord.look(self.iteration, losses)

    def update(self, phase: str, engine: Engine, batch: dict[str, Tensor]) -> Result:
        """One optimizer step of a phase."""
        try:
            return engine.update(batch)
        except FloatingPointError as error:  # of an engine that looks at gradients itself, on all ranks together
            raise self.accord.diverged(f"gan/{phase}, iteration {self.iteration + 1}: {error}") from error

    def watch_for_schedule(self, losses: dict[str, Tensor]) -> None:
        """Remember what the learning rates look at: every loss of the epoch, or only the last."""
        if self.config.gan.schedule.watch == "last_batch":
            for name in losses:
                self.since_epoch.sums.pop(name, None)
                self.since_epoch.counts.pop(name, None)
        self.since_epoch.add(losses)

    def epoch_ended(self) -> bool:
        """Whether the last iteration saw the last pair of an epoch."""
        seen, before = (count * self.config.gan.batch_size for count in (self.iteration, self.iteration - 1))
        return seen // self.stream.epoch_size > before // self.stream.epoch_size

    def end_epoch(self) -> None:
        """Let the schedules look at the epoch's losses."""
        losses = self.since_epoch.read()
        for phase, schedule in zip(self.phases, self.schedules, strict=True):
            if schedule is not None and phase.name in losses:
                schedule.step(losses[phase.name])

    def report(self, clock: Clock) -> None:
        """Log means since the last report; stop all ranks when one is not finite."""
        means = self.since_log.read()
        for name, mean in means.items():
            if not math.isfinite(mean):
                self.accord.settle()
                within = f"within the {self.config.gan.log_every} iterations before {self.iteration}"
                raise self.accord.diverged(f"gan/{name} is {mean} {within}")
        if self.group.is_first:
            rates = {
                phase.name: engine.optimizer.param_groups[0]["lr"]
                for phase, engine in zip(self.phases, self.engines, strict=True)
            }
            self.log(
                {
                    **{f"gan/{name}": mean for name, mean in means.items()},
                    **{f"gan/{name}/learning_rate": rate for name, rate in rates.items()},
                    **{f"gan/{name}": value for name, value in clock.read(self.config.gan.batch_size, "pairs").items()},
                },
                self.iteration,
            )

    def checkpoint_is_due(self) -> bool:
        """Whether the last iteration is one that checkpoints are made of."""
        gan = self.config.gan
        return any(every and self.iteration % every == 0 for every in (gan.checkpoint_every, gan.milestone_every))

    def checkpoint(self) -> None:
        """Have everything saved that a continuation needs, after making sure that all ranks agree. What waits is the
        making sure and the copying; who wants to know that it is on the disk calls :meth:`Accord.settle_writing`.
        """
        if self.group.device.type == "cuda":
            torch.cuda.synchronize(self.group.device)  # what is waited for here is no checkpoint's
        began = time.monotonic()
        self.writer.wait()
        self.accord.settle()
        self.group.refuse_different(self.translator.networks, f"checkpoint at iteration {self.iteration}")
        self.refuse_not_finite()
        state = self.state()
        if self.group.is_first:
            self.writer.save(self.iteration, {**state, "unwritten": self.flush()})
        self.saved = self.iteration
        self.checkpoint_stall_s.append(time.monotonic() - began)

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds. Every rank must call it."""
        return {
            "identity": self.identity(),
            "iteration": self.iteration,
            "networks": self.translator.networks.state_dict(),
            "optimizers": [engine.state_dict() for engine in self.engines],
            "schedules": [None if schedule is None else schedule.state_dict() for schedule in self.schedules],
            "since_log": self.since_log.state_dict(),
            "since_epoch": self.since_epoch.state_dict(),
            "run_id": self.run_id,
        }

    def refuse_not_finite(self) -> None:
        """Stop before weights that are lost push the last good ones off the disk."""
        values = [value for value in self.translator.networks.state_dict().values() if value.is_floating_point()]
        if not is_finite(values):
            raise self.accord.diverged(f"gan: weights are not finite at iteration {self.iteration}")

    def resume(self) -> None:
        """Continue from the newest whole checkpoint, if there is one, all ranks from the same."""
        found = find_newest(self.checkpoints)
        if found.state is not None:
            self.load(found.state)
        own = -1 if found.is_lost else self.iteration
        seen = self.group.gather(torch.tensor([own], device=self.group.device)).flatten().tolist()
        if len(set(seen)) > 1:
            where = ", ".join("none whole" if iteration < 0 else str(iteration) for iteration in seen)
            raise Unusable(
                f"{self.checkpoints}: ranks see different checkpoints, of iterations [{where}]; put run.root on a file "
                "system that all ranks share"
            )
        found.state_or_refusal()
        if self.group.is_first:
            found.set_aside_damaged()
        self.group.refuse_different(self.translator.networks, f"start at iteration {self.iteration}")

    def load(self, state: dict[str, Any]) -> None:
        """Take up a checkpoint's state. Raises ``ValueError`` when it is another run's."""
        if state["identity"] != self.identity():
            raise ValueError(
                f"{self.checkpoints}: was made by another configuration; choose another run.name or remove it"
            )
        if state["iteration"] > self.iterations:
            raise ValueError(
                f"{self.checkpoints}: has {state['iteration']} iterations already, more than the "
                f"{self.iterations} asked for; raise gan.iterations or choose another run.name"
            )
        before = state.get("run_id", "")
        if self.run_id and before not in ("", self.run_id):
            print(f"gan: logged to MLflow run {before} before and now to {self.run_id}", file=sys.stderr, flush=True)
        self.iteration = self.saved = state["iteration"]
        if self.group.is_first:
            print(f"gan: continues from iteration {self.iteration}", file=sys.stderr, flush=True)
        self.relog(state.get("unwritten", []))
        self.translator.networks.load_state_dict(state["networks"])
        for engine, saved in zip(self.engines, state["optimizers"], strict=True):
            engine.load_state_dict(saved)
        for schedule, saved in zip(self.schedules, state["schedules"], strict=True):
            if schedule is not None:
                schedule.load_state_dict(saved)
        self.since_log.load_state_dict(state["since_log"])
        self.since_epoch.load_state_dict(state["since_epoch"])

    def identity(self) -> str:
        """What a checkpoint must share with the run that continues it."""
        config = self.config
        gan = {knob: value for knob, value in config.gan.model_dump(mode="json").items() if knob not in FREE_TO_CHANGE}
        parts = {part: getattr(config, part) for part in ("dsm", "generator", "critic", "loss")}
        what = {"translator": self.name, **parts, "gan": gan, "seed": config.run.seed, "data": self.stream.content}
        return digest(what, ignore=())

    def finish(self) -> Path:
        """Save the last checkpoint and then the weights, whose presence says that training is done."""
        self.checkpoint()
        self.accord.settle_writing()
        path = self.out / TRANSLATOR
        if self.group.is_first:
            self.writer.do(lambda: save_translator(path, self.translator, self.name, self.config, self.iteration))
        self.accord.settle_writing()
        return path


def learned(module: torch.nn.Module) -> list[torch.nn.Parameter]:
    """The parameters that an optimizer gets."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]
