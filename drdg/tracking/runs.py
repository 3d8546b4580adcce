"""Station 6, tracking: a store's experiment and the runs in it, begun, continued or joined."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from drdg.tracking.handle import Handle, NullHandle, RunHandle
from drdg.tracking.store import RUN_VARIABLE, Store


class Tracking:
    """A store of runs and the experiment in it.

    The store is ``uri``, else the environment's ``MLFLOW_TRACKING_URI``, else ``mlflow.db`` (sqlite) in ``directory``.
    A database that is not there yet is made here, whole or not at all. Artifacts of an sqlite store lie in
    ``mlartifacts`` beside it, those of another database in ``mlartifacts`` of ``directory``, those of a server where
    the server keeps them.

    ``rank`` other than 0: nothing is opened and every handle is a ``NullHandle``. Several processes may write to one
    store, also to one run: the one that began it hands ``handle.environment()`` to the others, which ``join``.

    ``uri`` is where the store is, ``shown`` the same without a password.

    Raises ``ValueError`` when the store cannot be reached or written, is of another schema, or is a folder of files
    (MLflow retired those).
    """

    def __init__(self, uri: str | None, experiment: str, directory: Path, rank: int = 0) -> None:
        self._store = Store(uri, experiment, Path(directory)) if rank == 0 else None
        self.uri = self._store.uri if self._store else ""
        self.shown = self._store.shown if self._store else ""

    def parent(self, name: str, tags: Mapping[str, object], params: Mapping[str, Any]) -> Handle:
        """Begin, or continue, the run that holds a pipeline's stages."""
        return self._begin(name, None, tags, params)

    def stage(self, name: str, parent_run_id: str, tags: Mapping[str, object], params: Mapping[str, Any]) -> Handle:
        """Begin, or continue, the run of one stage under its parent.

        Without the tag ``drdg.digest`` a run cannot be known again and each call begins a new one.
        """
        return self._begin(name, parent_run_id, tags, params)

    def join(self, run_id: str | None = None) -> Handle:
        """Write to a run that another process began and will end; ``run_id`` defaults to the environment's.

        ``ValueError`` when there is no such run.
        """
        if self._store is None:
            return NullHandle()
        run_id = run_id or inherited_run_id()
        if not run_id:
            raise ValueError(f"there is no MLflow run to join: {RUN_VARIABLE} is not set and no run id was given")
        with self._store.reading(f"find run {run_id} in"):
            self._store.client.get_run(run_id)
        return RunHandle(self._store, run_id, fresh=False, owner=False)

    def _begin(
        self, name: str, parent: str | None, tags: Mapping[str, object], params: Mapping[str, Any]
    ) -> RunHandle | NullHandle:
        if self._store is None:
            return NullHandle()
        words = {key: str(value) for key, value in tags.items()}
        run = self._store.find(name, parent, words)
        if run is None:
            handle = RunHandle(self._store, self._store.create(name, parent, words), fresh=True, owner=True)
        else:
            restarts = self._store.reopen(run)
            handle = RunHandle(self._store, run.info.run_id, fresh=False, owner=True, restarts=restarts)
            handle.tags(words)
        handle.params(params)
        return handle


def inherited_run_id() -> str | None:
    """Return the run that the process which started this one wants it to write to, if any."""
    return os.environ.get(RUN_VARIABLE) or None
