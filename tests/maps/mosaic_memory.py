"""Map one raster in a process of its own and print, as JSON, the memory it took beyond what was there before, in MB.

``python mosaic_memory.py SCENE OUT``; the network is two convolutions, so that what is seen is not its own memory.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from mosaic_scenes import CLASSES, Blurry, random_image, write_scene

from drdg.bench.machine import peak_memory_mb, resident_memory_mb
from drdg.config import EvaluationConfig
from drdg.distributed.group import Group
from drdg.distributed.topology import Topology
from drdg.maps import mosaic
from drdg.maps.inputs import Reading, Scene
from drdg.maps.networks import Segmentation
from drdg.maps.products import class_map, confidence

CACHE = 16 << 20


def main(scene: Path, out: Path) -> None:
    torch.set_num_threads(1)
    mosaic.CACHE_BYTES = CACHE
    network = Segmentation(Blurry(), 3)
    products = (class_map(CLASSES, [(0, 0, 0)] * 3), confidence())
    task = mosaic.Task("map", network, products, EvaluationConfig(window=256, batch_size=4), None, {})
    with Scene(scene, Reading()) as opened:
        bound = mosaic.bound_bytes(mosaic.layout_of(opened, task), 3)
    alone = Group(Topology(), torch.device("cpu"))
    # Once in small, so that code which is loaded when it is first used is there already.
    small = write_scene(out / "in/small.tif", random_image(200, 300), nodata=0)
    mosaic.map_scene(small, Reading(), task, out, alone, quiet=True)
    before = resident_memory_mb()
    mosaic.map_scene(scene, Reading(), task, out, alone, quiet=True)
    print(json.dumps({"peak_mb": peak_memory_mb() - before, "bound_mb": (bound + CACHE) / 1e6}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
