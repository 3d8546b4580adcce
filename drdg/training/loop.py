"""Station 4, training: the loop that trains the phases of a method, a translator's or a segmentor's.

Its own state is one integer, the number of iterations done. Everything random is a function of the seed and a sample's
place in the stream, so a checkpoint needs no random state and a resumed run equals an uninterrupted one.
"""

from __future__ import annotations

import math
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar, NoReturn, Protocol

import torch
from torch import Tensor, nn

from drdg.config import Config, GanConfig, SegmentationConfig
from drdg.distributed.engines import Engine, build_engine
from drdg.distributed.group import Group
from drdg.distributed.lost import naming_lost_ranks
from drdg.distributed.microbatches import Result
from drdg.methods import Phase
from drdg.progress import progress
from drdg.training.accord import Accord
from drdg.training.checkpoint import Unusable, find_newest, newest_step
from drdg.training.clock import Clock
from drdg.training.finite import is_finite
from drdg.training.journal import Journal
from drdg.training.lanes import gather_lanes, own_lanes
from drdg.training.means import RunningMeans
from drdg.training.preemption import Stopped, listening
from drdg.training.schedule import Rates
from drdg.training.watchdog import Watchdog
from drdg.training.writer import Writer

# Of distributed.timeout_s: where a rank hangs is to be written before the ranks that wait for it give up and end it.
WATCHDOG = 0.95
# For how long a rank that ends looks whether the checkpoint that rank 0 was writing has come.
PATIENCE_S = 2.0
POLL_S = 0.02

# By the trainer's word, the section of the configuration that its knobs are in.
SECTIONS = {"gan": "gan", "segment": "segmentation"}
# What may differ between a run and the one that continues it: how long, how often, by how many processes.
FREE_TO_CHANGE = frozenset(
    {"epochs", "iterations", "workers", "micro_batch", "log_every"}
    | {"checkpoint_every", "keep_checkpoints", "milestone_every"}
)


class Stream(Protocol):
    """Batches as a function of the place in the stream."""

    @property
    def epoch_size(self) -> int:
        """Samples in an epoch."""
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


class Method(Protocol):
    """What the loop knows of a translator or an objective."""

    networks: nn.ModuleDict

    def phases(self) -> list[Phase]:
        """The phases of one iteration, in order."""
        ...


class Trainer(ABC):
    """One method with its engines, schedules and running means."""

    word: ClassVar[str]
    """By which its values, its messages and its section of the configuration are known."""
    unit: ClassVar[str]
    """What its stream counts, in the plural."""
    cure: ClassVar[str]
    """What helps against a loss that is not finite."""
    keep_checkpoints: int = 2  # the newest, and one before it in case that is torn
    watches_the_end = False
    """Whether a loss depends on which share of training is done, so that none can be made longer later."""
    finds_unused = False
    """Whether the networks may have parameters that no loss depends on."""

    def __init__(
        self,
        method: Method,
        config: Config,
        knobs: GanConfig | SegmentationConfig,
        stream: Stream,
        out: Path,
        group: Group,
        journal: Journal,
        micro_batches: int = 1,
    ):
        self.method, self.config, self.knobs, self.stream = method, config, knobs, stream
        self.out, self.group, self.journal = out, group, journal
        self.checkpoints = out / "checkpoints"
        self.batch_per_rank = self._share_of_batch()
        self.networks = method.networks
        self.lanes: dict[str, Tensor] = getattr(method, "lanes", {})
        self.phases = method.phases()
        self.engines = [
            build_engine(
                config,
                group,
                phase.module,
                phase.optimizer(learned(phase.module)),
                micro_batches=micro_batches,
                precision=knobs.precision,
                finds_unused=self.finds_unused,
            )
            for phase in self.phases
        ]
        self.rates = Rates(self.phases, [engine.optimizer for engine in self.engines], knobs.schedule, group)
        self.since_log = RunningMeans(group)
        self.writer = Writer(self.checkpoints, self.keep_checkpoints, knobs.milestone_every, group.device)
        phases = [f"{self.word}/{phase.name}" for phase in self.phases]
        self.accord = Accord(group, timedelta(seconds=config.distributed.timeout_s), self.writer, phases, self.cure)
        self.iteration = 0
        self.saved: int | None = None
        """The iteration of the last checkpoint, which rank 0 may be writing yet."""
        self.checkpoint_stall_s: list[float] = []
        """How long training has waited for each checkpoint, in seconds."""

    # ------------------------------------------------------------------------------------------------ what methods say

    @abstractmethod
    def identity(self) -> str:
        """What a checkpoint must share with the run that continues it."""

    @abstractmethod
    def save_weights(self) -> Path:
        """Write the weights, on rank 0, and return their file, whose presence says that training is done."""

    def epoch_done(self) -> None:
        """What is done besides after an iteration with which an epoch ended. All ranks call it."""
        return

    def training_done(self) -> None:
        """What is done besides after the last checkpoint. All ranks call it."""
        return

    def note(self) -> str:
        """What stands beside the progress."""
        return ""

    def show(self, means: Mapping[str, float]) -> None:
        """Take note of what is logged, for :meth:`note`."""
        return

    def more_state(self) -> dict[str, Any]:
        """What a checkpoint holds besides."""
        return {}

    def load_more(self, state: Mapping[str, Any]) -> None:
        """Take up what :meth:`more_state` gave."""
        return

    # --------------------------------------------------------------------------------------------------------- the loop

    @property
    def iterations(self) -> int:
        """Length of the whole training."""
        samples = self.knobs.epochs * self.stream.epoch_size
        return self.knobs.iterations or math.ceil(samples / self.knobs.batch_size)

    def train(self, quiet: bool) -> None:
        """Run the iterations that are left, or those until a signal asks to stop. Raises ``Stopped`` then."""
        batches = self.stream.batches(
            self.iteration,
            max(self.iteration, self.iterations),
            rank=self.group.rank,
            world_size=self.group.world_size,
            batch_size=self.batch_per_rank,
            workers=self.knobs.workers,
        )
        left = max(0, self.iterations - self.iteration)
        clock = Clock()
        shown = progress(
            clock.watch(batches),
            self.word,
            start=self.iteration,
            total=self.iteration + left,
            note=self.note,
            quiet=quiet,
        )
        try:
            with listening() as asked, self.watchdog() as watchdog:
                for batch in shown:
                    self.iterate(batch)
                    if self.iteration % self.knobs.log_every == 0 or self.iteration == self.iterations:
                        self.report(clock)
                    if self.epochs_ended():
                        self.rates.end_epoch()
                        with watchdog.aside():
                            self.epoch_done()
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
        raise Stopped(number, f"{self.word}'s iteration {self.iteration}", self.group.is_first)

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
        batch = self.prepared(batch)
        self.rates.begin_iteration(self.iteration, self.iterations)
        losses: dict[int, Tensor] = {}
        for number, (phase, engine) in enumerate(zip(self.phases, self.engines, strict=True)):
            if self.iteration % phase.every == 0:
                loss, parts = self.update(phase.name, engine, batch)
                losses[number] = loss
                self.since_log.add({f"{phase.name}/loss": loss, **{f"{phase.name}/{k}": v for k, v in parts.items()}})
                self.rates.watch(phase.name, loss)
        self.iteration += 1
        self.accord.look(self.iteration, losses)

    def prepared(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The phases' input from one of the stream's batches."""
        return self.stream.to_device(batch, self.group.device)

    def update(self, phase: str, engine: Engine, batch: dict[str, Tensor]) -> Result:
        """One optimizer step of a phase."""
        try:
            return engine.update(batch)
        except FloatingPointError as error:  # of an engine that looks at gradients itself, on all ranks together
            raise self.accord.diverged(f"{self.word}/{phase}, iteration {self.iteration + 1}: {error}") from error

    def epochs_ended(self, count: int = 1) -> bool:
        """Whether the last iteration saw the last sample of a multiple of ``count`` epochs."""
        size = count * self.stream.epoch_size
        seen, before = (iteration * self.knobs.batch_size for iteration in (self.iteration, self.iteration - 1))
        return seen // size > before // size

    def report(self, clock: Clock) -> None:
        """Log means since the last report; stop all ranks when one is not finite."""
        means = self.since_log.read()
        for name, mean in means.items():
            if not math.isfinite(mean):
                self.accord.settle()
                within = f"within the {self.knobs.log_every} iterations before {self.iteration}"
                raise self.accord.diverged(f"{self.word}/{name} is {mean} {within}")
        self.show(means)
        if self.group.is_first:
            speed = clock.read(self.knobs.batch_size, self.unit)
            self.journal.log(
                {
                    **{f"{self.word}/{name}": mean for name, mean in means.items()},
                    **{f"{self.word}/{name}/learning_rate": rate for name, rate in self.rates.read().items()},
                    **{f"{self.word}/{name}": value for name, value in speed.items()},
                },
                self.iteration,
            )

    def checkpoint_is_due(self) -> bool:
        """Whether the last iteration is one that checkpoints are made of."""
        every = (self.knobs.checkpoint_every, self.knobs.milestone_every)
        return any(count and self.iteration % count == 0 for count in every)

    def checkpoint(self) -> None:
        """Have everything saved that a continuation needs, after making sure that all ranks agree. What waits is the
        making sure and the copying; who wants to know that it is on the disk calls :meth:`Accord.settle_writing`.
        """
        if self.group.device.type == "cuda":
            torch.cuda.synchronize(self.group.device)  # what is waited for here is no checkpoint's
        began = time.monotonic()
        self.writer.wait()
        self.accord.settle()
        self.group.refuse_different(self.networks, f"checkpoint at iteration {self.iteration}")
        self.refuse_not_finite()
        state = self.state()
        if self.group.is_first:
            self.writer.save(self.iteration, {**state, "unwritten": self.journal.flush()})
        self.saved = self.iteration
        self.checkpoint_stall_s.append(time.monotonic() - began)

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds. Every rank must call it."""
        return {
            "identity": self.identity(),
            "iteration": self.iteration,
            "networks": self.networks.state_dict(),
            "lanes": gather_lanes(self.lanes, self.group),
            "optimizers": [engine.state_dict() for engine in self.engines],
            **self.rates.state_dict(),
            "since_log": self.since_log.state_dict(),
            "run_id": self.journal.run_id,
            **self.more_state(),
        }

    def refuse_not_finite(self) -> None:
        """Stop before weights that are lost push the last good ones off the disk."""
        values = [value for value in self.networks.state_dict().values() if value.is_floating_point()]
        if not is_finite(values):
            raise self.accord.diverged(f"{self.word}: weights are not finite at iteration {self.iteration}")

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
        self.group.refuse_different(self.networks, f"start at iteration {self.iteration}")

    def load(self, state: dict[str, Any]) -> None:
        """Take up a checkpoint's state. Raises ``ValueError`` when it is another run's."""
        if state["identity"] != self.identity():
            raise ValueError(
                f"{self.checkpoints}: was made by another configuration; choose another run.name or remove it"
            )
        if state["iteration"] > self.iterations:
            raise ValueError(
                f"{self.checkpoints}: has {state['iteration']} iterations already, more than the "
                f"{self.iterations} asked for; raise {SECTIONS[self.word]}.iterations or choose another run.name"
            )
        before, now = state.get("run_id", ""), self.journal.run_id
        if now and before not in ("", now):
            print(
                f"{self.word}: logged to MLflow run {before} before and now to {now}",
                file=sys.stderr,
                flush=True,
            )
        self.iteration = self.saved = state["iteration"]
        if self.group.is_first:
            print(f"{self.word}: continues from iteration {self.iteration}", file=sys.stderr, flush=True)
        self.journal.relog(state.get("unwritten", []))
        self.networks.load_state_dict(state["networks"])
        self.lanes.clear()
        self.lanes.update(own_lanes(state.get("lanes", {}), self.group))
        for engine, saved in zip(self.engines, state["optimizers"], strict=True):
            engine.load_state_dict(saved)
        self.rates.load_state_dict(state)
        self.since_log.load_state_dict(state["since_log"])
        self.load_more(state)

    def finish(self) -> Path:
        """Save the last checkpoint and then the weights, whose presence says that training is done."""
        self.checkpoint()
        self.accord.settle_writing()
        self.training_done()
        path = self.save_weights()
        self.accord.settle_writing()
        return path

    def knobs_that_count(self) -> dict[str, Any]:
        """The knobs that decide the weights. A rate that falls with time depends on when the end is."""
        free = FREE_TO_CHANGE
        if self.watches_the_end or self.knobs.schedule.kind == "linear":
            free = free - {"epochs", "iterations"}
        return {knob: value for knob, value in self.knobs.model_dump(mode="json").items() if knob not in free}

    def _share_of_batch(self) -> int:
        share, left = divmod(self.knobs.batch_size, self.group.world_size)
        if left:
            below = self.knobs.batch_size - left
            sizes = " or ".join(str(size) for size in (below, below + self.group.world_size) if size)
            raise ValueError(
                f"{SECTIONS[self.word]}.batch_size={self.knobs.batch_size} {self.unit} cannot be shared by "
                f"{self.group.world_size} ranks; take {sizes}"
            )
        return share


def run_training(make: Callable[[], Trainer], out: Path, group: Group, quiet: bool) -> Path:
    """Make a trainer, continue from its newest checkpoint, train, and return the file of the weights.

    Raises ``ValueError`` when the checkpoints are another configuration's, ``Unusable`` when all of them are damaged,
    ``FloatingPointError`` on a loss that is not finite, ``OSError`` when a file cannot be written, ``Stopped`` after a
    signal that asks for it, each on all ranks together; ``RankLost`` when another rank has ended.
    """
    trainer: Trainer | None = None
    began_at = newest_step(out / "checkpoints") or 0

    def how_to_continue() -> str:
        return "the same command continues where it was" if trainer is None else trainer.how_to_continue()

    def got_further() -> bool:
        return (newest_step(out / "checkpoints") or 0) > began_at

    with naming_lost_ranks(group, how_to_continue, got_further):
        trainer = make()
        trainer.resume()
        trainer.train(quiet or not group.is_first)
        return trainer.finish()


def learned(module: torch.nn.Module) -> list[torch.nn.Parameter]:
    """The parameters that an optimizer gets."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]
