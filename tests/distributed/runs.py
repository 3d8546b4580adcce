"""Training runs that ``train.py`` carries out on several ranks, and how far their results differ."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from drdg.config import Config, to_yaml
from drdg.shards.store import ShardStore

CONFIGS = Path(__file__).parents[2] / "configs/deepspeed"
Networks = dict[str, torch.Tensor]


class Runs:
    """Training runs in a folder, collected first and then done in one start."""

    def __init__(self, folder: Path, config: Config, stores: tuple[ShardStore, ShardStore]):
        self.folder = folder
        self.plan: dict[str, Any] = {"source": str(stores[0].name), "target": str(stores[1].name), "jobs": []}
        path = folder / "config.yaml"
        path.write_text(to_yaml(config))
        self.plan["config"] = str(path)

    def add(self, name: str, backend: str, ranks: int, *overrides: str, **job: Any) -> str:
        """A run of ``name`` on single, ddp, or zero0 to zero2. Jobs of as many ranks in a row share their processes."""
        chosen = [f"distributed.backend={backend}"]
        if backend.startswith("zero"):
            chosen = ["distributed.backend=deepspeed", f"distributed.deepspeed={CONFIGS / backend}.json"]
        if "after" in job:
            job["after"] = str(self.folder / job["after"])
        self.plan["jobs"].append(
            {"ranks": ranks, "out": str(self.folder / name), "overrides": [*chosen, *overrides], **job}
        )
        return name

    def do(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.plan["port"] = free.getsockname()[1]
        path = self.folder / "plan.json"
        path.write_text(json.dumps(self.plan))
        command = [sys.executable, Path(__file__).with_name("train.py"), path]
        quiet = os.environ | {"PYTHONWARNINGS": "ignore"}
        done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False, env=quiet)
        assert done.returncode == 0, done.stderr[-8000:]

    def networks(self, name: str) -> Networks:
        (weights,) = (self.folder / name).glob("*.safetensors")
        return load_file(weights)

    def checkpoint(self, name: str) -> dict[str, Any]:
        newest = max((self.folder / name / "checkpoints").glob("step_*.pt"))
        return torch.load(newest, weights_only=True)

    def probes(self, name: str) -> list[Any]:
        """What a probe gave on each rank."""
        paths = sorted((self.folder / name).glob("rank*.pt"))
        return [torch.load(path, weights_only=False) for path in paths]


def distances(one: Networks, other: Networks, part: str = "") -> torch.Tensor:
    """How far apart each weight is of those whose name contains ``part``; NaN counts as infinite."""
    assert one.keys() == other.keys()
    apart = [(one[name].double() - other[name].double()).abs().flatten() for name in one if part in name]
    return torch.nan_to_num(torch.cat(apart), nan=torch.inf)


def different(one: Any, other: Any, place: str = "") -> list[str]:
    """Where two nested structures of tensors and values are not bit-equal."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        same = one.dtype == other.dtype and one.shape == other.shape and torch.equal(one, other)
        return [] if same else [place]
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return [found for key in one for found in different(one[key], other[key], f"{place}/{key}")]
    if isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        return [
            found for i, pair in enumerate(zip(one, other, strict=True)) for found in different(*pair, f"{place}/{i}")
        ]
    return [] if type(one) is type(other) and one == other else [place]
