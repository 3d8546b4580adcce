"""Station 2, heights: how a DSM is stored in a shard and how it becomes the networks' input.

Stored are metres as whole centimetres above a sample's own offset, so that the rule of normalisation (paper, section
III-A: "scaled to 0-1", not over what) stays a matter of reading.
"""

from __future__ import annotations

import numpy as np

from drdg.config import DsmConfig

STEP_M = 0.01
STEPS_PER_M = 100
# Rows worked on together, so that the passes over them stay in a core's own cache.
CHUNK_ROWS = 16
# One below uint16's largest, which stays free for "no height" should a later format need it.
LARGEST_STEP = 65534


def whole_steps(heights_m: np.ndarray) -> np.ndarray:
    """Heights in metres as the nearest whole centimetres, int32."""
    steps = np.empty(heights_m.shape, dtype=np.int32)
    for start in range(0, len(steps), CHUNK_ROWS):
        few = np.multiply(heights_m[start : start + CHUNK_ROWS], STEPS_PER_M, dtype=np.float64)
        np.copyto(steps[start : start + CHUNK_ROWS], np.rint(few, out=few), casting="unsafe")
    return steps


def to_steps(steps: np.ndarray, where: str) -> tuple[np.ndarray, float]:
    """Whole centimetres, int32 (H, W), as uint16 above their lowest, and that offset in metres.

    Raises ``ValueError`` beginning with ``where`` when the relief is above 655.34 m.
    """
    offset = int(steps.min())
    relief = int(steps.max()) - offset
    if relief > LARGEST_STEP:
        raise ValueError(
            f"{where}: heights differ by {relief * STEP_M:.2f} m within one tile, more than the "
            f"{LARGEST_STEP * STEP_M:.2f} m a shard holds; mend the outliers in the DSM or take a smaller tile"
        )
    above = np.empty(steps.shape, np.uint16)
    np.subtract(steps, offset, out=above, casting="unsafe")
    return above, offset / STEPS_PER_M


def to_metres(steps: np.ndarray, offset_m: float) -> np.ndarray:
    """The inverse of :func:`to_steps`, float32 metres, within half a centimetre of the original."""
    heights = steps.astype(np.float32)
    heights *= np.float32(STEP_M)
    heights += np.float32(offset_m)
    return heights


def normalise(
    heights_m: np.ndarray,
    config: DsmConfig,
    *,
    dataset_range_m: tuple[float, float],
    top_range_m: tuple[float, float],
    ground_m: np.ndarray | None,
) -> np.ndarray:
    """Heights in metres, (H, W), as the networks' input: float32 (H, W), clipped to [0, 1] or [-1, 1].

    ``dataset_range_m`` and ``top_range_m`` are lowest and highest height of all TOPs and of this TOP; ``ground_m``,
    (H, W), is only read by the rule ``height_above_ground``. A range without extent gives zero height everywhere.
    """
    low_m, factor = scaling(config, dataset_range_m, top_range_m)
    if config.rule == "height_above_ground":
        assert ground_m is not None, "the rule height_above_ground needs a ground"
        scaled = np.subtract(heights_m, ground_m, dtype=np.float32)
    else:
        scaled = np.subtract(heights_m, low_m, dtype=np.float32)
    scaled *= np.float32(factor)
    np.clip(scaled, 0, 1, out=scaled)
    if config.range == "symmetric":
        scaled *= 2
        scaled -= 1
    return scaled


def scaling(
    config: DsmConfig, dataset_range_m: tuple[float, float], top_range_m: tuple[float, float]
) -> tuple[float, float]:
    """The height in metres that becomes 0, beside the ground where the rule takes that, and the factor above it."""
    if config.rule == "height_above_ground":
        low, extent = 0.0, config.ceiling_m
    else:
        low, high = dataset_range_m if config.rule == "dataset" else top_range_m
        extent = high - low
    return low, 1 / extent if extent > 0 else 0.0
