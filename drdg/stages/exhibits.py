"""Station 6, stages: small samples of what a stage made, kept in MLflow, from which alone a report can draw them.

They are arrays, not pictures: a report puts several rows of one sweep side by side (paper, Fig. 3).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import rasterio

from drdg.datasets import Archive, Top, open_archive
from drdg.files import whole_file
from drdg.stages.results import predicted_unit, shown_tiles
from drdg.stages.workspace import RowStages
from drdg.tiles.raster import TopReader
from drdg.tiles.windows import Window

# A crop of a TOP, in pixels at its own scale: detail is seen, and a hundred of them are a few MB.
SHOWN_SIDE = 512


def target_exhibits(stages: RowStages, folder: Path) -> Path:
    """Write ``target_<id>.npz`` for every scored TOP: the middle of image, DSM, label and the row's prediction."""
    archive = open_archive(stages.config.target.archive)
    for top in archive.split(stages.config.evaluation.split, need_label=True):
        _write(folder / f"target_{top.id}.npz", _target(stages, archive, top))
    return folder


def _target(stages: RowStages, archive: Archive, top: Top) -> dict[str, Any]:
    with TopReader(archive, top) as reader:
        height, width = min(SHOWN_SIDE, reader.height), min(SHOWN_SIDE, reader.width)
        middle = Window((reader.height - height) // 2, (reader.width - width) // 2, height, width)
        shown = {"image": reader.read_image(middle), "label": reader.read_label(middle)}
        if top.dsm is not None:
            shown["dsm"] = reader.read_dsm(middle).astype(np.float32)
        if reader.gsd_m is not None:
            shown["gsd_m"] = np.float64(reader.gsd_m)
    with rasterio.open(stages.evaluate.folder / "maps" / f"{top.id}.tif") as file:
        predicted = file.read(1)
    shown["prediction"] = predicted[middle.rows, middle.cols]
    return shown | _colours(archive)


def translation_exhibit(stages: RowStages, folder: Path) -> Path:
    """Write ``translation.npz``: a few source tiles with heights, labels, translations and predicted heights."""
    samples, translated, heights = zip(*shown_tiles(stages), strict=True)
    shown: dict[str, Any] = {
        "image": np.stack([sample.image for sample in samples]),
        "label": np.stack([sample.label for sample in samples]),
        "translated": np.stack(translated),
        "predicted_unit": predicted_unit(stages),
    }
    if all(sample.dsm_m is not None for sample in samples):
        shown["dsm_m"] = np.stack([sample.dsm_m for sample in samples]).astype(np.float32)
    if all(height is not None for height in heights):
        shown["predicted_dsm"] = np.stack(heights).astype(np.float32)
    _write(folder / "translation.npz", shown | _colours(open_archive(stages.config.target.archive)))
    return folder


def _colours(archive: Archive) -> dict[str, Any]:
    return {"classes": np.array(archive.classes), "palette": np.array(archive.palette, np.uint8)}


def _write(path: Path, arrays: dict[str, Any]) -> None:
    with whole_file(path) as file:
        np.savez_compressed(file, **arrays)
