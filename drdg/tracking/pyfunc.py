"""Station 6, tracking: what MLflow calls to load one of our models; which function opens it, the model says."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

OPENER, WEIGHTS = "opener.json", "weights.safetensors"


class Opened:
    """A model as MLflow predicts by it, which has compared the images with the signature before."""

    def __init__(self, function: Callable[[np.ndarray], np.ndarray]) -> None:
        self._function = function

    def predict(self, images: np.ndarray, params: dict[str, Any] | None = None) -> np.ndarray:
        """What the network makes of images uint8 (N, H, W, 3)."""
        return self._function(images)


def _load_pyfunc(path: str) -> Opened:
    """Open the model whose data lie in ``path``; MLflow calls this by its name.

    Raises ``ValueError`` for a model that names a function that is not ours.
    """
    folder = Path(path)
    opener = json.loads((folder / OPENER).read_bytes())["opener"]
    module, _, function = opener.partition(":")
    if not module.startswith("drdg."):
        raise ValueError(f"{folder / OPENER}: {opener} is no function of drdg; take a model that drdg has logged")
    return Opened(getattr(importlib.import_module(module), function)(folder / WEIGHTS))
