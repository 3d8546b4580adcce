"""Station 7, bench: one class map in this process, by our way or by the field's, and what it took.

``python -m drdg.bench.predict_once SIDE SCENE OUT WINDOW OVERLAP BATCH CLASSES`` prints the answer as JSON.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
import warnings
from pathlib import Path

import numpy as np
import rasterio
import torch
import torch.nn.functional as F
from rasterio.errors import NotGeoreferencedWarning
from torch import Tensor, nn

from drdg.bench.machine import peak_memory_mb, resident_memory_mb
from drdg.bench.predict import OURS, SIDES, WARM_UP
from drdg.config import EvaluationConfig
from drdg.datasets.described import map_palette
from drdg.distributed.group import Group
from drdg.distributed.topology import Topology
from drdg.maps.inputs import Reading
from drdg.maps.mosaic import Task, map_scene
from drdg.maps.networks import Segmentation
from drdg.maps.products import class_map
from drdg.tiles.windows import grid

WARM_UP_WINDOW = 64


class Thin(nn.Module):
    """A segmentor that takes next to no time: at a quarter of the side, and back."""

    def __init__(self, classes: int):
        super().__init__()
        torch.manual_seed(0)
        self.down = nn.Conv2d(3, classes, 4, stride=4)

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, 3, H, W) to logits (N, classes, H, W)."""
        return F.interpolate(self.down(images), scale_factor=4, mode="bilinear")


def main() -> None:
    """Map once and say what it took."""
    arguments = argparse.ArgumentParser(description="One class map, measured from inside.")
    arguments.add_argument("side", choices=SIDES)
    arguments.add_argument("scene", type=Path)
    arguments.add_argument("out", type=Path)
    arguments.add_argument("window", type=int)
    arguments.add_argument("overlap", type=float)
    arguments.add_argument("batch", type=int)
    arguments.add_argument("classes", type=int)
    options = arguments.parse_args()
    segmentor = Thin(options.classes).eval()
    # In small, so that code which is loaded when it is first used is there, and no memory of the map's.
    _map(segmentor, options, options.scene.with_name(WARM_UP), WARM_UP_WINDOW)
    before = resident_memory_mb()
    began = time.perf_counter()
    _map(segmentor, options, options.scene, options.window)
    seconds = time.perf_counter() - began
    print(json.dumps({"seconds": seconds, "peak_mb": peak_memory_mb() - before}))


def _map(segmentor: nn.Module, options: argparse.Namespace, scene: Path, window: int) -> None:
    shutil.rmtree(options.out, ignore_errors=True)
    options.out.mkdir(parents=True)
    if options.side != OURS:
        pad_and_add(segmentor, scene, options.out / "map.tif", window, options.overlap)
        return
    names = tuple(f"class {number}" for number in range(options.classes))
    knobs = {"window": window, "overlap": options.overlap, "batch_size": options.batch}
    windows = EvaluationConfig().model_copy(update=knobs)
    network = Segmentation(segmentor, options.classes)
    task = Task("map", network, (class_map(names, map_palette(list(names))),), windows, None, {})
    map_scene(scene, Reading(), task, options.out, Group(Topology(), torch.device("cpu")), quiet=True)


@torch.inference_mode()
def pad_and_add(segmentor: nn.Module, scene: Path, out: Path, window: int, overlap: float) -> None:
    """The field's way: the whole image in memory, each window's logits padded to the whole and added to it, all of it
    divided by how many windows saw a pixel; the map as a plain file.
    """
    with rasterio.open(scene) as file:
        image = torch.from_numpy(file.read([1, 2, 3])).float()[None] / 255
    height, width = image.shape[2:]
    total, count = torch.zeros(()), torch.zeros(1, 1, height, width)
    windows = grid(height, width, window, max(1, round(window * (1 - overlap))), "shift")
    for number, place in enumerate(windows):
        logits = segmentor(image[:, :, place.rows, place.cols])
        around = (place.col, width - place.cols.stop, place.row, height - place.rows.stop)
        if not number:
            total = torch.zeros(1, logits.shape[1], height, width)
        total += F.pad(logits, around)
        count[:, :, place.rows, place.cols] += 1
    ids = (total / count).softmax(1).argmax(1)[0].numpy().astype(np.uint8)
    shape = {"height": height, "width": width, "count": 1, "dtype": "uint8"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # without its place, as the field has it
        with rasterio.open(out, "w", driver="GTiff", compress="deflate", **shape) as file:
            file.write(ids, 1)


if __name__ == "__main__":
    main()
