"""Station 6, tracking: a model by its name in MLflow's registry, as files on this machine."""

from __future__ import annotations

import os
from pathlib import Path

from drdg.tracking.store import REACH_SECONDS, URI_VARIABLE, _checked_uri, _probe_server, _without_password

PREFIX = "models:/"


def fetch_model(uri: str, into: Path, *, store: str | None = None) -> Path:
    """Copy the artifacts of the registered model ``uri`` (``models:/name@alias`` or ``models:/name/version``) into the
    folder ``into``, and return the folder in which they lie.

    ``store``: where the registry is; by default the environment's ``MLFLOW_TRACKING_URI``. Raises ``ValueError`` when
    there is no such store, model, alias or version.
    """
    assert uri.startswith(PREFIX), uri
    where = store or os.environ.get(URI_VARIABLE)
    if not where:
        raise ValueError(
            f"{uri}: nobody says in which MLflow store this model is; set tracking.uri or {URI_VARIABLE}, or name the "
            "file segmentor.safetensors"
        )
    source = "tracking.uri" if store else URI_VARIABLE
    where, database = _checked_uri(where, source)
    shown = _without_password(where)
    if database is not None and not database.is_file():
        raise ValueError(f"{source}: there is no MLflow store {database}; correct its path")
    if where.startswith("http"):
        _probe_server(where, shown, source)
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    # As Store has it: by itself it would try for minutes.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(int(REACH_SECONDS)))
    from mlflow import MlflowClient
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    into.mkdir(parents=True, exist_ok=True)
    try:
        # By way of the place: of a models:/ URI MLflow asks the process's own registry, whichever it is given here.
        client = MlflowClient(tracking_uri=where, registry_uri=where)
        name, _, alias = uri.removeprefix(PREFIX).rpartition("@")
        if not alias or not name:
            name, _, version = uri.removeprefix(PREFIX).rpartition("/")
        else:
            version = str(client.get_model_version_by_alias(name, alias).version)
        place = client.get_model_version_download_uri(name, version)
        return Path(download_artifacts(artifact_uri=place, dst_path=str(into), tracking_uri=where))
    except (MlflowException, SQLAlchemyError, OSError) as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise ValueError(f"{uri}: cannot be had from the MLflow store {shown} ({said}); correct its name") from error
