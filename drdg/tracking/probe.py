"""Station 6, tracking: whether a store will do, found out without leaving anything in it."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

from drdg.tracking.store import URI_VARIABLE, _checked_uri, _probe_server, _probe_sqlite, _without_password


@dataclass(frozen=True)
class StoreState:
    """A store as it was found: ``shown`` is where, without a password; ``database`` the file of an sqlite one."""

    shown: str
    database: Path | None
    is_there: bool
    """Whether the store itself is there; an sqlite one that is not is made by the first run."""


def probe_store(uri: str | None, directory: Path) -> StoreState:
    """Open the store that ``Tracking(uri, ..., directory)`` would open, and change nothing.

    An sqlite one is locked as for writing and let go, a server is asked whether it lets us in. Raises ``ValueError``
    in ``Tracking``'s words when it cannot be used.
    """
    source = "tracking.uri" if uri else URI_VARIABLE
    given = uri or os.environ.get(URI_VARIABLE) or f"sqlite:///{directory.absolute() / 'mlflow.db'}"
    uri, database = _checked_uri(given, source)
    shown = _without_password(uri)
    if database is not None:
        if not database.exists():
            return StoreState(shown, database, is_there=False)
        _probe_sqlite(database, source)
    elif uri.startswith("http"):
        _probe_server(uri, shown, source)
    else:
        _connect(uri, shown)  # MLflow itself would make its tables there
        return StoreState(shown, None, is_there=True)
    _ask(uri, shown)
    return StoreState(shown, database, is_there=True)


def _connect(uri: str, shown: str) -> None:
    from sqlalchemy import create_engine
    from sqlalchemy.exc import SQLAlchemyError

    try:
        engine = create_engine(uri)
        engine.connect().close()
        engine.dispose()
    except (SQLAlchemyError, ImportError) as error:  # a database's driver may not be installed
        raise ValueError(f"cannot open the MLflow store {shown}: {_first_line(error)}") from error


def _ask(uri: str, shown: str) -> None:
    """Read as any client does, which finds another version's schema and a server that wants a password."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # five, by default, minutes in all
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    try:
        MlflowClient(tracking_uri=uri).search_experiments(max_results=1)
    except (MlflowException, SQLAlchemyError, OSError) as error:
        said = str(error)
        if "database schema" in said or "Can't locate revision" in said:
            said = f"its schema is of another MLflow; upgrade MLflow, or the store (mlflow db upgrade {shown})"
        raise ValueError(f"cannot open the MLflow store {shown}: {_first_line(said)}") from error


def _first_line(said: object) -> str:
    return (str(said).strip().splitlines() or [type(said).__name__])[0].rstrip(".")
