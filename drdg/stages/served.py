"""Station 6, stages: trained networks as plain functions of arrays, as an MLflow model serves them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import yaml

from drdg.config import Config
from drdg.inference.translate import to_bytes, to_unit
from drdg.models.exports import read_weights
from drdg.models.segmentor import load_segmentor, side_multiple
from drdg.training.weights import load_translator

Function = Callable[[np.ndarray], np.ndarray]


def open_segmentor(path: Path) -> Function:
    """The trained segmentor in ``path``: images uint8 (N, H, W, 3) of any size to class ids uint8 (N, H, W).

    It works on a GPU if there is one. Each image goes through as a whole, mirrored at its right and lower edge to sides
    that the network takes. Raises ``ValueError`` when there is none in ``path``, and the function for other arrays.
    """
    segmentor, _ = load_segmentor(Path(path))
    device = _device()
    segmentor.to(device)
    dtype = next(segmentor.parameters()).dtype
    multiple = side_multiple(segmentor)

    @torch.inference_mode()
    def predict(images: np.ndarray) -> np.ndarray:
        refuse_other_arrays(images)
        height, width = images.shape[1:3]
        ids = np.empty(images.shape[:3], np.uint8)
        for number, image in enumerate(images):  # one at a time: a caller's batch may be any size
            padded = np.pad(image, ((0, -height % multiple), (0, -width % multiple), (0, 0)), mode="symmetric")
            pixels = torch.from_numpy(padded).to(device).permute(2, 0, 1)[None].to(dtype) / 255
            ids[number] = segmentor(pixels)[0, :, :height, :width].argmax(0).to(torch.uint8).cpu().numpy()
        return ids

    return predict


def open_generator(path: Path) -> Function:
    """The trained translator in ``path``: source images uint8 (N, H, W, 3) to the target's look, uint8 (N, h, w, 3).

    The images are tiles of the side that ``source.tile`` was in training. It works on a GPU if there is one. Raises
    ``ValueError`` when there is none in ``path``, and the function for other arrays.
    """
    _, notes = read_weights(Path(path), "translator")
    if "config" not in notes:
        raise ValueError(f"{path}: does not say which translator's weights it holds; take a file that training wrote")
    config = Config.model_validate(yaml.safe_load(notes["config"]))
    device = _device()
    translator = load_translator(Path(path), config, device)
    side = config.source.tile

    @torch.inference_mode()
    def translate(images: np.ndarray) -> np.ndarray:
        refuse_other_arrays(images)
        if images.shape[1:3] != (side, side):
            raise ValueError(
                f"images are of {images.shape[1]} x {images.shape[2]} pixels, but this translator takes tiles of "
                f"{side} x {side} (source.tile); cut or pad them"
            )
        return np.concatenate([to_bytes(translator.translate(to_unit(image[None], device))) for image in images])

    return translate


def refuse_other_arrays(images: np.ndarray) -> None:
    """Raise ``ValueError`` unless ``images`` are uint8 (N, H, W, 3) with something in them."""
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3 or not images.size:
        raise ValueError(
            f"images are {images.dtype} {images.shape}; give them as uint8 (N, H, W, 3), 0 to 255, channels last"
        )


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
