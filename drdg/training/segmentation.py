"""Station 4, training: a segmentor's training by an objective (paper, section II-C, equations 8 and 9)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from drdg.config import Config, digest
from drdg.config.loading import NOT_IN_DIGEST
from drdg.config.sections import WATCH_THE_END, objective_settings
from drdg.distributed.group import Group, pick_device
from drdg.distributed.norms import average_over_ranks, synchronise_norms
from drdg.distributed.topology import Topology
from drdg.methods import OBJECTIVES, build_objective
from drdg.models.segmentor import build_segmentor, save_segmentor, side_multiple
from drdg.models.segmentor_randomness import make_keyed, refuse_other_randomness
from drdg.shards.adaptation import AdaptationStream
from drdg.shards.location import Location
from drdg.shards.store import ShardStore
from drdg.training.journal import Journal
from drdg.training.loop import Trainer, run_training
from drdg.training.weights import DTYPES

Validate = Callable[[nn.Module], dict[str, float]]
SEGMENTOR = "segmentor.safetensors"


@dataclass(frozen=True)
class Lesson:
    """What a segmentor learns from, and how."""

    shards: Path | Location
    """Labelled tiles."""
    objective: str = "source_only"
    target: Path | Location | None = None
    """Unlabelled tiles of the target, for an objective that needs them."""
    original: Path | Location | None = None
    """The labelled tiles as they were before their translation, one for one, for an objective that needs them."""


def train_segmentor(
    config: Config,
    lesson: Lesson | Path | Location,
    out: Path,
    *,
    validate: Validate | None,
    group: Group | None = None,
    journal: Journal = Journal(),  # noqa: B008 -- it is frozen
    quiet: bool = False,
) -> Path:
    """Train a segmentor and return ``out/segmentor.safetensors``, which is written last.

    That file holds the weights and, as its metadata, ``classes`` with their ``palette``, ``gsd_m``, ``config`` and
    ``step``, the update that the weights are of. Training continues from the newest checkpoint under ``out``.
    ``validate(segmentor)`` returns scores by name, among them ``miou``, the same on all ranks; it is called on all
    of them, after every ``segmentation.validate_every`` epochs and at the end. ``group``: the ranks; alone by
    default. Raises ``ValueError`` when shards and configuration do not go together, and what :func:`run_training`
    does.
    """
    group = Group(Topology(), pick_device(config.distributed)) if group is None else group
    what = lesson if isinstance(lesson, Lesson) else Lesson(lesson)
    return run_training(lambda: SegmentorTrainer(config, what, out, group, validate, journal), out, group, quiet)


class SegmentorTrainer(Trainer):
    """The training of one segmentor."""

    word, unit = "segment", "crops"
    cure = "lower segmentation.lr (or output_space.lr, where that is the discriminator's)"
    finds_unused = True  # some encoders have layers past the last that the decoder reads

    def __init__(
        self,
        config: Config,
        lesson: Lesson,
        out: Path,
        group: Group,
        validate: Validate | None,
        journal: Journal,
    ):
        knobs = config.segmentation
        assert knobs.validation == "none" or validate is not None, "segmentation.validation without a validate function"
        self.objective, self.validate = lesson.objective, validate
        self.watches_the_end = lesson.objective in WATCH_THE_END
        store = ShardStore(lesson.shards)
        self.classes: list[str] = list(store.domain["classes"])
        self.ground = {name: store.domain.get(name) for name in ("palette", "gsd_m")}
        stream = stream_of(config, lesson, store)
        if not any(store.manifest["class_pixels"].values()):
            raise ValueError(f"{store.name}: every pixel of these shards' labels is void; build them from labels")
        self.segmentor = fresh_segmentor(config, len(self.classes), group)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.run.seed)
            method = build_objective(lesson.objective, config, self.segmentor, average_over_ranks(group))
        method.networks.to(device=group.device, dtype=DTYPES[knobs.precision])
        self.shown_loss = math.nan
        self.best: dict[str, Any] | None = None
        self.validated_at = -1
        super().__init__(method, config, knobs, stream, out, group, journal)

    def prepared(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The phases' input, with the share of training that is done."""
        ready = super().prepared(batch)
        done = self.iteration / self.iterations
        return {**ready, "progress": torch.full(ready["position"].shape, done, device=self.group.device)}

    def note(self) -> str:
        """The last loss that was logged."""
        return "" if math.isnan(self.shown_loss) else f"loss {self.shown_loss:.3f}"

    def show(self, means: Mapping[str, float]) -> None:
        """Remember the loss of the first phase, the segmentor's."""
        self.shown_loss = means.get(f"{self.phases[0].name}/loss", math.nan)

    def epoch_done(self) -> None:
        """Validate, when it is time."""
        if self.epochs_ended(self.config.segmentation.validate_every):
            self.score()

    def training_done(self) -> None:
        """Validate the end, whether or not an epoch ends there, but after the last checkpoint.

        Were it in there, a longer training that continues from it would have one validation more than if it had not
        stopped.
        """
        if self.validated_at != self.iteration:
            self.score()

    def score(self) -> None:
        """Validate, and remember the weights if no earlier ones scored better."""
        if self.validate is None:
            return
        scores = self.validate(self.segmentor)
        self.validated_at = self.iteration
        if self.group.is_first:
            self.journal.log({f"segment/validation/{name}": value for name, value in scores.items()}, self.iteration)
        wants_best = self.config.segmentation.checkpoint == "best"
        if wants_best and (self.best is None or scores["miou"] > self.best["miou"]):
            weights = {name: value.detach().cpu().clone() for name, value in self.segmentor.state_dict().items()}
            self.best = {"miou": float(scores["miou"]), "step": self.iteration, "state_dict": weights}

    def more_state(self) -> dict[str, Any]:
        """The best weights so far."""
        return {"best": self.best}

    def load_more(self, state: Mapping[str, Any]) -> None:
        """Take up the best weights so far."""
        self.best = state["best"]

    def identity(self) -> str:
        """What a checkpoint must share with the training that continues it: all but its length and place."""
        parts = {part: getattr(self.config, part) for part in objective_settings(self.objective)}
        what = {"objective": self.objective, **parts, "segmentation": self.knobs_that_count()}
        return digest({**what, "seed": self.config.run.seed, "data": self.stream.content}, NOT_IN_DIGEST)

    def save_weights(self) -> Path:
        """Write the weights of the chosen update, on rank 0."""
        path = self.out / SEGMENTOR
        chosen = self.best or {"step": self.iteration, "state_dict": self.segmentor.state_dict()}
        weights = {name: single(value) for name, value in chosen["state_dict"].items()}
        if self.group.is_first:
            self.writer.do(
                lambda: save_segmentor(path, weights, self.classes, self.config, chosen["step"], **self.ground)
            )
        return path


def stream_of(config: Config, lesson: Lesson, store: ShardStore) -> AdaptationStream:
    """The crops that an objective needs. Raises ``ValueError`` when they cannot be had."""
    knobs, objective = config.segmentation, OBJECTIVES[lesson.objective]
    assert not objective.needs_target or lesson.target is not None, f"{lesson.objective} without a target"
    assert not objective.needs_original or lesson.original is not None, f"{lesson.objective} without originals"
    return AdaptationStream(
        store,
        target=ShardStore(lesson.target) if objective.needs_target and lesson.target is not None else None,
        original=ShardStore(lesson.original) if objective.needs_original and lesson.original is not None else None,
        seed=config.run.seed,
        crop=knobs.crop,
        flip=knobs.flip,
        quarter_turn=knobs.quarter_turn,
    )


def fresh_segmentor(config: Config, num_classes: int, group: Group) -> nn.Module:
    """A segmentor with the initial weights of ``run.seed``, which learns the same on any number of ranks."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.run.seed)
        segmentor = build_segmentor(config.segmentation, num_classes)
    refuse_crop(config.segmentation.crop, segmentor)
    keyed = make_keyed(segmentor)
    refuse_other_randomness(keyed, config.segmentation.crop)
    return synchronise_norms(keyed, group)


def refuse_crop(crop: int, segmentor: nn.Module) -> None:
    """Raise ``ValueError`` when the segmentor cannot take crops of that side."""
    multiple = side_multiple(segmentor)
    if crop % multiple:
        below = crop // multiple * multiple
        raise ValueError(
            f"segmentation.crop={crop} is not a multiple of {multiple}, which the segmentor needs; "
            f"take {below} or {below + multiple}"
        )


def single(value: Tensor) -> Tensor:
    """Weights as maps are made with: float32, whatever they were trained in."""
    return value.float() if value.is_floating_point() else value
