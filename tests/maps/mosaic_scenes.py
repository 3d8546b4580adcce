"""What the tests of mosaics share: rasters, a network whose answers depend on the place in the window, and a naive
reference that shares no code with the suite's.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import rasterio
import torch
from rasterio.transform import Affine, from_origin
from torch import nn

from drdg.config import SegmentationConfig, load_config
from drdg.models.segmentor import build_segmentor, save_segmentor

PLACE = from_origin(5e5, 5e6, 0.1, 0.1)
CLASSES = ("clutter", "impervious_surface", "tree")


def random_image(height: int, width: int, seed: int = 0, bands: int = 3) -> np.ndarray:
    """Blocks with noise, uint8 (bands, height, width)."""
    random = np.random.default_rng(seed)
    blocks = random.integers(0, 200, (bands, height // 40 + 1, width // 40 + 1)).repeat(40, 1).repeat(40, 2)
    noise = random.integers(0, 56, (bands, height, width))
    return (blocks[:, :height, :width] + noise).astype(np.uint8)


def write_scene(
    path: Path,
    bands: np.ndarray,
    *,
    crs: str | None = "EPSG:32632",
    transform: Affine | None = PLACE,
    **profile: object,
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = bands.shape
    shape = {"count": count, "height": height, "width": width, "dtype": bands.dtype}
    with rasterio.open(path, "w", driver="GTiff", crs=crs, transform=transform, **shape, **profile) as file:
        file.write(bands)
    return path


class Blurry(nn.Module):
    """Two convolutions and a ramp over the window, so that an answer depends on the place in it, as padding does."""

    def __init__(self, classes: int = 3, seed: int = 0, dtype: torch.dtype = torch.float32):
        super().__init__()
        torch.manual_seed(seed)
        self.net = nn.Sequential(nn.Conv2d(3, 4, 5, padding=2), nn.Tanh(), nn.Conv2d(4, classes, 3, padding=1))
        for parameter in self.net.parameters():
            parameter.data *= 4
        self.to(dtype).eval()

    def forward(self, x):
        return self.net(x) + torch.linspace(-1, 1, x.shape[-1], dtype=x.dtype)


def naive(network: nn.Module, image: np.ndarray, side: int, overlap: float) -> np.ndarray:
    """Class probabilities float64 (C, H, W) of an image (H, W, 3), all in memory: each window's softmax, weighted."""
    height, width = image.shape[:2]
    padded = np.pad(image, ((0, max(0, side - height)), (0, max(0, side - width)), (0, 0)), mode="reflect")
    stride = max(1, round(side * (1 - overlap)))

    def places(length):
        found = [i * stride for i in range((length - side) // stride + 1)]
        return found if found[-1] == length - side else [*found, length - side]

    hann = np.array([(1 - math.cos(2 * math.pi * (i + 0.5) / side)) / 2 for i in range(side)])
    weight = hann[:, None] * hann
    scores, total = 0, np.zeros(padded.shape[:2])
    for row in places(padded.shape[0]):
        for col in places(padded.shape[1]):
            tile = padded[row : row + side, col : col + side].astype(np.float64) / 255
            with torch.no_grad():
                logits = network(torch.from_numpy(tile).permute(2, 0, 1)[None])[0].numpy()
            e = np.exp(logits - logits.max(0))
            here = np.zeros((len(e), *padded.shape[:2]))
            here[:, row : row + side, col : col + side] = weight * e / e.sum(0)
            scores = scores + here
            total[row : row + side, col : col + side] += weight
    return (scores / total)[:, :height, :width]


def save_tiny(path: Path, *, gsd_m: float | None = None, classes: tuple[str, ...] = CLASSES) -> Path:
    """A segmentor with random weights in a file such as training writes."""
    knobs = ["architecture=PSPNet", "encoder=tu-test_resnet", "encoder_weights=none"]
    config = load_config(None, [f"segmentation.{knob}" for knob in knobs])
    with torch.random.fork_rng():
        torch.manual_seed(3)
        segmentor = build_segmentor(SegmentationConfig.model_validate(config.segmentation), len(classes))
        for name, value in segmentor.named_parameters():
            if name.startswith("segmentation_head"):
                value.data *= 50  # so that more than one class is seen
    palette = [(255, 0, 0), (255, 255, 255), (0, 255, 0)][: len(classes)]
    save_segmentor(path, segmentor.state_dict(), classes, config, 1, palette=palette, gsd_m=gsd_m)
    return path
