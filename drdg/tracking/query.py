"""Station 6, tracking: what a store knows of a sweep, read without changing anything in it.

A sweep's run has the artifact ``sweep.json``, which says what cells (row, seed and direction) it has and, by a digest,
what each was to be scored with. A cell's scores are handed out only where its run says that they are of that digest.
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drdg.tracking.store import (
    PARENT_TAG,
    REACH_SECONDS,
    URI_VARIABLE,
    Store,
    _checked_uri,
    _probe_server,
    _without_password,
)

if TYPE_CHECKING:
    from mlflow.entities import Run

PLAN = "sweep.json"
METRICS = "metrics.json"
RUN_AGAIN = "run launch/sweep.py again"
DONE = "done"


@dataclass(frozen=True)
class CellRecord:
    """One row with one seed in one direction, as the store knows it."""

    key: str
    """``DIRECTION/seedN/ROW``."""
    direction: str
    row: str
    seed: int
    run_id: str
    digest: str
    """Of what the sweep wants to be scored."""
    state: str = ""
    """``done``, ``failed`` or ``missing``; empty where nobody has settled it."""
    result: str = ""
    """The digest of what was scored."""
    error: str | None = None
    """What its run says is wrong."""
    metrics: Mapping[str, Any] | None = None
    """Content of its ``metrics.json``, only where that is what the sweep wants."""
    problem: str | None = None
    """Why ``metrics`` is None, in words."""
    stage_digests: Mapping[str, str] = field(default_factory=dict)
    """The tag ``drdg.digest`` of the run of each stage that this result was made by."""

    @property
    def is_current(self) -> bool:
        """Whether it was scored with what the sweep has now."""
        return self.state == DONE and self.result == self.digest


class SweepRecord:
    """A sweep in its store: the plan, every cell of it, and what the runs of their stages have kept."""

    def __init__(self, store: ReadStore, run: Run) -> None:
        self._store = store
        self.run_id: str = run.info.run_id
        self.name: str = run.info.run_name
        self.uri = store.uri
        self.shown = store.shown
        """Where the store is, without a password."""
        self.plan = self._read_plan()
        """Content of ``sweep.json``."""
        self._stages: dict[str, list[Run]] = {}
        self.cells = self._read_cells()

    @property
    def folder(self) -> Path:
        """Where the sweep's files were when it was planned, maybe on another machine."""
        return Path(str(self.plan.get("folder", self.name)))

    @property
    def directions(self) -> list[str]:
        """The directions, in the order of the sweep."""
        named = [str(name) for name in self.plan.get("directions", [])]
        return list(dict.fromkeys([*named, *(cell.direction for cell in self.cells)]))

    def stage_run(self, cell: CellRecord, stage: str) -> str | None:
        """The id of the run in which the cell's present result went through ``stage``; None for no such run."""
        digest = cell.stage_digests.get(stage)
        if digest is None:
            return None
        if cell.run_id not in self._stages:
            self._stages[cell.run_id] = self._store.children(cell.run_id)
        for run in self._stages[cell.run_id]:
            if run.data.tags.get("drdg.stage") == stage and run.data.tags.get("drdg.digest") == digest:
                return str(run.info.run_id)
        return None

    def metric_names(self, run_id: str) -> list[str]:
        """The names of all numbers that a run has."""
        with self._store.reading(f"read run {run_id} in"):
            return sorted(self._store.client.get_run(run_id).data.metrics)

    def history(self, run_id: str, metric: str) -> list[tuple[int, float]]:
        """One number of a run as (step, value), in the order of steps, the last one logged of each step."""
        with self._store.reading(f"read run {run_id} in"):
            found = self._store.client.get_metric_history(run_id, metric)
        ordered = sorted(found, key=lambda entry: (entry.step, entry.timestamp))
        return sorted({entry.step: entry.value for entry in ordered}.items())

    def artifacts(self, run_id: str, folder: str | None = None) -> list[str]:
        """The paths of a run's artifacts in ``folder``; empty where there is none."""
        with self._store.reading(f"list the artifacts of run {run_id} in"):
            return sorted(found.path for found in self._store.client.list_artifacts(run_id, folder) if not found.is_dir)

    def download(self, run_id: str, artifact: str) -> bytes | None:
        """The content of one of a run's artifacts; None where the run has none of that name."""
        return self._store.content(run_id, artifact)

    def _read_plan(self) -> dict[str, Any]:
        content = self.download(self.run_id, PLAN)
        place = f"sweep {self.name} (run {self.run_id}) of {self.shown}"
        if content is None:
            raise ValueError(f"{place} has no {PLAN}, so nobody knows its cells; {RUN_AGAIN}, which writes it")
        try:
            plan = json.loads(content)
            cells = [{**cell, "seed": int(cell["seed"])} for cell in plan["cells"]]
            texts = [cell[key] for cell in cells for key in ("key", "direction", "row", "run_id", "digest")]
            if not all(isinstance(text, str) for text in texts):
                raise TypeError("a cell has no text where one belongs")
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{place} has a damaged {PLAN}; {RUN_AGAIN}, which writes it") from error
        return {**plan, "cells": cells}

    def _read_cells(self) -> tuple[CellRecord, ...]:
        runs = {run.info.run_id: run for run in self._store.children(self.run_id)}
        return tuple(self._read_cell(entry, runs.get(entry["run_id"])) for entry in self.plan["cells"])

    def _read_cell(self, entry: Mapping[str, Any], run: Run | None) -> CellRecord:
        plain = {key: entry[key] for key in ("key", "direction", "row", "seed", "run_id", "digest")}
        if run is None:
            return CellRecord(**plain, problem=f"its run {entry['run_id']} is not in {self.shown}; {RUN_AGAIN}")
        tags, prefix = run.data.tags, "drdg.stage_digest."
        cell = CellRecord(
            **plain,
            state=tags.get("drdg.state", ""),
            result=tags.get("drdg.result", ""),
            error=tags.get("drdg.error"),
            stage_digests={key[len(prefix) :]: value for key, value in tags.items() if key.startswith(prefix)},
        )
        if not cell.is_current:
            return replace(cell, problem=_why_not(cell))
        content = self.download(cell.run_id, METRICS)
        if content is None:
            return replace(cell, problem=f"its run has no {METRICS}, though it is marked as done; {RUN_AGAIN}")
        try:
            metrics = json.loads(content)
        except ValueError:
            metrics = None
        if not isinstance(metrics, dict):
            return replace(cell, problem=f"its {METRICS} in {self.shown} is damaged; {RUN_AGAIN}")
        return replace(cell, metrics=metrics)


class ReadStore(Store):
    """A store that is there already: neither it nor an experiment in it is made, and nothing in it changes."""

    def __init__(self, uri: str | None, experiment: str, directory: Path) -> None:
        # Not that of Store, which makes what is not there.
        source = "tracking.uri" if uri else URI_VARIABLE
        given = uri or os.environ.get(URI_VARIABLE) or f"sqlite:///{directory.absolute() / 'mlflow.db'}"
        self.uri, database = _checked_uri(given, source)
        self.shown = _without_password(self.uri)
        if database is not None:
            _look_at_sqlite(database)
        elif self.uri.startswith("http"):
            _probe_server(self.uri, self.shown, source)
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(int(REACH_SECONDS)))
        # A bar for each artifact that is read says nothing to a user of ours.
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        from mlflow import MlflowClient

        logging.getLogger("alembic").setLevel(logging.WARNING)
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
        with self.reading("open"):
            self.client = MlflowClient(tracking_uri=self.uri)
            found = self.client.get_experiment_by_name(experiment)
            if found is None:
                others = sorted(other.name for other in self.client.search_experiments())
        if found is None:
            raise ValueError(
                f"{self.shown} has no experiment {experiment}, and so holds no sweep of it; run launch/sweep.py first, "
                f"or name one of its experiments ({', '.join(others) or 'none'})"
            )
        self.experiment_id = str(found.experiment_id)

    def children(self, run_id: str) -> list[Run]:
        """All runs right below a run, the newest first."""
        return self.runs_where(f"tags.`{PARENT_TAG}` = '{run_id}'")

    def runs_where(self, condition: str) -> list[Run]:
        """All runs of the experiment that meet a condition, the newest first."""
        found: list[Run] = []
        token = None
        with self.reading("search"):
            while True:
                page = self.client.search_runs(
                    [self.experiment_id], condition, order_by=["attributes.start_time DESC"], page_token=token
                )
                found += page
                token = page.token
                if not token:
                    return found

    def content(self, run_id: str, artifact: str) -> bytes | None:
        """What an artifact of a run holds; None where the run has none of that name."""
        with self.reading(f"read {artifact} of run {run_id} in"):
            folder = artifact.rpartition("/")[0] or None
            if artifact not in {found.path for found in self.client.list_artifacts(run_id, folder)}:
                return None
            with tempfile.TemporaryDirectory(prefix="drdg-") as place:
                return Path(self.client.download_artifacts(run_id, artifact, place)).read_bytes()


def open_sweep(
    uri: str | None, experiment: str, name_or_run_id: str | None = None, directory: Path = Path()
) -> SweepRecord:
    """Read a sweep from the store ``uri``, else ``MLFLOW_TRACKING_URI``'s, else ``mlflow.db`` in ``directory``.

    Without a name the newest sweep there, with several of one name the newest of them. Raises ``ValueError`` when the
    store is not there, cannot be read, is of another schema, holds no sweep, or none of that name.
    """
    store = ReadStore(uri, experiment, Path(directory))
    sweeps = store.runs_where("tags.`drdg.kind` = 'sweep'")
    if not sweeps:
        raise ValueError(f"{store.shown} holds no sweep; run launch/sweep.py first")
    if name_or_run_id is None:
        return SweepRecord(store, sweeps[0])
    for run in sweeps:
        if name_or_run_id in (run.info.run_name, run.info.run_id):
            return SweepRecord(store, run)
    names = ", ".join(dict.fromkeys(run.info.run_name for run in sweeps))
    raise ValueError(f"{store.shown} holds no sweep {name_or_run_id}; it holds {names}")


def _why_not(cell: CellRecord) -> str:
    """Why a cell has no scores to show."""
    if cell.state == DONE:
        return f"it was scored with other settings than the sweep has now; {RUN_AGAIN}"
    if cell.error:
        return cell.error.strip().rstrip(".")
    if cell.state == "failed":
        return "it failed, and its run does not say why"
    if cell.state == "missing":
        return "it has not been run"
    return "nobody has settled it yet: the sweep is still running, or was stopped before its report"


def _look_at_sqlite(database: Path) -> None:
    """Refuse what is no store: MLflow would make one there."""
    if not database.exists():
        raise ValueError(f"{database} is not there, so it holds no sweep; run launch/sweep.py first")
    try:
        with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, timeout=REACH_SECONDS)) as connection:
            tables: Sequence[Any] = connection.execute("SELECT name FROM sqlite_master WHERE name = 'runs'").fetchall()
    except sqlite3.Error as error:
        raise ValueError(
            f"the MLflow store {database} cannot be read ({error}); end the process that holds it, mend its "
            f"permissions, or name another"
        ) from error
    if not tables:
        raise ValueError(f"{database} holds no sweep, as it is no store of MLflow; run launch/sweep.py first")
