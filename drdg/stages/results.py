"""Station 6, stages: the last step of a run, from scores and maps to the table and its pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import rasterio

from drdg.config import Config
from drdg.datasets import Archive, Top, open_archive
from drdg.distributed.group import pick_device
from drdg.inference.translate import to_unit
from drdg.panels import TranslatedTile, target_panel, translation_panel
from drdg.report import RowResult, write_report
from drdg.shards.store import Sample, ShardStore
from drdg.stages.row import METRICS
from drdg.stages.workspace import RowStages
from drdg.tiles.raster import TopReader
from drdg.tiles.windows import Window
from drdg.tracking import Handle
from drdg.training.weights import load_translator

SHOWN_TILES = 4


def report_results(config: Config, rows: Sequence[RowStages], parent: Handle, seconds: float) -> Path:
    """Print the table, draw the panels, log both to MLflow, and return the path of ``report.json``."""
    directory = config.run.directory
    archive = open_archive(config.target.archive)
    panels = draw_panels(config, rows, archive, directory / "panels")
    results = [RowResult.read(row.row.name, config.run.seed, row.evaluate.folder / METRICS) for row in rows]
    write_report(results, directory, seconds, title=f"{config.run.name}: scores on {archive.name}")
    for name in ("report.json", "report.md"):
        parent.artifact(directory / name)
    parent.artifact(panels, "panels")
    print(f"Panels: {panels}", flush=True)
    return directory / "report.json"


def draw_panels(config: Config, rows: Sequence[RowStages], archive: Archive, folder: Path) -> Path:
    """One picture for each scored TOP, and one of translated tiles for each row that translates."""
    for top in archive.split(config.evaluation.split, need_label=True):
        draw_target(rows, archive, top, folder / f"target_{top.id}.png")
    for row in rows:
        if row.translate is not None:
            draw_translation(row, archive, folder / f"translation_{row.row.name}.png")
    return folder


def draw_target(rows: Sequence[RowStages], archive: Archive, top: Top, path: Path) -> None:
    """Image, DSM, label and every row's prediction of one TOP."""
    with TopReader(archive, top) as reader:
        whole = Window(0, 0, reader.height, reader.width)
        image, label = reader.read_image(whole), reader.read_label(whole)
        dsm = reader.read_dsm(whole) if top.dsm is not None else None
        gsd_m = reader.gsd_m
    predictions = {}
    for row in rows:
        with rasterio.open(row.evaluate.folder / "maps" / f"{top.id}.tif") as file:
            predictions[row.row.name] = file.read(1)
    title = f"{archive.name} {top.id}"
    target_panel(path, image, dsm, label, predictions, archive.classes, archive.palette, gsd_m=gsd_m, title=title)


def draw_translation(row: RowStages, archive: Archive, path: Path) -> None:
    """A few source tiles with their heights, labels, translations and the heights that the generator sees."""
    tiles = [
        TranslatedTile(sample.image, sample.dsm_m, sample.label, translated, depth)
        for sample, translated, depth in shown_tiles(row)
    ]
    title = f"{row.row.name}: source to {archive.name}"
    translation_panel(path, tiles, archive.classes, archive.palette, title=title, predicted_unit=predicted_unit(row))


def shown_tiles(row: RowStages) -> list[tuple[Sample, np.ndarray, np.ndarray | None]]:
    """A few source tiles, each with its translation and the heights that the row's generator sees in it, if it does."""
    source, translated = ShardStore(row.source), ShardStore(row.training_shards)
    # Spread over the shards, which are shuffled: neighbours there are no neighbours on the ground.
    chosen = np.linspace(0, len(source) - 1, min(SHOWN_TILES, len(source))).astype(int).tolist()
    samples = [source[index] for index in chosen]
    heights = predicted_heights(row, np.stack([sample.image for sample in samples]))
    images = [translated[index].image for index in chosen]
    return list(zip(samples, images, heights, strict=True))


def predicted_unit(row: RowStages) -> str:
    """What the row's predicted heights are measured in, in words."""
    dsm = row.config.dsm
    return "of range" if dsm.rule != "height_above_ground" else f"of {dsm.ceiling_m:g} m"


def predicted_heights(row: RowStages, images: np.ndarray) -> list[np.ndarray | None]:
    """The heights (H, W), normalised, that the row's generator sees in each source image; None without a depth head."""
    if row.translator is None:
        return [None] * len(images)
    device = pick_device(row.config.distributed)
    depth = load_translator(row.translator, row.config, device).predict_depth(to_unit(images, device))
    return [None] * len(images) if depth is None else list(depth[:, 0].cpu().numpy())
