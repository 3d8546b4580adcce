"""Station 3, networks: the segmentor (paper, section II-C: DeepLabV3), from segmentation-models-pytorch.

Its input is the image in [0, 1], without the ImageNet mean and deviation, as in the released code.
"""

from __future__ import annotations

import difflib
import inspect
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from torch import Tensor, nn

from drdg.config import Config, SegmentationConfig, to_yaml
from drdg.models.encoder_weights import first_line, hub_answers_or_is_left_alone, load_encoder
from drdg.models.exports import read_weights, write_weights
from drdg.models.smp import import_smp


def build_segmentor(config: SegmentationConfig, num_classes: int, *, pretrained: bool = True) -> nn.Module:
    """A segmentor: images (N, 3, H, W) in [0, 1] to logits (N, ``num_classes``, H, W).

    H and W are multiples of :func:`side_multiple`; in training mode N is at least 2. Weights that are not pretrained
    come from torch's global generator; ``pretrained=False`` leaves ``encoder_weights`` aside, for a network whose
    weights are loaded next. Raises ``ValueError`` for an architecture or encoder that does not exist or do not go
    together, and for weights that cannot be had.
    """
    smp = import_smp()
    architecture = _architecture(smp, config.architecture)
    _check_encoder(smp, config.encoder)
    segmentor = _build(architecture, config, None, num_classes)
    if not pretrained or config.encoder_weights == "none":
        return segmentor
    if config.encoder_weights == "imagenet":
        return _build_pretrained(smp, architecture, config, num_classes)
    load_encoder(segmentor.get_submodule("encoder"), Path(config.encoder_weights))
    return segmentor


def side_multiple(segmentor: nn.Module) -> int:
    """What the sides of the segmentor's input in pixels must be a multiple of."""
    if not getattr(segmentor, "requires_divisible_input_shape", False):
        return 1
    return int(getattr(segmentor.get_submodule("encoder"), "output_stride", 1))


class Learnt(NamedTuple):
    """What a trained segmentor's file says of what it has learnt from."""

    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...] | None
    """A colour for each class; None in files of earlier versions."""
    gsd_m: float | None
    """Metres per pixel of the images; None where the archive has no georeference, and in files of earlier versions."""


def save_segmentor(
    path: Path,
    weights: Mapping[str, Tensor],
    classes: Sequence[str],
    config: Config,
    step: int,
    *,
    palette: Sequence[Sequence[int]] | None = None,
    gsd_m: float | None = None,
) -> None:
    """Write a trained segmentor's ``weights``, of update ``step``, for :func:`load_segmentor`; ``palette`` and
    ``gsd_m``: see :class:`Learnt`.
    """
    notes = {"classes": json.dumps(list(classes)), "config": to_yaml(config), "step": str(step)}
    if palette is not None:
        notes["palette"] = json.dumps([list(colour) for colour in palette])
    if gsd_m is not None:
        notes["gsd_m"] = json.dumps(gsd_m)
    write_weights(path, weights, notes)


def read_learnt(path: Path) -> Learnt:
    """What a trained segmentor has learnt from. Raises ``ValueError`` when there is none in ``path``."""
    _, notes = _read(path)
    palette = json.loads(notes["palette"]) if "palette" in notes else None
    return Learnt(
        tuple(json.loads(notes["classes"])),
        None if palette is None else tuple((r, g, b) for r, g, b in palette),
        json.loads(notes["gsd_m"]) if "gsd_m" in notes else None,
    )


def load_segmentor(path: Path) -> tuple[nn.Module, tuple[str, ...]]:
    """A trained segmentor on the CPU, in evaluation mode, and its class names; ``path`` is what training has written.

    Raises ``ValueError`` when there is none.
    """
    weights, notes = _read(path)
    config = SegmentationConfig.model_validate(yaml.safe_load(notes["config"])["segmentation"])
    classes = tuple(json.loads(notes["classes"]))
    segmentor = build_segmentor(config, len(classes), pretrained=False)
    segmentor.load_state_dict(weights)
    return segmentor.eval(), classes


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    weights, notes = read_weights(path, "segmentor")
    if not {"classes", "config"} <= notes.keys():
        raise ValueError(f"{path}: does not say which segmentor's weights it holds; take a file that training wrote")
    return weights, notes


def _architecture(smp: Any, name: str) -> type[nn.Module]:
    base = smp.base.SegmentationModel
    known: dict[str, Any] = {
        key: value for key, value in vars(smp).items() if inspect.isclass(value) and issubclass(value, base)
    }
    if name in known:
        return known[name]
    alike = [key for key in known if key.casefold() == name.casefold()]  # papers write UNet and SegFormer
    if len(alike) != 1:
        raise ValueError(f"segmentation.architecture={name!r} is unknown; {_did_you_mean(name, known)}")
    return known[alike[0]]


def _check_encoder(smp: Any, name: str) -> None:
    """Names are the library's own, or ``tu-`` and a timm model."""
    import timm

    known = smp.encoders.get_encoder_names()
    if name.startswith("tu-"):
        if timm.is_model(name.removeprefix("tu-")):
            return
        known = [f"tu-{model}" for model in timm.list_models()]
    if name not in known and not name.startswith("timm-"):
        raise ValueError(f"segmentation.encoder={name!r} is unknown; {_did_you_mean(name, known)}")


def _did_you_mean(name: str, known: Sequence[str] | dict[str, Any]) -> str:
    """A hint that names the nearest ones: all of a short list, the closest five of a long one."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=5, cutoff=0.0)
    shown = names if len(names) <= 20 else near
    return f"did you mean {near[0]!r}? ({'there are' if shown is names else 'near it are'} {', '.join(shown)})"


def _build(
    architecture: type[nn.Module], config: SegmentationConfig, weights: str | bool | None, num_classes: int
) -> nn.Module:
    try:
        return architecture(encoder_name=config.encoder, encoder_weights=weights, in_channels=3, classes=num_classes)
    except Exception as error:  # each encoder of the library refuses in its own way
        if weights is not None:
            raise
        raise ValueError(
            f"segmentation.encoder={config.encoder!r} does not go with segmentation.architecture="
            f"{config.architecture!r} ({first_line(error)}); take another of either, resnet34 goes with DeepLabV3"
        ) from error


def _build_pretrained(smp: Any, architecture: type[nn.Module], config: SegmentationConfig, classes: int) -> nn.Module:
    # For timm's models the library takes a yes or no, the others' weights have names.
    weights = "imagenet" if config.encoder in smp.encoders.get_encoder_names() else True
    try:
        with hub_answers_or_is_left_alone():
            return _build(architecture, config, weights, classes)
    except Exception as error:  # it was built without weights just before, so all that can fail is getting them
        raise ValueError(
            f"segmentation.encoder_weights=imagenet could not be downloaded ({first_line(error)}): set it to none, or "
            "to the path of a state dict of the encoder, saved on a machine with network"
        ) from error
