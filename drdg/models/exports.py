"""Station 3, networks: trained weights in a file that is only numbers and words, so that to load it runs nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from drdg.files import whole_file


def write_weights(path: Path, weights: Mapping[str, Tensor], notes: Mapping[str, str]) -> None:
    """Write ``weights`` with ``notes`` about them as safetensors, whole or not at all."""
    from safetensors.torch import save

    # Of its own memory each: those that ZeRO has laid out in one buffer are views of it.
    own = {name: value.detach().cpu().clone().contiguous() for name, value in weights.items()}
    with whole_file(path) as file:
        file.write(save(own, dict(notes)))


def read_weights(path: Path, what: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The weights, on the CPU, and the notes in ``path``. Raises ``ValueError`` when there is no such file of ``what``,
    a word for those who read the error, or when it is not whole.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise ValueError(f"{path}: there is no trained {what}; train one first")
    try:
        with safe_open(path, "pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path}: is torn or no trained {what} ({error}); train it again, or copy it again") from error
