"""Station 5, inference: the source's tiles in the target's look, as shards of their own with the source's labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from drdg.models.resize import resized
from drdg.progress import progress
from drdg.shards.codec import RAW
from drdg.shards.store import Sample, ShardStore
from drdg.shards.writer import finish, is_whole, shard_name, write_shard

Translate = Callable[[Tensor], Tensor]


def translate_shards(
    source: ShardStore,
    translate: Translate,
    side: int,
    out: Path,
    plan: str,
    *,
    batch_size: int,
    device: torch.device,
    quiet: bool = False,
) -> Path:
    """Write ``source`` through ``translate`` to shards in ``out``, one for each of its own; whole ones are kept.

    ``translate`` takes images (N, 3, H, W) in [-1, 1] and gives them as (N, 3, ``side``, ``side``), about [-1, 1]; what
    is outside is clipped (released code). Labels are resized by their nearest pixel, centre to centre. ``plan`` is the
    digest of all that decides the outcome.
    """
    if not source.has_label:
        raise ValueError(f"{source.name}: has no labels to go with its translation; build it from a labelled archive")
    out.mkdir(parents=True, exist_ok=True)
    names = []
    start = 0
    ranges = []
    for number, entry in enumerate(source.manifest["shards"]):
        ranges.append((number, range(start, start + entry["samples"])))
        start += entry["samples"]
    todo = [(number, indices) for number, indices in ranges if not is_whole(out / shard_name(number), plan)]
    done = len(ranges) - len(todo)
    for number, indices in progress(todo, "translate: shards", total=len(ranges), start=done, quiet=quiet):
        samples = _translated(source, indices, translate, side, batch_size, device)
        write_shard(out / shard_name(number), samples, plan)
    names = [shard_name(number) for number, _ in ranges]
    finish(out, names, plan, _describe(source, side))
    return out


def resize(side: int) -> Translate:
    """The translation of a row without one: bilinear with antialiasing to the target's scale."""

    def translate(images: Tensor) -> Tensor:
        return resized(images, side)

    return translate


def to_unit(images: np.ndarray, device: torch.device) -> Tensor:
    """Images uint8 (N, H, W, 3) as float32 (N, 3, H, W) in [-1, 1] on ``device``."""
    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).to(device).float() / 127.5 - 1


def to_bytes(images: Tensor) -> np.ndarray:
    """Images (N, 3, H, W), about [-1, 1], as uint8 (N, H, W, 3)."""
    scaled = ((images + 1) * 127.5).clamp(0, 255).round()
    return scaled.to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()


def nearest(label: np.ndarray, side: int) -> np.ndarray:
    """Class ids (H, W) at (``side``, ``side``), each the pixel under its own centre."""
    rows, cols = (((np.arange(side) + 0.5) * length / side).astype(np.int64) for length in label.shape)
    return label[rows[:, None], cols]


def _translated(
    source: ShardStore, indices: range, translate: Translate, side: int, batch_size: int, device: torch.device
) -> Iterator[dict[str, Any]]:
    for start in range(indices.start, indices.stop, batch_size):
        samples = [source[index] for index in range(start, min(start + batch_size, indices.stop))]
        with torch.no_grad():
            translated = to_bytes(translate(to_unit(np.stack([sample.image for sample in samples]), device)))
        for sample, image in zip(samples, translated, strict=True):
            assert sample.label is not None, "checked before"
            yield {
                "__key__": sample.key,
                "json": _meta(sample, side),
                "image.npy": image,
                "label.npy": nearest(sample.label, side),
            }


def _meta(sample: Sample, side: int) -> dict[str, Any]:
    """The sample's place on the ground, with its pixels grown by the same factor as its side has shrunk."""
    factor = sample.image.shape[0] / side
    a, b, c, d, e, f = sample.meta["transform"]
    return {
        "top": sample.meta["top"],
        "source_window": sample.meta["window"],
        "crs": sample.meta["crs"],
        "transform": [a * factor, b * factor, c, d * factor, e * factor, f],
        "gsd_m": None if sample.meta["gsd_m"] is None else sample.meta["gsd_m"] * factor,
    }


def _describe(source: ShardStore, side: int) -> dict[str, Any]:
    domain = source.domain
    factor = domain["tile"] / side
    gsd_m = None if domain["gsd_m"] is None else domain["gsd_m"] * factor
    name = f"{domain['archive']}-translated"
    described = {**domain, "archive": name, "tile": side, "gsd_m": gsd_m, "dsm": False, "codec": RAW.name}
    return {"domain": described, "tops": source.manifest["tops"], "dsm_range_m": None}
