"""Station 7, gallery: samples of shards as people look at them, a line for each: image, heights and label.

Folders stand side by side, so that source and target are seen together. Draws with the means of ``panels.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from drdg.panels import (
    DPI,
    INK,
    PICTURE_INCHES,
    SMALL_POINTS,
    TITLE_POINTS,
    has_void,
    legend,
    save,
    scale_bar,
    show_classes,
    show_heights,
    show_image,
)
from drdg.shards.store import Sample, ShardStore
from drdg.tiles.order import permutation
from drdg.tiles.windows import Window
from drdg.verify.summary import class_lines, ground_resolution, heights, print_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure

# Beside a picture is its scale of heights, above it two lines of words.
BESIDE_INCHES, ABOVE_INCHES = 0.3, 0.42
# The title above all, the legend below.
EDGE_INCHES = 0.75
GAP_INCHES = 0.2
LAYERS = ("image", "DSM", "label")


@dataclass(frozen=True)
class Shown:
    """The samples of one folder that are shown, and what is to be read above them."""

    title: str
    store: ShardStore
    samples: Sequence[Sample]

    @property
    def layers(self) -> list[str]:
        """The columns: the layers that its samples have."""
        has = {"image": True, "DSM": self.store.has_dsm, "label": self.store.has_label}
        return [layer for layer in LAYERS if has[layer]]


def draw_gallery(path: Path, stores: Mapping[str, ShardStore], count: int, seed: int) -> None:
    """Draw ``count`` samples of each store, drawn by ``seed``, as a PNG; a store with fewer shows all of them."""
    from matplotlib.figure import Figure

    assert stores, "nothing to draw"
    assert count > 0, "nothing to draw"
    folders = [Shown(f"{name}: {_title(store)}", store, pick(store, count, seed)) for name, store in stores.items()]
    lines = max(len(folder.samples) for folder in folders)
    widths = [len(folder.layers) * (PICTURE_INCHES + BESIDE_INCHES) + GAP_INCHES for folder in folders]
    height = lines * (PICTURE_INCHES + ABOVE_INCHES) + EDGE_INCHES
    figure = Figure(figsize=(sum(widths), height), dpi=DPI, layout="constrained")
    parts = figure.subfigures(1, len(folders), width_ratios=widths, wspace=0.03, squeeze=False)[0]
    for part, folder in zip(parts, folders, strict=True):
        _draw_folder(part, folder, lines)
    _add_legend(figure, folders)
    save(figure, path)


def pick(store: ShardStore, count: int, seed: int) -> list[Sample]:
    """``count`` samples in the order of the shards, or all if there are fewer."""
    return [store[int(number)] for number in sorted(permutation(len(store), "gallery", seed)[:count])]


def print_summary(stores: Mapping[str, ShardStore], console: Console | None = None) -> None:
    """Print what each folder says it holds: samples, sizes, classes, heights, tiles of each TOP."""
    manifests = [store.manifest for store in stores.values()]
    domains = [manifest["domain"] for manifest in manifests]
    tops = dict.fromkeys(name for manifest in manifests for name in manifest["tops"])
    lines = {
        "folder": [Path(store.name).name for store in stores.values()],
        "archive": [f"{domain['archive']}, split {domain['split']}" for domain in domains],
        "samples": [f"{manifest['samples']} in {len(manifest['shards'])} shards" for manifest in manifests],
        "tile": [f"{domain['tile']} px" for domain in domains],
        "pixel": [ground_resolution(domain["gsd_m"]) for domain in domains],
        "DSM": [heights(manifest["dsm_range_m"]) for manifest in manifests],
        **class_lines([_class_pixels(manifest) for manifest in manifests]),
        **{f"TOP {name}": [_tiles(manifest, name) for manifest in manifests] for name in tops},
    }
    print_table(list(stores), lines, console)


def _title(store: ShardStore) -> str:
    domain = store.domain
    scale = "" if domain["gsd_m"] is None else f" of {ground_resolution(domain['gsd_m'])}"
    return f"{domain['archive']}, split {domain['split']}, {domain['tile']} px{scale}"


def _draw_folder(part: SubFigure, folder: Shown, lines: int) -> None:
    part.suptitle(folder.title, fontsize=TITLE_POINTS + 2, color=INK)
    palette = _palette(folder.store)
    for line, frames in enumerate(part.subplots(lines, len(folder.layers), squeeze=False)):
        if line >= len(folder.samples):
            for axes in frames:
                axes.set_axis_off()
            continue
        sample = folder.samples[line]
        for layer, axes in zip(folder.layers, frames, strict=True):
            name = layer if line == 0 else ""
            if layer == "image":
                show_image(axes, sample.image, "")
            elif layer == "DSM" and sample.dsm_m is not None:
                show_heights(axes, sample.dsm_m, name, "m")
            elif layer == "label" and sample.label is not None:
                show_classes(axes, sample.label, name, palette)
        frames[0].set_title(_heading(sample), loc="left", fontsize=SMALL_POINTS, color=INK, linespacing=1.3)
        if sample.meta["gsd_m"] is not None:
            scale_bar(frames[0], sample.image.shape[1], sample.meta["gsd_m"])


def _heading(sample: Sample) -> str:
    """Its key, its TOP and its window; of a translated one, the window that it was translated from."""
    meta = sample.meta
    window = Window(*(meta["window"] if "window" in meta else meta["source_window"]))
    return f"{sample.key}\nTOP {meta['top']}, {window}"


def _add_legend(figure: Figure, folders: Sequence[Shown]) -> None:
    """One legend for all that have labels, each class once: the folders of a run have the same classes."""
    colours: dict[str, tuple[int, int, int]] = {}
    void = False
    for folder in folders:
        if folder.store.has_label:
            domain = folder.store.domain
            colours.update(zip(domain["classes"], _palette(folder.store), strict=True))
            labels = [sample.label for sample in folder.samples if sample.label is not None]
            void = void or any(has_void(label, domain["palette"]) for label in labels)
    if colours:
        legend(figure, list(colours), list(colours.values()), void=void)


def _palette(store: ShardStore) -> list[tuple[int, int, int]]:
    return [(red, green, blue) for red, green, blue in store.domain["palette"]]


def _class_pixels(manifest: dict[str, Any]) -> dict[str, int]:
    if not manifest["domain"]["label"]:
        return {}
    return manifest["class_pixels"] | ({"void": manifest["void_pixels"]} if manifest["void_pixels"] else {})


def _tiles(manifest: dict[str, Any], top: str) -> str:
    return f"{manifest['tops'][top]['tiles']} tiles" if top in manifest["tops"] else ""
