"""Station 7, bench: what a training's step gives for being tracked, in an sqlite store on this machine.

What is measured is the training loop itself, with a store and without. With one, every iteration is logged, not every
``gan.log_every``-th, so that there is something to measure; what that costs is shared out again after. A step waits for
handing over its values; the thread that writes them takes from it what the machine has no core to spare for.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from drdg.bench.machine import describe
from drdg.bench.result import Comparison, dearer
from drdg.bench.scaling import prepare
from drdg.bench.scaling_sizes import ScalingSizes
from drdg.bench.timing import Runs, collector_at_rest, interleave, say
from drdg.bench.tracking_sizes import TrackingSizes
from drdg.config import Config
from drdg.distributed.group import Group, process_group
from drdg.distributed.topology import Topology
from drdg.shards.store import ShardStore
from drdg.shards.stream import UnpairedStream
from drdg.tracking import Handle, Tracking
from drdg.training.gan import GanTrainer
from drdg.training.journal import Journal

GOAL = 0.01
Clock = Callable[[], float]


def measure_tracking(config: Config, sizes: TrackingSizes, repeats: int, *, root: Path | None) -> list[Comparison]:
    """Measure tracking's share of a step, with the configuration's losses and clock.

    ``root``: where to work, a temporary folder by default; all that is written there is removed in the end. Raises
    ``ValueError`` when the store or the shards cannot be written.
    """
    say(describe())
    if root is not None:
        root.mkdir(parents=True, exist_ok=True)
    tiles = ScalingSizes(width=sizes.width, source_tile=sizes.source_tile, target_tile=sizes.target_tile)
    with tempfile.TemporaryDirectory(prefix="drdg-bench-", dir=root) as name:
        folder = Path(name).resolve()
        place = prepare(config, tiles, (), folder)
        alone = place.config.distributed.model_copy(update={"backend": "single"})
        knobs = place.config.gan.model_copy(update={"batch_size": sizes.pairs})
        small = place.config.model_copy(update={"distributed": alone, "gan": knobs})
        uri = f"sqlite:///{folder}/mlflow.db"
        tracking = Tracking(uri, "bench", folder, in_background=True)
        with process_group(alone, Topology()) as group, tracking.parent("bench", {}, {}) as run:
            # The bench's own configuration is made for no checkpoints at all.
            every = config.gan.checkpoint_every
            return Bench(small, sizes, place.shards, folder / "out", group, run, every).measure(repeats)


class Bench:
    """One trainer that goes on and on, with tracking and without."""

    def __init__(
        self,
        config: Config,
        sizes: TrackingSizes,
        shards: tuple[Path, Path],
        out: Path,
        group: Group,
        run: Handle,
        checkpoint_every: int,
    ):
        self.sizes, self.run = sizes, run
        self.log_every, self.checkpoint_every = config.gan.log_every, checkpoint_every
        stores = [ShardStore(folder) for folder in shards]
        stream = UnpairedStream(stores[0], stores[1], seed=0, need_dsm=True, dsm=config.dsm)
        self.trainer = GanTrainer("drdg", config, stream, out, group, Journal())
        self.cpu: list[float] = []
        """Of each run with tracking, seconds of the step's thread for one iteration's share of it."""
        self.waited: list[float] = []
        """The same by the clock."""

    def measure(self, repeats: int) -> list[Comparison]:
        """The comparisons."""
        runs = interleave({"with": self.tracked, "without": self.plain}, repeats)
        cpu, waited = Runs(tuple(self.cpu[-repeats:])), Runs(tuple(self.waited[-repeats:]))
        what = f"tracking of an iteration, logged every {self.log_every}, kept every {self.checkpoint_every}"
        return [
            dearer(f"{what}: time of the step's thread, beside the iteration", cpu, runs["without"], "s", GOAL),
            dearer(f"{what}: by the clock, beside the iteration", waited, runs["without"], "s", GOAL),
            dearer("iteration, each of them logged, beside one of which none is", runs["with"], runs["without"], "s"),
        ]

    def plain(self) -> float:
        """Seconds of an iteration without tracking."""
        return self._train(Journal(), self.log_every)

    def tracked(self) -> float:
        """Seconds of an iteration of which each is logged; takes note of what of them is tracking's."""
        log, flush = Timed(self.run.log), Timed(self.run.try_to_flush)
        seconds = self._train(Journal(log, flush, self.run.relog, self.run.run_id), 1)
        flush()  # what a checkpoint does, which a run is too short for
        self.cpu.append(log.cpu_s / log.calls / self.log_every + flush.cpu_s / self.checkpoint_every)
        self.waited.append(log.s / log.calls / self.log_every + flush.s / self.checkpoint_every)
        self.run.flush()
        return seconds

    def _train(self, journal: Journal, log_every: int) -> float:
        trainer, count = self.trainer, self.sizes.iterations
        trainer.journal = journal
        last = trainer.iteration + count
        trainer.knobs = trainer.knobs.model_copy(update={"iterations": last, "log_every": log_every})
        with collector_at_rest():
            began = time.perf_counter()
            trainer.train(quiet=True)
            return (time.perf_counter() - began) / count


class Timed:
    """A function, and what its calls took in all."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self.calls, self.s, self.cpu_s = 0, 0.0, 0.0

    def __call__(self, *given: Any) -> Any:
        """What the function gives."""
        began, cpu = time.perf_counter(), time.thread_time()
        try:
            return self._function(*given)
        finally:
            self.s += time.perf_counter() - began
            self.cpu_s += time.thread_time() - cpu
            self.calls += 1
