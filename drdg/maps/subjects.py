"""Station 5, maps: the networks that are exported, each with what a stranger must know to feed it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from pydantic import ValidationError
from torch import Tensor, nn

from drdg.config import Config
from drdg.methods import Translator
from drdg.models.exports import read_weights
from drdg.models.resize import resized
from drdg.models.segmentor import load_segmentor, side_multiple
from drdg.training.weights import load_translator

GENERATOR_MULTIPLE = 128  # drdg/models/unet.py: seven levels, each of which halves the side


@dataclass(frozen=True)
class Subject:
    """One network and its contract: images float32 (N, 3, H, W) in ``value_range`` to ``outputs``."""

    name: str
    path: Path
    """The weights it was made of."""
    network: nn.Module
    """On the CPU, in evaluation mode, float32; gives a tuple with a tensor for each of ``outputs``."""
    outputs: dict[str, str]
    """What each output means, by its name."""
    output_shapes: dict[str, list[str | int]]
    value_range: tuple[float, float]
    normalisation: str
    multiple: int
    """Sides are multiples of this."""
    side: int
    """The side that is exported where sides cannot be left open."""
    what: str
    config: Config
    step: int | None
    gsd_m: float | None = None
    """Metres per pixel that its file says it has learned at."""
    classes: tuple[str, ...] = ()

    def images(self, pixels: Tensor) -> Tensor:
        """Bytes (N, 3, H, W) as the network's input, float32 in ``value_range``."""
        low, high = self.value_range
        return pixels.float() / 255 * (high - low) + low


def open_segmentor(path: Path) -> Subject:
    """The trained segmentor in ``path``, to be exported. Raises ``ValueError`` when there is none."""
    segmentor, classes = load_segmentor(path)
    config, notes = noted_config(path, "segmentor")
    knobs = config.segmentation
    return Subject(
        name="segmentor",
        path=path,
        network=_Tuple(segmentor.float()),
        outputs={"logits": "one score for each class at every pixel; the class is the largest, softmax gives shares"},
        output_shapes={"logits": ["batch", len(classes), "height", "width"]},
        value_range=(0.0, 1.0),
        normalisation="bytes / 255, no mean or deviation",
        multiple=side_multiple(segmentor),
        side=config.evaluation.window,
        what=f"land cover of aerial images: {knobs.architecture} with {knobs.encoder}",
        config=config,
        step=_step(notes),
        gsd_m=json.loads(notes.get("gsd_m", "null")),
        classes=classes,
    )


def open_generator(path: Path, config: Config | None) -> Subject:
    """The generator from the source's look to the target's of the trained translator in ``path``.

    ``config`` is the one it was made with; None for what the file says of it. Raises ``ValueError`` when there is no
    such file, or it holds networks of another shape.
    """
    noted, notes = noted_config(path, "translator") if config is None else (config, _notes(path, "translator"))
    translator = load_translator(path, noted, torch.device("cpu"))
    name = notes["name"]
    generator = translator.networks["to_target"].float().eval()
    side = noted.target.tile
    outputs = {
        "translated": f"the image in the target's look, about [-1, 1] (clip it); bytes are (x + 1) * 127.5; {side} px"
    }
    shapes: dict[str, list[str | int]] = {"translated": ["batch", 3, side, side]}
    network: nn.Module
    if name == "drdg":
        depth = _has_depth(translator)
        network, multiple = _Drdg(generator, depth), GENERATOR_MULTIPLE
        if depth:
            outputs["heights"] = (
                f"heights that the input seems to show, in [0, 1] by the rule dsm.rule={noted.dsm.rule}"
            )
            shapes["heights"] = ["batch", 1, "height", "width"]
    else:
        network, multiple = _Resized(generator, side), 1
    return Subject(
        name="generator",
        path=path,
        network=network.eval(),
        outputs=outputs,
        output_shapes=shapes,
        value_range=(-1.0, 1.0),
        normalisation="bytes / 127.5 - 1",
        multiple=multiple,
        side=noted.source.tile,
        what=f"aerial images of the source in the look of the target: {name}",
        config=noted,
        step=_step(notes),
    )


def noted_config(path: Path, what: str) -> tuple[Config, dict[str, str]]:
    """The configuration that a file of weights says it was made with, and all that it says."""
    notes = _notes(path, what)
    try:
        return Config.model_validate(yaml.safe_load(notes["config"])), notes
    except (KeyError, ValidationError) as error:
        raise ValueError(
            f"{path}: its notes hold no configuration that this version reads; take a file that this version wrote, or "
            "give its configuration with --config"
        ) from error


def _notes(path: Path, what: str) -> dict[str, str]:
    notes = read_weights(path, what)[1]
    needed = {"segmentor": "classes", "translator": "name"}[what]
    if needed not in notes:
        raise ValueError(f"{path}: does not say which {what}'s weights it holds; take a file that training wrote")
    return notes


def _step(notes: dict[str, str]) -> int | None:
    step: Any = json.loads(notes.get("step", "null"))
    return step if isinstance(step, int) else None


def _has_depth(translator: Translator) -> bool:
    return bool(getattr(translator, "uses_depth", False))


class _Tuple(nn.Module):
    """A network of one output as one of several."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return (self.network(images),)


class _Drdg(nn.Module):
    """DRDG's generator, with the heights where it has them."""

    def __init__(self, generator: nn.Module, depth: bool) -> None:
        super().__init__()
        self.generator = generator
        self.depth = depth

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        translation = self.generator(images, depth=self.depth)
        return (translation.image, translation.depth) if self.depth else (translation.image,)


class _Resized(nn.Module):
    """A generator that knows no resizing, after the resizing that its translator does."""

    def __init__(self, generator: nn.Module, side: int) -> None:
        super().__init__()
        self.generator = generator
        self.side = side

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return (self.generator(resized(images, self.side)),)
