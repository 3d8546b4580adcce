"""Station 4, training: a translator's training, from unpaired tiles of both domains to its weights."""

from __future__ import annotations

from pathlib import Path

from drdg.config import Config, digest
from drdg.config.sections import translator_settings
from drdg.distributed.group import Group
from drdg.distributed.microbatches import count_micro_batches
from drdg.training.journal import Journal
from drdg.training.loop import Stream, Trainer, run_training
from drdg.training.weights import fresh_translator, save_translator

TRANSLATOR = "translator.safetensors"


def train_translator(
    name: str,
    config: Config,
    stream: Stream,
    out: Path,
    group: Group,
    journal: Journal,
    quiet: bool = False,
) -> Path:
    """Train the translator called ``name`` and return the file of its final weights, written last.

    Continues from the newest checkpoint under ``out``. Raises what :func:`run_training` does.
    """
    return run_training(lambda: GanTrainer(name, config, stream, out, group, journal), out, group, quiet)


class GanTrainer(Trainer):
    """The training of one translator."""

    word, unit, cure = "gan", "pairs", "lower gan.generator_lr or gan.critic_lr"

    def __init__(self, name: str, config: Config, stream: Stream, out: Path, group: Group, journal: Journal):
        self.name = name
        self.keep_checkpoints = config.gan.keep_checkpoints
        self.translator = fresh_translator(name, config, group.device)
        micro_batches = count_micro_batches(config.gan, group.world_size)
        super().__init__(self.translator, config, config.gan, stream, out, group, journal, micro_batches)

    def identity(self) -> str:
        """What a checkpoint must share with the run that continues it."""
        parts = {part: getattr(self.config, part) for part in translator_settings(self.name)}
        what = {"translator": self.name, **parts, "gan": self.knobs_that_count(), "seed": self.config.run.seed}
        return digest({**what, "data": self.stream.content}, ignore=())

    def save_weights(self) -> Path:
        """Write the translator's weights, on rank 0."""
        path = self.out / TRANSLATOR
        if self.group.is_first:
            self.writer.do(lambda: save_translator(path, self.translator, self.name, self.config, self.iteration))
        return path
