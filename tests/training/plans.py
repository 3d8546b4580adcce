"""Plans for ``misfortunes.py``, and what came of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from drdg.config import load_config, to_yaml
from drdg.models.exports import read_weights
from drdg.shards.store import ShardStore

GAN = ["batch_size=2", "log_every=3", "n_critic=2", "workers=0"]
SIDES = ["source.tile=256", "source.stride=64", "target.tile=128", "target.stride=64"]
NARROW = ["generator.width=2", "critic.width=2", "distributed.threads=1", "distributed.timeout_s=60"]


@dataclass
class Left:
    """What a job has left."""

    statuses: list[int]
    words: list[list[str]]
    """Each rank's lines on standard error."""
    begun_from: int
    """The newest whole checkpoint before the job, 0 if there was none."""
    newest: int
    """The newest whole checkpoint after it."""
    wrong: list[str]
    """The whole checkpoints that are not those of an undisturbed training."""

    def errors(self, rank: int) -> list[str]:
        """What a rank said when it ended, but not where it began."""
        return [line for line in self.words[rank] if not line.startswith("gan: continues from iteration ")]


class Plan:
    """Trainings by two ranks, collected first and then done in one start."""

    def __init__(self, folder: Path, stores: tuple[ShardStore, ShardStore], *overrides: str):
        self.folder = folder
        config = load_config(None, [*SIDES, *NARROW, *(f"gan.{knob}" for knob in GAN), *overrides])
        (folder / "config.yaml").write_text(to_yaml(config))
        self.jobs: list[dict[str, Any]] = []
        self.plan = {"config": str(folder / "config.yaml"), "jobs": self.jobs}
        self.plan |= {"source": str(stores[0].name), "target": str(stores[1].name)}

    def add(self, name: str, *overrides: str, **befalls: Any) -> None:
        """A start of the training ``name``, which befalls what is said of it. The first one's checkpoints are those
        that the others' are compared with.
        """
        job: dict[str, Any] = {"out": str(self.folder / name), "overrides": list(overrides)}
        if self.jobs:
            job["whole"] = self.jobs[0]["out"]
        self.jobs.append(job | ({"befalls": befalls} if befalls else {}))

    def do(self) -> list[tuple[str, Left]]:
        """Do all of them in order; gives for each its name and what it has left."""
        path = self.folder / "plan.json"
        path.write_text(json.dumps(self.plan))
        command = [sys.executable, Path(__file__).with_name("misfortunes.py"), path]
        quiet = os.environ | {"TORCH_CPP_LOG_LEVEL": "ERROR"}
        done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False, env=quiet)
        assert done.returncode == 0, done.stderr
        values = map(json.loads, done.stdout.splitlines())
        return [(Path(job["out"]).name, self._left(value)) for job, value in zip(self.jobs, values, strict=True)]

    @staticmethod
    def _left(value: dict[str, Any]) -> Left:
        words = [text.splitlines() for text in value["words"]]
        return Left(value["statuses"], words, value["from"], value["newest"], value["wrong"])

    def weights(self, name: str) -> dict[str, Tensor]:
        return read_weights(self.folder / name / "translator.safetensors", "translator")[0]

    def curve(self, name: str) -> dict[int, dict[str, float]]:
        """What was logged; what was logged twice, after a restart, must have been the same."""
        curve: dict[int, dict[str, float]] = {}
        for line in (self.folder / name).with_suffix(".curve").read_text().splitlines():
            step, values = json.loads(line)
            assert curve.setdefault(step, values) == values, f"{name}, step {step}"
        return curve

    def steps(self, name: str) -> list[int]:
        """The checkpoints that lie there."""
        return sorted(int(path.stem[5:]) for path in (self.folder / name / "checkpoints").glob("step_*.pt"))
