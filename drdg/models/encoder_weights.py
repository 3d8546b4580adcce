"""Station 3, networks: pretrained weights of a segmentor's encoder, downloaded by the library or read from a file."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

# First parts of the names that classification networks of torchvision and timm give to their last layers, which a
# segmentor's encoder does not have.
CLASSIFIERS = frozenset({"fc", "classifier", "head", "last_linear"})
PROBE_S = 5.0


@contextmanager
def hub_answers_or_is_left_alone() -> Iterator[None]:
    """Ask the model hub once, briefly; when it does not answer, let its client use what is cached and not retry.

    Left to itself the client tries five times with growing pauses before it says that there is no network.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    before = constants.HF_HUB_OFFLINE
    try:
        get_session().head(constants.ENDPOINT, timeout=PROBE_S)
    except Exception:  # whatever keeps it from answering, in whichever HTTP library the client is built on
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def load_encoder(encoder: nn.Module, path: Path) -> None:
    """Load a state dict (``.safetensors``, or what ``torch.save`` wrote) into ``encoder``, every name matching.

    Only a classifier's weights may be there in excess; a timm state dict may lack the ``model.`` that the library puts
    before its names. Raises ``ValueError`` that names the file and what does not fit.
    """
    wanted = encoder.state_dict()
    given = _read(path)
    if all(name.startswith("model.") for name in wanted) and not any(name.startswith("model.") for name in given):
        given = {f"model.{name}": value for name, value in given.items()}
    given = {name: value for name, value in given.items() if name in wanted or not _is_classifier(name)}
    # Files from before batch norms counted their batches lack the counter; torch itself lets that pass.
    missing = [name for name in wanted if name not in given and not name.endswith("num_batches_tracked")]
    excess = [name for name in given if name not in wanted]
    reshaped = [name for name in given if name in wanted and given[name].shape != wanted[name].shape]
    for what, names in (("lacks", missing), ("has in excess", excess), ("has in another shape", reshaped)):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise ValueError(
                f"segmentation.encoder_weights={path} {what} {names[0]!r}{more}: it is not of segmentation.encoder; "
                "name the encoder it was saved from, or another file"
            )
    encoder.load_state_dict(given)


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise ValueError(
            f"segmentation.encoder_weights={path} is no such file; write imagenet, none, or the path of a state dict"
        )
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            values = load_file(path)
        else:
            values = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError, _safetensors_error()) as error:
        raise ValueError(
            f"segmentation.encoder_weights={path} cannot be read ({first_line(error)}); save the encoder's "
            "state_dict() again"
        ) from error
    if not isinstance(values, dict) or not all(isinstance(value, Tensor) for value in values.values()):
        raise ValueError(
            f"segmentation.encoder_weights={path} is not a state dict, names to tensors; save the encoder's "
            "state_dict() alone"
        )
    return values


def _safetensors_error() -> type[Exception]:
    from safetensors import SafetensorError

    return SafetensorError


def _is_classifier(name: str) -> bool:
    return name.removeprefix("model.").split(".")[0] in CLASSIFIERS


def first_line(error: Exception) -> str:
    """The first line of what an error says, without its full stop, or its type when it says nothing."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(". ")
