"""Sweeps in a store as the sweep's jobs leave them, without any job: runs, tags, losses, scores and crops."""

from __future__ import annotations

import io
import json
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from mlflow import MlflowClient
from mlflow.entities import Metric

from drdg.datasets import CLASSES, PALETTE
from drdg.metrics import ConfusionMatrix
from drdg.tracking import Tracking

IRRG = "potsdam_irrg_to_vaihingen"
RGB = "potsdam_rgb_to_vaihingen"
FAILED = "FloatingPointError: 100 % of gan/critic_1 & more is nan; see <log>"
STALE = 0.123
EXPERIMENT = "drdg"
LOSSES = {
    "drdg": ("gan/critic/wasserstein", "gan/critic/penalty", "gan/generator/cycle", "gan/generator/dsl"),
    "rdg": ("gan/critic/wasserstein", "gan/critic/penalty", "gan/generator/cycle"),
}
TRANSLATING = ("cyclegan", "benjdira", "dualgan", "rdg", "drdg_wo_dsl", "drdg_wo_dccl", "drdg")


@dataclass
class Cell:
    """What is to be in the store about one row with one seed."""

    row: str
    seed: int
    right: float | None = 0.7
    """The share of pixels that are called what they are; None for no scores."""
    state: str | None = "done"
    error: str | None = None
    result: str | None = None
    """Other than the digest that the sweep wants."""
    direction: str = IRRG
    change: Callable[[dict[str, Any]], dict[str, Any]] = field(default=lambda metrics: metrics)
    """Of the metrics."""
    exhibits: bool = False
    losses: bool = False

    @property
    def key(self) -> str:
        return f"{self.direction}/seed{self.seed}/{self.row}"

    @property
    def digest(self) -> str:
        return f"digest of {self.key}"


def matrices(right: float, seed: int, tops: Sequence[str], classes: int = len(CLASSES)) -> dict[str, list[list[int]]]:
    """A matrix for each TOP with about ``right`` of the pixels on its diagonal."""
    rng = np.random.default_rng(seed)
    found = {}
    for top in tops:
        pixels = rng.integers(2_000, 40_000, classes)
        share = np.clip(right + rng.normal(0, 0.05, classes), 0.05, 0.98)
        off = rng.dirichlet(np.ones(classes), classes)
        matrix = (off * (pixels * (1 - share))[:, None]).astype(int)
        matrix[np.arange(classes), np.arange(classes)] += (pixels * share).astype(int)
        found[top] = matrix.tolist()
    return found


def metrics_of(cell: Cell, tops: Sequence[str]) -> dict[str, Any]:
    """What an evaluation writes."""
    assert cell.right is not None
    by_top = matrices(cell.right, cell.seed, tops)
    total = ConfusionMatrix.from_counts(np.sum([np.array(matrix) for matrix in by_top.values()], axis=0))
    scores = total.scores(CLASSES)
    return cell.change(
        {
            "seed": cell.seed,
            "direction": cell.direction,
            "protocol": "global",
            "split": "test",
            "tops": list(tops),
            "classes": list(CLASSES),
            "confusion": total.counts.tolist(),
            "confusion_by_top": by_top,
            "iou": scores.iou,
            "f1": scores.f1,
            "miou": scores.miou,
            "mean_f1": scores.mean_f1,
            "oa": scores.oa,
            "absent": list(scores.absent),
            "definition": "Percent from one confusion matrix over all pixels, and the weights of the last update.",
        }
    )


def write_sweep(
    tracking: Tracking,
    cells: Sequence[Cell],
    *,
    name: str = "runs-tables",
    folder: Path = Path("/nowhere/runs-tables"),
    tops: Sequence[str] = ("1", "3", "5"),
    side: int = 96,
    steps: int = 60,
    plan: Mapping[str, Any] | None = None,
) -> str:
    """Put a sweep into the store of ``tracking`` and return its run's id."""
    client = MlflowClient(tracking_uri=tracking.uri)
    sweep = tracking.parent(name, {"drdg.kind": "sweep", "drdg.digest": f"{name} {folder}"}, {})
    listed = []
    for cell in cells:
        tags = {"drdg.kind": "cell", "drdg.row": cell.row, "drdg.seed": cell.seed, "drdg.digest": cell.key}
        run = tracking.stage(cell.key, sweep.run_id, tags | {"drdg.direction": cell.direction}, {})
        settled = {"drdg.state": cell.state, "drdg.error": cell.error}
        if cell.right is not None:
            settled["drdg.result"] = cell.result or cell.digest
            run.text(json.dumps(metrics_of(cell, tops)), "metrics.json")
        for stage in ("gan", "translate", "segment", "evaluate"):
            is_trained = stage in ("gan", "segment")
            kept = exhibits_of(stage, cell, tops, side) if cell.exhibits and cell.right is not None else {}
            if not kept and not (is_trained and cell.losses):
                continue
            stage_tags = {"drdg.kind": "stage", "drdg.stage": stage, "drdg.row": cell.row, "drdg.seed": cell.seed}
            # An earlier result of the same stage, which the cell's present one was not made by, comes last.
            for made in (f"{stage} {cell.digest}", f"old {stage} {cell.digest}"):
                below = tracking.stage(f"{cell.row}/{stage}", run.run_id, stage_tags | {"drdg.digest": made}, {})
                if made.startswith("old"):
                    below.log({f"{stage}/of_an_older_result": 1.0}, 0)
                    below.log({f"{stage}/of_an_older_result": 2.0}, 1)
                elif is_trained and cell.losses:
                    client.log_batch(below.run_id, metrics=list(losses_of(stage, cell, steps)))
                for path, arrays in kept.items() if not made.startswith("old") else ():
                    write_arrays(client, below.run_id, path, arrays)
                below.close()
            settled[f"drdg.stage_digest.{stage}"] = f"{stage} {cell.digest}"
        run.tags({key: value for key, value in settled.items() if value is not None})
        run.close("FINISHED" if cell.state == "done" else "FAILED")
        evaluate = f"{cell.key}/evaluate"
        plain = {"key": cell.key, "direction": cell.direction, "row": cell.row, "seed": cell.seed}
        listed.append({**plain, "run_id": run.run_id, "evaluate": evaluate, "digest": cell.digest, "jobs": [evaluate]})
    content = {
        "version": 1,
        "name": name,
        "folder": str(folder),
        "uri": tracking.uri,
        "experiment": EXPERIMENT,
        "run_id": sweep.run_id,
        "preset": "paper",
        "directions": list(dict.fromkeys(cell.direction for cell in cells)),
        "rows": list(dict.fromkeys(cell.row for cell in cells)),
        "seeds": sorted({cell.seed for cell in cells}),
        "cells": listed,
        "jobs": {},
        **(plan or {}),
    }
    sweep.text(json.dumps(content), "sweep.json")
    sweep.close()
    return sweep.run_id


def losses_of(stage: str, cell: Cell, steps: int) -> list[Metric]:
    """Losses that fall and scatter, and what else is logged beside them."""
    rng = np.random.default_rng(cell.seed)
    names = LOSSES.get(cell.row, LOSSES["rdg"]) if stage == "gan" else ("segment/cross_entropy",)
    found = []
    for place, name in enumerate(names):
        for step in range(0, steps * 10, 10):
            falling = (place + 1) * (1 + 2 * math.exp(-step / (steps * 3)))
            value = falling + rng.normal(0, 0.1) + len(cell.row) / 20 + 0.2 * cell.seed
            found.append(Metric(name, value, 0, step))
    found.append(Metric(f"{stage}/critic/learning_rate", 1e-4, 0, 0))
    found.append(Metric(f"{stage}/critic/learning_rate", 1e-5, 0, 10))
    return [*found, Metric(f"{stage}/pairs_per_s", 5.0, 0, 0), Metric(f"{stage}/pairs_per_s", 6.0, 0, 10)]


def exhibits_of(stage: str, cell: Cell, tops: Sequence[str], side: int) -> dict[str, dict[str, Any]]:
    """What an evaluation keeps of each TOP, or a translation of tiles."""
    known = {"classes": np.array(CLASSES), "palette": np.array(PALETTE, dtype=np.uint8)}
    if stage == "evaluate":
        found = {}
        for place, top in enumerate(tops):
            image, label, heights = town(place, side)
            rng = np.random.default_rng(len(cell.row) + place)
            wrong = np.kron(rng.random((12, 12)) > (cell.right or 0), np.ones((side // 12, side // 12))) > 0
            prediction = np.where(wrong, (label + 1) % len(CLASSES), label).astype(np.uint8)
            label = label.copy()
            label[: side // 10, : side // 6] = 255
            arrays = {"image": image, "label": label, "prediction": prediction, "dsm": heights, "gsd_m": 0.09}
            found[f"exhibits/target_{top}.npz"] = {**arrays, **known}
        return found
    if stage != "translate" or cell.row not in TRANSLATING:
        return {}
    images, labels, heights = (np.stack(part) for part in zip(*(town(10 + n, side) for n in range(3)), strict=True))
    arrays = {
        "image": images,
        "label": labels,
        "dsm_m": heights,
        "translated": (255 - images[:, ::2, ::2]).astype(np.uint8),
        "predicted_unit": "of range",
    }
    if cell.row.startswith("drdg"):
        arrays["predicted_dsm"] = (heights[:, ::2, ::2] - heights.min()) / np.ptp(heights)
    return {"exhibits/translation.npz": {**arrays, **known}}


def town(seed: int, side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An image, its label and its heights: blocks of one class each."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, len(CLASSES), (6, 6))
    label = np.kron(blocks, np.ones((side // 6, side // 6), dtype=int)).astype(np.uint8)
    shades = rng.integers(40, 215, (len(CLASSES), 3))
    image = np.clip(shades[label] + rng.normal(0, 15, (*label.shape, 3)), 0, 255).astype(np.uint8)
    heights = (270 + 3.0 * label + np.linspace(0, 4, label.shape[1])).astype(np.float32)
    return image, label, heights


def write_arrays(client: MlflowClient, run_id: str, path: str, arrays: Mapping[str, Any]) -> None:
    """Keep arrays as an artifact."""
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    folder, _, name = path.rpartition("/")
    with tempfile.TemporaryDirectory() as place:
        file = Path(place, name)
        file.write_bytes(content.getvalue())
        client.log_artifact(run_id, str(file), folder or None)


@dataclass(frozen=True)
class Reported:
    """A report and what it was made of."""

    store: Path
    """The folder of the store, which is also the sweep's."""
    run_id: str
    cells: list[Cell]
    out: Path
    files: list[Path]
    shown: str
    """On the terminal."""

    @property
    def uri(self) -> str:
        return f"sqlite:///{self.store / 'mlflow.db'}"

    def text(self, name: str) -> str:
        return (self.out / name).read_text(encoding="utf-8")


def some_of_everything() -> list[Cell]:
    """Two directions, in one of which nothing was scored."""
    scored = {"baseline": 0.4, "rdg": 0.6, "drdg": 0.7, "oracle": 0.9}
    cells = [
        Cell(row, seed, right, exhibits=seed == 0, losses=row != "oracle")
        for row, right in scored.items()
        for seed in (0, 1)
    ]
    cells.append(Cell("mucss", 0, 0.5))
    cells.append(Cell("mucss", 1, None, state="failed", error=FAILED))
    cells.append(Cell("benjdira", 0, STALE, result="of other settings", exhibits=True, losses=True))
    cells.append(Cell("benjdira", 1, None, state=None))
    cells.append(Cell("drdg", 2, 0.7, change=lambda metrics: metrics | {"split": "val"}))
    cells.append(Cell("cyclegan", 0, 0.5, change=lambda metrics: {"miou": 1.0}))
    return [*cells, Cell("drdg", 0, None, state="missing", error="its GAN was cancelled", direction=RGB)]
