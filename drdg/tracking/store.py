"""Station 6, tracking: the MLflow store itself, opened or made, with its errors as sentences."""

from __future__ import annotations

import getpass
import logging
import os
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import urlopen

from drdg.tracking.turns import Turns

if TYPE_CHECKING:
    from mlflow.entities import Run

IDENTITY = ("drdg.digest", "drdg.stage", "drdg.row", "drdg.seed")
"""Tags that, with the run's name and parent, say which run it is."""
URI_VARIABLE = "MLFLOW_TRACKING_URI"
RUN_VARIABLE = "MLFLOW_RUN_ID"

# SQLAlchemy's dialects that MLflow knows, and its remote stores.
DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
REMOTE = ("http", "https", "databricks")
REACH_SECONDS = 10.0
PARENT_TAG = "mlflow.parentRunId"
RESTARTS = "drdg.restarts"
BEGAN = "drdg.began_ms"
"""When the last attempt began, in milliseconds since 1970."""
SPOOLED = "drdg.spooled"
"""By what id the last attempt was known that wrote to a spool, as the store was away."""


class Store:
    """An open store: its client, its experiment, and its errors as sentences."""

    def __init__(self, uri: str | None, experiment: str, directory: Path) -> None:
        source, given = _given(uri, directory)
        self.uri, database = _checked_uri(given, source)
        self.shown = _without_password(self.uri)
        self._turns = Turns(database)
        if database is not None:
            _probe_sqlite(database, source)
        elif self.uri.startswith("http"):
            _probe_server(self.uri, self.shown, source)

        # MLflow reports each use to its makers unless told otherwise; whoever wants that can set the variable to false.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        # A line about each run that ends, on standard output, which is for results.
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        # By itself it would try for minutes, in which a training stands still; what is not written is tried again.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(int(REACH_SECONDS)))
        from mlflow import MlflowClient

        # Logs of a hundred table migrations say nothing to a user of ours, and its tracebacks less than our sentence.
        logging.getLogger("alembic").setLevel(logging.WARNING)
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
        logging.getLogger("mlflow.store.model_registry").setLevel(logging.WARNING)
        if database is not None and not database.exists():
            with self.reading("make"):
                _make_sqlite(database)
        if database is not None:
            root: str | None = str(database.parent / "mlartifacts")
        else:
            root = None if self.uri.startswith(REMOTE) else str(directory.absolute() / "mlartifacts")
        with self.reading("open"):
            self.client = MlflowClient(tracking_uri=self.uri)
            self.experiment_id = self._experiment(experiment, root)

    def find(self, name: str, parent: str | None, tags: Mapping[str, str]) -> Run | None:
        """Return the newest run of this name, parent and identity, or None."""
        if "drdg.digest" not in tags:
            return None if SPOOLED not in tags else self._newest({SPOOLED: tags[SPOOLED]})
        known = {key: tags[key] for key in IDENTITY if key in tags}
        if parent is not None:
            known[PARENT_TAG] = parent
        runs = self.search(known)
        # A tag that is absent here must be absent there: the parent has no stage, and a shared stage no row.
        unwanted = [key for key in (*IDENTITY, PARENT_TAG) if key not in known]
        for run in runs:
            if run.info.run_name == name and not any(key in run.data.tags for key in unwanted):
                return run
        return None

    def search(self, tags: Mapping[str, str]) -> list[Run]:
        """Return the runs that have these tags, the newest first."""
        quoted = {key: "'" + value.replace("'", "''") + "'" for key, value in tags.items()}
        condition = " and ".join(f"tags.`{key}` = {value}" for key, value in quoted.items())
        with self.reading("search"):
            return list(
                self.client.search_runs([self.experiment_id], condition, order_by=["attributes.start_time DESC"])
            )

    def _newest(self, tags: Mapping[str, str]) -> Run | None:
        return next(iter(self.search(tags)), None)

    def create(self, name: str, parent: str | None, tags: Mapping[str, str], began: int | None = None) -> str:
        """Begin a run and return its id; ``began``, in milliseconds since 1970, if that was not now."""
        own = {"mlflow.source.name": Path(sys.argv[0]).name or "python"}
        with suppress(OSError, KeyError):  # a container's user may have no name
            own["mlflow.user"] = getpass.getuser()
        if parent is not None:
            own[PARENT_TAG] = parent
        with self.writing():
            created = self.client.create_run(self.experiment_id, start_time=began, tags={**own, **tags}, run_name=name)
        return str(created.info.run_id)

    def reopen(self, run: Run, tags: Mapping[str, str] | None = None, began: int | None = None) -> int:
        """Set an earlier attempt's run going again, count the restart and return the number of restarts.

        ``tags`` are set with the count or not at all; ``began`` as for :meth:`create`.
        """
        from mlflow.entities import RunTag

        restarts = _restarts(run) + 1
        counted = {RESTARTS: restarts, BEGAN: began or int(time.time() * 1000), **(tags or {})}
        with self.writing():
            self.client.update_run(run.info.run_id, status="RUNNING")
            self.client.log_batch(run.info.run_id, tags=[RunTag(key, str(value)) for key, value in counted.items()])
            if "drdg.error" in run.data.tags:
                self.client.delete_tag(run.info.run_id, "drdg.error")
        return restarts

    def restarts(self, run_id: str) -> int:
        """How often a run was set going again."""
        with self.reading(f"read run {run_id} in"):
            return _restarts(self.client.get_run(run_id))

    def last_step(self, run_id: str, name: str) -> int | None:
        """The last step at which a run has the metric ``name``, if it has it."""
        with self.reading("read"):
            steps = [metric.step for metric in self.client.get_metric_history(run_id, name)]
        return max(steps, default=None)

    @contextmanager
    def reading(self, doing: str) -> Iterator[None]:
        """Turn whatever the store raises inside into a ``ValueError`` of one sentence."""
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        except (MlflowException, SQLAlchemyError, OSError) as error:
            said = str(error)
            if "database schema" in said or "Can't locate revision" in said:
                cure = f"its schema is of another MLflow; upgrade MLflow, or the store (mlflow db upgrade {self.shown})"
            else:
                cure = (said.strip().splitlines() or [type(error).__name__])[0].rstrip(".")
            raise ValueError(f"cannot {doing} the MLflow store {self.shown}: {cure}") from error

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Like ``reading``, for what changes the store's database."""
        with self._turns.mine(), self.reading("write to"):
            yield

    def keeping(self) -> AbstractContextManager[None]:
        """Like ``writing``, for files, which need not wait for each other."""
        return self.reading("write to")

    def _experiment(self, name: str, artifacts: str | None) -> str:
        from mlflow.exceptions import MlflowException

        found = self.client.get_experiment_by_name(name)
        if found is None:
            try:
                with self._turns.mine():
                    return str(self.client.create_experiment(name, artifact_location=artifacts))
            except MlflowException:
                found = self.client.get_experiment_by_name(name)  # another process was faster
                if found is None:
                    raise
        if found.lifecycle_stage == "deleted":
            raise ValueError(
                f"the MLflow experiment {name} was deleted from {self.shown}; restore it "
                f"(mlflow experiments restore --experiment-id {found.experiment_id}) or set another tracking.experiment"
            )
        return str(found.experiment_id)


def _restarts(run: Run) -> int:
    return int(run.data.tags.get(RESTARTS, 0))


def began_at(run: Run) -> int:
    """When the run's last attempt began, in milliseconds since 1970."""
    return int(run.data.tags.get(BEGAN, run.info.start_time))


def given_uri(uri: str | None, directory: Path) -> tuple[str, str]:
    """Where the store is, and the same without a password. Raises ``ValueError`` for what is no store."""
    source, given = _given(uri, directory)
    checked, _ = _checked_uri(given, source)
    return checked, _without_password(checked)


def _given(uri: str | None, directory: Path) -> tuple[str, str]:
    """By what the store is named, and how."""
    source = "tracking.uri" if uri else URI_VARIABLE
    return source, uri or os.environ.get(URI_VARIABLE) or f"sqlite:///{directory.absolute() / 'mlflow.db'}"


def _checked_uri(uri: str, source: str) -> tuple[str, Path | None]:
    """Return the URI, absolute, and the file of an sqlite one."""
    scheme = uri.partition(":")[0].partition("+")[0]
    if scheme not in DATABASES + REMOTE:
        raise ValueError(
            f"{source}={uri} is not a store MLflow keeps runs in (folders of files are retired); write "
            f"sqlite:////absolute/path/mlflow.db or the http address of a server"
        )
    if scheme != "sqlite":
        return uri, None
    prefix, slashes, path = uri.partition(":///")
    if not slashes or not path or path == ":memory:" or "?" in path:
        raise ValueError(f"{source}={uri} names no file; write sqlite:////absolute/path/mlflow.db")
    # Absolute, as other processes may have another working directory.
    database = Path(path).absolute()
    return f"{prefix}:///{database}", database


def _without_password(uri: str) -> str:
    parts = urlsplit(uri)
    return uri.replace(f":{parts.password}@", ":***@") if parts.password else uri


def _probe_sqlite(database: Path, source: str) -> None:
    # MLflow would try fifteen times, for minutes, before it says what an attempt of ours shows at once. An attempt, not
    # os.access: network file systems and containers answer that wrongly.
    try:
        database.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=database.parent):
            pass
    except OSError as error:
        raise ValueError(
            f"{source}: the MLflow store cannot be kept in {database.parent} ({error.strerror}); make that folder "
            f"writable or set tracking.uri to another place"
        ) from error
    if not database.exists():
        return
    try:
        with closing(sqlite3.connect(database, timeout=REACH_SECONDS, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("CREATE TABLE drdg_probe (n)")  # only a change shows that the file is read-only
            connection.execute("ROLLBACK")
    except sqlite3.Error as error:
        raise ValueError(
            f"{source}: the MLflow store {database} cannot be written ({error}); end the process that holds it, "
            f"mend its permissions, or set tracking.uri to another place"
        ) from error


def _probe_server(uri: str, shown: str, source: str) -> None:
    # MLflow retries for four minutes.
    try:
        urlopen(uri, timeout=REACH_SECONDS).close()
    except HTTPError:
        pass  # it answers; whether it lets us in is for MLflow to say, which knows the credentials
    except (URLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise ValueError(
            f"{source}: no MLflow server answers at {shown} ({reason}); start it or set tracking.uri"
        ) from error


def _make_sqlite(database: Path) -> None:
    """Make the tables under another name first: MLflow refuses for ever a store half-made, or made by two at once."""
    from mlflow import MlflowClient

    with tempfile.TemporaryDirectory(dir=database.parent, prefix=".mlflow-") as folder:
        draft = Path(folder) / database.name
        MlflowClient(tracking_uri=f"sqlite:///{draft}").search_experiments(max_results=1)
        try:
            os.link(draft, database)  # unlike a rename, fails when another process was faster
        except FileExistsError:
            pass
        except OSError:  # a file system without hard links
            if not database.exists():
                draft.rename(database)
