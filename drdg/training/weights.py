"""Station 4, training: a translator's weights, as they are drawn and as they are kept when it is trained."""

from __future__ import annotations

from pathlib import Path

import torch
import yaml

from drdg.config import Config, to_yaml
from drdg.methods import Translator, build_translator
from drdg.models.exports import read_weights, write_weights

# bfloat16 too begins with float32 weights, which its engine keeps beside the networks' own.
DTYPES = {"float32": torch.float32, "bfloat16": torch.float32, "float64": torch.float64}


def fresh_translator(name: str, config: Config, device: torch.device) -> Translator:
    """A translator with the initial weights of ``run.seed``, the same on every rank and device."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.run.seed)
        translator = build_translator(name, config)
    translator.networks.to(device=device, dtype=DTYPES[config.gan.precision])
    return translator


def save_translator(path: Path, translator: Translator, name: str, config: Config, iteration: int) -> None:
    """Write what :func:`load_translator` reads, and by what it was made."""
    notes = {"name": name, "config": to_yaml(config), "step": str(iteration)}
    write_weights(path, translator.networks.state_dict(), notes)


def translator_config(path: Path) -> Config:
    """The configuration that the translator in ``path`` was trained by. Raises ``ValueError`` when there is none."""
    _, notes = read_weights(path, "translator")
    if "config" not in notes:
        raise ValueError(f"{path}: does not say which translator's weights it holds; take a file that training wrote")
    return Config.model_validate(yaml.safe_load(notes["config"]))


def load_translator(path: Path, config: Config, device: torch.device) -> Translator:
    """The trained translator in ``path``. Raises ``ValueError`` when it is not one of this configuration's shape."""
    weights, notes = read_weights(path, "translator")
    if "name" not in notes:
        raise ValueError(f"{path}: does not say which translator's weights it holds; take a file that training wrote")
    translator = fresh_translator(notes["name"], config, device)
    try:
        translator.networks.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(
            f"{path}: its networks have other shapes than this configuration's; use the configuration it was made with"
        ) from error
    return translator
