"""Station 6, tracking: trained networks as MLflow models, which predict from arrays, and the best of them by name.

A model is the file of weights as training wrote it and the dotted name of the function that opens it: no pickled
objects, so that loading one runs nothing but this suite. The suite has to be installed where it is loaded.
"""

from __future__ import annotations

import shutil
import tempfile
import warnings
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drdg.files import sha256, write_json
from drdg.tracking.base import Handle
from drdg.tracking.pyfunc import OPENER, WEIGHTS
from drdg.tracking.store import Store

if TYPE_CHECKING:
    from drdg.tracking.runs import Tracking

SEGMENTOR, GENERATOR = "segmentor", "generator"
OPENERS = {SEGMENTOR: "drdg.stages.served:open_segmentor", GENERATOR: "drdg.stages.served:open_generator"}
OUTPUT_SHAPES = {SEGMENTOR: (-1, -1, -1), GENERATOR: (-1, -1, -1, 3)}
REQUIRED = ("drdg", "mlflow", "numpy", "torch", "segmentation-models-pytorch", "timm", "safetensors")
BEST = "best"
CONTENT, RESULT, SCORE = "drdg.weights_sha256", "drdg.result", "drdg.score"


def log_segmentor(handle: Handle, weights: Path, name: str = SEGMENTOR) -> None:
    """Keep a trained segmentor as the run's MLflow model ``name``: uint8 (N, H, W, 3) to class ids uint8 (N, H, W).

    ``mlflow.pyfunc.load_model("runs:/RUN_ID/NAME").predict(images)`` predicts. The same weights are kept once. Raises
    ``ValueError`` when there are none.
    """
    handle.model(name, SEGMENTOR, Path(weights))


def log_generator(handle: Handle, weights: Path, name: str = GENERATOR) -> None:
    """Keep a trained translator as the run's MLflow model ``name``: source tiles uint8 (N, H, W, 3) to the target's
    look and scale, uint8 (N, h, w, 3). As :func:`log_segmentor`.
    """
    handle.model(name, GENERATOR, Path(weights))


def register_best(tracking: Tracking, name: str, run_id: str, model_name: str, score: float, digest: str) -> None:
    """Register the model ``model_name`` of a run as a version of ``name`` with the alias ``best``.

    A result is known by its ``digest`` and has one version, however often it is registered; an earlier best keeps its
    version. Raises ``ValueError`` when the run has no such model or the store is away.
    """
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, ErrorCode

    store = tracking.store
    model = _find(store, run_id, model_name)
    if model is None:
        raise ValueError(
            f"MLflow run {run_id} in {store.shown} has no model {model_name} to register; run its stage again, or "
            "fetch what waits in the spool"
        )
    client = store.client
    with store.writing():
        try:
            client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
                raise
        versions = client.search_model_versions(f"name = '{name}'")
        found = next((known for known in versions if known.tags.get(RESULT) == digest), None)
        if found is None:
            tags = {RESULT: digest, SCORE: str(score)}
            # Not "models:/ID", which MLflow would look up in the store of this process, not of the client.
            found = client.create_model_version(
                name, model.artifact_location, run_id=run_id, tags=tags, model_id=model.model_id
            )
        client.set_registered_model_alias(name, BEST, str(found.version))


def refuse_missing(weights: Path) -> None:
    """Raise ``ValueError`` unless the file is there."""
    if not Path(weights).is_file():
        raise ValueError(f"{weights} is not there, so MLflow cannot keep it as a model; train it first")


def put_model(store: Store, run_id: str, name: str, kind: str, weights: Path) -> None:
    """Make an MLflow model of ``weights`` in the store, unless the run has one of the same content already."""
    content = sha256(weights)
    with store.keeping():
        for known in _models(store, run_id, name):
            if known.tags.get(CONTENT) == content and _is_ready(known):
                return
        with tempfile.TemporaryDirectory(prefix="drdg-model-") as folder, store.writing():
            from mlflow.entities import LoggedModelOutput

            client = store.client
            model = client.create_logged_model(
                store.experiment_id, name, source_run_id=run_id, tags={CONTENT: content}, model_type=kind
            )
            _save(Path(folder), run_id, model.model_id, kind, weights)
            client.log_model_artifacts(model.model_id, str(Path(folder) / "model"))
            client.finalize_logged_model(model.model_id, "READY")
            client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])


def _save(folder: Path, run_id: str, model_id: str, kind: str, weights: Path) -> None:
    """Write the model as MLflow reads it into ``folder``/model."""
    import mlflow.pyfunc
    import numpy as np
    from mlflow.models import Model, ModelSignature
    from mlflow.types import Schema, TensorSpec

    data = folder / "data"
    data.mkdir()
    shutil.copyfile(weights, data / WEIGHTS)
    write_json(data / OPENER, {"opener": OPENERS[kind]})
    byte = np.dtype(np.uint8)
    images = Schema([TensorSpec(byte, (-1, -1, -1, 3), name=None)])
    signature = ModelSignature(images, Schema([TensorSpec(byte, OUTPUT_SHAPES[kind], name=None)]))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*input example was not provided")  # the signature is given
        mlflow.pyfunc.save_model(
            str(folder / "model"),
            loader_module="drdg.tracking.pyfunc",
            data_path=str(data),
            mlflow_model=Model(run_id=run_id, model_id=model_id),
            signature=signature,
            pip_requirements=_requirements(),
        )


def _requirements() -> list[str]:
    """The packages that predict, as they are here; said, as MLflow would load the model to find out."""
    lines = []
    for name in REQUIRED:
        try:
            lines.append(f"{name}=={version(name).partition('+')[0]}")
        except PackageNotFoundError:  # run from a checkout that is not installed
            continue
    return lines


def _find(store: Store, run_id: str, name: str) -> Any | None:
    """The newest whole model of a run, by its name."""
    with store.reading("search"):
        return next((model for model in _models(store, run_id, name) if _is_ready(model)), None)


def _models(store: Store, run_id: str, name: str) -> list[Any]:
    found = store.client.search_logged_models(
        [store.experiment_id],
        filter_string=f"source_run_id = '{run_id}' AND name = '{name}'",
        order_by=[{"field_name": "creation_timestamp", "ascending": False}],
    )
    return list(found)


def _is_ready(model: Any) -> bool:
    return str(getattr(model.status, "value", model.status)) == "READY"
