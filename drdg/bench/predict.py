"""Station 7, bench: a class map of one orthophoto beside the field's way, which holds all logits of it in memory.

Each run is a process of its own, which says how long it took, from an open network to the file on the disk, and how
much memory beyond what Python, torch and the network took before. The network is one thin convolution, so that the ways
are measured and not the network; a larger one takes the same on both sides, and the ratio falls.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import rasterio
from rasterio.transform import from_origin

from drdg.bench.machine import describe
from drdg.bench.predict_sizes import PredictSizes
from drdg.bench.result import Comparison, dearer, faster
from drdg.bench.sheets import town
from drdg.bench.timing import Measure, Runs, interleave, say

GOAL_TIMES, GOAL_MEMORY = 5.0, 0.2
OURS, PAD_AND_ADD = "ours", "pad and add"
SIDES = (OURS, PAD_AND_ADD)
WARM_UP, WARM_UP_SIDE = "warm_up.tif", 160
"""An orthophoto so small that its map takes no memory, which each process maps first."""


def measure_predict(sizes: PredictSizes, repeats: int, *, root: Path | None) -> list[Comparison]:
    """Map one orthophoto in both ways.

    ``root``: where to work, a temporary folder by default; all that is written there is removed in the end. Raises
    ``ValueError`` with one sentence when a run fails.
    """
    say(describe())
    if root is not None:
        root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="drdg-bench-", dir=root) as name:
        folder = Path(name).resolve()
        scene = folder / "scene.tif"
        write_scene(scene, sizes.side)
        write_scene(folder / WARM_UP, WARM_UP_SIDE)
        peaks: dict[str, list[float]] = {side: [] for side in SIDES}

        def seconds_of(side: str) -> Measure:
            def measure() -> float:
                found = map_in_child(side, scene, folder / "out", sizes)
                peaks[side].append(found["peak_mb"])
                return found["seconds"]

            return measure

        seconds = interleave({side: seconds_of(side) for side in SIDES}, repeats, warm_up=False)
    what = f"of one orthophoto of {sizes.side} x {sizes.side} pixels beside pad-and-add of all logits, window by window"
    memory = {side: Runs(tuple(values)) for side, values in peaks.items()}
    return [
        faster(f"class map {what}", seconds[OURS], seconds[PAD_AND_ADD], GOAL_TIMES),
        dearer(f"memory of a class map {what}", memory[OURS], memory[PAD_AND_ADD], "MB", GOAL_MEMORY),
    ]


def write_scene(path: Path, side: int) -> None:
    """An orthophoto of a generated town, tiled and compressed, with a place."""
    image = town(side).image  # of half the side; the rest is mirrored
    lacking = [(0, max(0, side - length)) for length in image.shape[:2]]
    image = np.pad(image, (*lacking, (0, 0)), mode="symmetric")[:side, :side]
    profile = {"driver": "GTiff", "height": side, "width": side, "count": 3, "dtype": "uint8", "compress": "deflate"}
    place = {"crs": "EPSG:32632", "transform": from_origin(5e5, 5e6, 0.09, 0.09)}
    with rasterio.open(path, "w", tiled=True, **profile, **place) as file:
        file.write(image.transpose(2, 0, 1))


def map_in_child(side: str, scene: Path, out: Path, sizes: PredictSizes) -> dict[str, float]:
    """Map ``scene`` by one of ``SIDES`` in a process of its own: its ``seconds`` and ``peak_mb``."""
    knobs = [sizes.window, sizes.overlap, sizes.batch, sizes.classes]
    command = [sys.executable, "-m", "drdg.bench.predict_once", side, str(scene), str(out), *map(str, knobs)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it says nothing"])[-1]
        raise ValueError(f"{scene}: its map by {side} ended with status {done.returncode}: {last}")
    return json.loads(done.stdout.strip().splitlines()[-1])
