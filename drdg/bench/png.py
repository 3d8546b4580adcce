"""Station 7, bench: tiles as PNG files, the field's way and the layout of the authors' released code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

LAYERS = ("images", "dsms", "labels")
"""Folders of a set; a tile has the same file name in each."""
LIST = "all.txt"
"""File of a set that names its tiles, one a line."""


def write_png(path: Path, pixels: np.ndarray) -> None:
    """Pixels uint8 (H, W, 3), uint8 (H, W) or uint16 (H, W), at Pillow's own compression."""
    Image.fromarray(pixels).save(path)


def read_png(path: Path) -> np.ndarray:
    """The inverse of :func:`write_png`."""
    with Image.open(path) as image:
        return np.array(image)


def make_folders(root: Path) -> None:
    """Make the folders of a set."""
    for layer in LAYERS:
        (root / layer).mkdir(parents=True, exist_ok=True)


def write_tile(root: Path, name: str, image: np.ndarray, dsm_steps: np.ndarray, label: np.ndarray | None) -> None:
    """One tile of a set: image uint8 (H, W, 3), heights uint16 (H, W), class ids uint8 (H, W) or None."""
    write_png(root / "images" / f"{name}.png", image)
    write_png(root / "dsms" / f"{name}.png", dsm_steps)
    if label is not None:
        write_png(root / "labels" / f"{name}.png", label)


def write_list(root: Path, names: list[str]) -> None:
    """The names of a set's tiles."""
    (root / LIST).write_text("".join(f"{name}\n" for name in names), encoding="utf-8")


def read_list(root: Path) -> list[str]:
    """The names of a set's tiles, in their order."""
    return (root / LIST).read_text(encoding="utf-8").split()
