"""Station 4, training: the loop that trains a segmentor on labelled tiles (paper, section II-C, equations 8 and 9).

Its own state is one integer, the number of updates done: the crops are a function of the seed and their place in the
stream, and dropout is seeded anew for every update, so a resumed training equals an uninterrupted one.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from drdg.config import Config, digest
from drdg.config.loading import NOT_IN_DIGEST
from drdg.datasets import VOID
from drdg.distributed.group import Group, pick_device
from drdg.distributed.topology import Topology
from drdg.losses import segmentation_loss
from drdg.models.segmentor import build_segmentor, save_segmentor, side_multiple
from drdg.progress import progress
from drdg.shards.location import Location
from drdg.shards.store import ShardStore
from drdg.shards.stream import LabelledStream
from drdg.tiles.order import draw
from drdg.training.checkpoint import load_newest
from drdg.training.clock import Clock
from drdg.training.means import RunningMeans
from drdg.training.preemption import Stopped, listening
from drdg.training.schedule import build_schedule
from drdg.training.writer import Writer

Log = Callable[[dict[str, float], int], None]
Rows = list[tuple[str, float, int, int]]  # values logged and not written yet: name, value, time in ms, step
Validate = Callable[[nn.Module], dict[str, float]]

KEEP_CHECKPOINTS = 2  # the newest, and one before it in case that is torn
SEGMENTOR = "segmentor.safetensors"
SEEDS = 2**62  # how many seeds an update's dropout is drawn from; torch takes up to 2**63


def train_segmentor(
    config: Config,
    shards: Path | Location,
    out: Path,
    *,
    log: Log,
    validate: Validate | None,
    quiet: bool = False,
    flush: Callable[[], Rows] = list,
    relog: Callable[[Rows], None] = lambda _: None,
) -> Path:
    """Train a segmentor on the labelled ``shards`` and return ``out/segmentor.safetensors``, which is written last.

    That file holds the weights and, as its metadata, ``classes``, ``config`` and ``step``, the update that the weights
    are of. Training continues from the newest checkpoint under ``out``. ``log(values, update)`` gets means since it was
    last called; ``flush`` is called before each checkpoint, which no training that continues from it logs again; what
    it could not write it returns, and the checkpoint keeps that for ``relog``.
    ``validate(segmentor)`` returns scores by name, among them ``miou``; it is called after every
    ``segmentation.validate_every`` epochs and at the end. Raises ``ValueError`` when shards and configuration do not go
    together or the checkpoints are another configuration's, ``FloatingPointError`` on a loss that is not finite,
    ``Unusable`` when all checkpoints are damaged, ``OSError`` when one cannot be written, ``Stopped`` after a signal
    that asks for it.
    """
    device = pick_device(config.distributed)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        trainer = SegmentorTrainer(config, ShardStore(shards), out, device, log, validate, flush, relog)
        trainer.resume()
        trainer.train(quiet)
        return trainer.finish()


class SegmentorTrainer:
    """One segmentor with its optimizer, schedule and running means; it sets the seed of torch's global generator."""

    def __init__(
        self,
        config: Config,
        store: ShardStore,
        out: Path,
        device: torch.device,
        log: Log,
        validate: Validate | None,
        flush: Callable[[], Rows] = list,
        relog: Callable[[Rows], None] = lambda _: None,
    ):
        knobs = config.segmentation
        assert knobs.validation == "none" or validate is not None, "segmentation.validation without a validate function"
        self.config, self.knobs, self.store, self.out = config, knobs, store, out
        self.device, self.log, self.validate, self.flush, self.relog = device, log, validate, flush, relog
        self.stream = LabelledStream(
            store, seed=config.run.seed, crop=knobs.crop, flip=knobs.flip, quarter_turn=knobs.quarter_turn
        )
        self.classes: list[str] = list(store.domain["classes"])
        torch.manual_seed(config.run.seed)
        self.segmentor = build_segmentor(knobs, len(self.classes)).to(device)
        self._check()
        self.optimizer = torch.optim.Adam(self.segmentor.parameters(), lr=knobs.lr)
        self.schedule = build_schedule(self.optimizer, knobs.schedule)
        group = Group(Topology(), device)
        self.since_log, self.since_epoch = RunningMeans(group), RunningMeans(group)
        self.writer = Writer(out / "checkpoints", KEEP_CHECKPOINTS, knobs.milestone_every, device)
        self.checkpoint_stall_s: list[float] = []
        """How long training has waited for each checkpoint, in seconds."""
        self.first_bad = torch.tensor(-1, device=device)
        self.loss = math.nan
        self.best: dict[str, Any] | None = None
        self.validated_at = -1
        self.step = 0

    def _check(self) -> None:
        if not any(self.store.manifest["class_pixels"].values()):
            raise ValueError(f"{self.store.name}: every pixel of these shards' labels is void; build them from labels")
        multiple = side_multiple(self.segmentor)
        if self.knobs.crop % multiple:
            below = self.knobs.crop // multiple * multiple
            raise ValueError(
                f"segmentation.crop={self.knobs.crop} is not a multiple of {multiple}, which the segmentor needs; "
                f"take {below} or {below + multiple}"
            )

    @property
    def steps(self) -> int:
        """Length of the whole training in updates."""
        crops = self.knobs.epochs * self.stream.epoch_size
        return self.knobs.iterations or math.ceil(crops / self.knobs.batch_size)

    def train(self, quiet: bool) -> None:
        """Make the updates that are left, or those until a signal asks to stop. Raises ``Stopped`` then."""
        batches = self.stream.batches(
            self.step, self.steps, rank=0, world_size=1, batch_size=self.knobs.batch_size, workers=self.knobs.workers
        )
        clock = Clock()
        shown = progress(
            clock.watch(batches),
            "segment",
            total=self.steps,
            start=self.step,
            note=lambda: "" if math.isnan(self.loss) else f"loss {self.loss:.3f}",
            quiet=quiet,
        )
        self.segmentor.train()
        try:
            with listening() as asked:
                for batch in shown:
                    self.update(batch)
                    if self.step % self.knobs.log_every == 0 or self.step == self.steps:
                        self.report(clock)
                    if self._epochs_ended(1):
                        self.end_epoch()
                    if self._epochs_ended(self.knobs.validate_every):
                        self.score()
                    is_asked = asked.number and self.step != self.steps
                    if self._checkpoint_is_due() or is_asked:
                        self.checkpoint()
                    if is_asked:
                        self.writer.finish()
                        raise Stopped(asked.number, f"the segmentor's update {self.step}")
                    if self.writer.error is not None:
                        raise self.writer.error
        finally:
            self.writer.wait()

    def update(self, batch: dict[str, Tensor]) -> None:
        """One step of Adam on a batch of crops."""
        batch = self.stream.to_device(batch, self.device)
        image, label = batch["image"].float() / 255, batch["label"]
        torch.manual_seed(draw(SEEDS, "dropout", self.config.run.seed, self.step))
        self.optimizer.zero_grad(set_to_none=True)
        loss = segmentation_loss(self.segmentor(image), label, VOID)
        loss.backward()
        self.optimizer.step()
        self.step += 1
        # Kept on the device, so that no update waits for the one before it to be read.
        loss = loss.detach()
        bad = ~loss.isfinite() & (self.first_bad < 0)
        self.first_bad = torch.where(bad, self.step, self.first_bad)
        self.since_log.add({"loss": loss})
        if self.knobs.schedule.watch == "last_batch":
            self.since_epoch.read()
        self.since_epoch.add({"loss": loss})

    def report(self, clock: Clock) -> None:
        """Log means since the last report."""
        self._refuse_bad_loss()
        self.loss = self.since_log.read()["loss"]
        rates = clock.read(self.knobs.batch_size, "crops")
        values = {
            "loss": self.loss,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            **rates,
        }
        self.log({f"segment/{name}": value for name, value in values.items()}, self.step)

    def end_epoch(self) -> None:
        """Let the schedule look at the epoch's loss."""
        loss = self.since_epoch.read()["loss"]
        if self.schedule is not None:
            self.schedule.step(loss)

    def score(self) -> None:
        """Validate, and remember the weights if no earlier ones scored better."""
        if self.validate is None:
            return
        scores = self.validate(self.segmentor)
        self.segmentor.train()
        self.validated_at = self.step
        self.log({f"segment/validation/{name}": value for name, value in scores.items()}, self.step)
        if self.knobs.checkpoint == "best" and (self.best is None or scores["miou"] > self.best["miou"]):
            weights = {name: value.detach().cpu().clone() for name, value in self.segmentor.state_dict().items()}
            self.best = {"miou": float(scores["miou"]), "step": self.step, "state_dict": weights}

    def checkpoint(self) -> None:
        """Have everything saved that a continuation needs; what waits for it is the copying."""
        self._refuse_bad_loss()
        began = time.monotonic()
        self.writer.finish()
        state = {
            "identity": self.identity(),
            "step": self.step,
            "segmentor": self.segmentor.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": None if self.schedule is None else self.schedule.state_dict(),
            "since_log": self.since_log.state_dict(),
            "since_epoch": self.since_epoch.state_dict(),
            "best": self.best,
        }
        self.writer.save(self.step, {**state, "unwritten": self.flush()})
        self.checkpoint_stall_s.append(time.monotonic() - began)

    def resume(self) -> None:
        """Continue from the newest whole checkpoint, if there is one."""
        folder = self.out / "checkpoints"
        state = load_newest(folder)
        if state is None:
            return
        if state["identity"] != self.identity():
            raise ValueError(f"{folder}: was made by another configuration; choose another run.name or remove it")
        if state["step"] > self.steps:
            raise ValueError(
                f"{folder}: is {state['step']} updates long, more than the {self.steps} wanted; raise "
                "segmentation.iterations or segmentation.epochs, choose another run.name or remove it"
            )
        self.step, self.best = state["step"], state["best"]
        print(f"segmentor: continues from update {self.step}", file=sys.stderr, flush=True)
        self.relog(state.get("unwritten", []))
        self.segmentor.load_state_dict(state["segmentor"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.schedule is not None:
            self.schedule.load_state_dict(state["schedule"])
        self.since_log.load_state_dict(state["since_log"])
        self.since_epoch.load_state_dict(state["since_epoch"])

    def identity(self) -> str:
        """What a checkpoint must share with the training that continues it: all but its length and place."""
        what = {"segmentation": self.knobs, "seed": self.config.run.seed, "shards": self.store.manifest["plan"]}
        return digest(what, NOT_IN_DIGEST | {"epochs", "iterations"})

    def finish(self) -> Path:
        """Save the weights, whose presence says that training is done.

        The end is validated whether or not an epoch ends there, but after the last checkpoint: were it in there, a
        longer training that continues from it would have one validation more than if it had not stopped.
        """
        if self.validated_at != self.step:
            self.score()
        chosen = self.best or {"step": self.step, "state_dict": self.segmentor.state_dict()}
        self.writer.finish()
        path = self.out / SEGMENTOR
        save_segmentor(path, chosen["state_dict"], self.classes, self.config, chosen["step"])
        return path

    def _checkpoint_is_due(self) -> bool:
        every = (self.knobs.checkpoint_every, self.knobs.milestone_every)
        return self.step == self.steps or any(count and self.step % count == 0 for count in every)

    def _epochs_ended(self, count: int) -> bool:
        """Whether the last update saw the last crop of a multiple of ``count`` epochs."""
        size = count * self.stream.epoch_size
        return self.step * self.knobs.batch_size // size > (self.step - 1) * self.knobs.batch_size // size

    def _refuse_bad_loss(self) -> None:
        step = int(self.first_bad)
        if step >= 0:
            raise FloatingPointError(
                f"segment/loss is not finite at update {step}; lower segmentation.lr and start again from the last "
                f"checkpoint in {self.out / 'checkpoints'}"
            )
