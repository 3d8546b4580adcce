"""Station 6, tracking: a store's experiment and the runs in it, begun, continued or joined."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from drdg.tracking.base import Handle, NullHandle
from drdg.tracking.names import shorten
from drdg.tracking.run_handle import LONGEST_TAG, RunHandle
from drdg.tracking.spool import PENDING, SPOOL_VARIABLE, SpoolHandle, joining_header, pending_header, say_away
from drdg.tracking.store import IDENTITY, PARENT_TAG, RUN_VARIABLE, Store, given_uri
from drdg.tracking.sync import fetched_as


class Tracking:
    """A store of runs and the experiment in it.

    The store is ``uri``, else the environment's ``MLFLOW_TRACKING_URI``, else ``mlflow.db`` (sqlite) in ``directory``.
    A database that is not there yet is made here, whole or not at all. Artifacts of an sqlite store lie in
    ``mlartifacts`` beside it, those of another database in ``mlartifacts`` of ``directory``, those of a server where
    the server keeps them.

    ``rank`` other than 0: nothing is opened and every handle is a ``NullHandle``. Several processes may write to one
    store, also to one run: the one that began it hands ``handle.environment()`` to the others, which ``join``.

    With ``spool``, or the environment's ``DRDG_SPOOL`` that a parent process has set, a store that is away
    (``is_away``) is no error: handles write into that folder instead, also when it goes away later, and ``sync``
    fetches it. ``in_background``: numbers are written by a thread, so that who logs waits for no store.

    ``uri`` is where the store is, ``shown`` the same without a password.

    Raises ``ValueError`` when the address is none MLflow keeps runs at (it retired folders of files) and, without a
    spool, when the store cannot be reached or written or is of another schema.
    """

    def __init__(
        self,
        uri: str | None,
        experiment: str,
        directory: Path,
        rank: int = 0,
        spool: Path | None = None,
        in_background: bool = False,
    ) -> None:
        spool = spool or (Path(os.environ[SPOOL_VARIABLE]) if os.environ.get(SPOOL_VARIABLE) else None)
        self._spool = None if spool is None else Path(spool).absolute()
        self._experiment = experiment
        self._in_background = in_background
        self._store: Store | None = None
        self._reason = ""
        """Why the store is away."""
        self.uri = self.shown = ""
        if rank == 0:
            self.uri, self.shown = given_uri(uri, Path(directory))
            try:
                self._store = Store(uri, experiment, Path(directory))
            except ValueError as error:
                if self._spool is None:
                    raise
                self._reason = str(error)
                say_away(error, self._spool)

    @property
    def is_away(self) -> bool:
        """Whether the store could not be reached or written when this was made, so that handles write to the spool."""
        return bool(self._reason)

    @property
    def store(self) -> Store:
        """The open store, on rank 0. Raises ``ValueError`` when it is away."""
        if self._reason:
            raise ValueError(self._reason)
        assert self._store is not None, "rank 0 alone opens the store"
        return self._store

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
        if self._store is None and not self.is_away:
            return NullHandle()
        run_id = run_id or inherited_run_id()
        if not run_id:
            raise ValueError(f"there is no MLflow run to join: {RUN_VARIABLE} is not set and no run id was given")
        run_id = self._as_fetched(run_id)
        if self._store is None or run_id.startswith(PENDING):
            return self._into_spool(joining_header(run_id), owner=False)
        with self._store.reading(f"find run {run_id} in"):
            self._store.client.get_run(run_id)
        return RunHandle(self._store, run_id, fresh=False, owner=False, **self._options())

    def has_run(self, run_id: str) -> bool:
        """Whether the store has this run. Raises ``ValueError`` when it is away or does not say."""
        store = self.store
        from mlflow.exceptions import MlflowException

        with store.reading(f"find run {run_id} in"):
            try:
                store.client.get_run(run_id)
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                return False
        return True

    def place(self, name: str, parent_run_id: str | None, tags: Mapping[str, object], params: Mapping[str, Any]) -> str:
        """Return the id of the run of this name, parent and identity, with ``tags`` and ``params``; it is made if it is
        not there, and its status is left alone if it is.

        Raises ``ValueError`` when the store is away.
        """
        words = {key: str(value) for key, value in tags.items()}
        with self.store.writing():  # as one, lest two commands make two
            run = self.store.find(name, parent_run_id, words)
            run_id = self.store.create(name, parent_run_id, words) if run is None else str(run.info.run_id)
        handle = RunHandle(self.store, run_id, fresh=run is None, owner=False)
        if run is not None:
            handle.tags({key: word for key, word in words.items() if run.data.tags.get(key) != word})
        handle.params(params)
        return run_id

    def settle(
        self,
        run_id: str,
        status: str,
        *,
        tags: Mapping[str, object] | None = None,
        metrics: Mapping[str, float] | None = None,
        artifacts: Mapping[Path, str | None] | None = None,
        remove_tags: Sequence[str] = (),
        void: str | None = None,
    ) -> None:
        """End a run that nobody writes to, whatever its status was, with what is so now; again changes nothing.

        ``artifacts`` are files or folders, each with the folder it goes to. Numbers whose names begin with ``void`` and
        that are not among ``metrics`` become NaN, as they are so no more. Raises ``ValueError`` when the store is away.
        """
        store = self.store
        with store.reading(f"find run {run_id} in"):
            run = store.client.get_run(run_id)
        handle = RunHandle(store, run_id, fresh=False, owner=False)
        words = {key: shorten(str(value), LONGEST_TAG) for key, value in (tags or {}).items()}
        handle.tags({key: word for key, word in words.items() if run.data.tags.get(key) != word})
        no_more = () if void is None else (name for name in run.data.metrics if name.startswith(void))
        handle.log({**dict.fromkeys(no_more, math.nan), **(metrics or {})})
        for path, folder in (artifacts or {}).items():
            handle.artifact(path, folder)
        handle.close()
        with store.writing():
            for key in {*remove_tags} & run.data.tags.keys() - words.keys():
                store.client.delete_tag(run_id, key)
            if run.info.status != status:
                store.client.set_terminated(run_id, status)

    def find_stage(self, parent_run_id: str, stage: str, digest: str) -> str | None:
        """Return the id of the newest run of a stage under its parent by its digest, or None.

        Raises ``ValueError`` when the store is away.
        """
        _, stage_tag, *_ = IDENTITY
        runs = self.store.search({PARENT_TAG: parent_run_id, stage_tag: stage, "drdg.digest": digest})
        return str(runs[0].info.run_id) if runs else None

    def _begin(self, name: str, parent: str | None, tags: Mapping[str, object], params: Mapping[str, Any]) -> Handle:
        if self._store is None and not self.is_away:
            return NullHandle()
        words = {key: str(value) for key, value in tags.items()}
        parent = None if parent is None else self._as_fetched(parent)
        if self._store is not None and not (parent or "").startswith(PENDING):
            try:
                return self._begin_here(self._store, name, parent, words, params)
            except ValueError as error:
                if self._spool is None:
                    raise
                say_away(error, self._spool)
        return self._into_spool(pending_header(name, parent, words, params, self._experiment), owner=True)

    def _begin_here(
        self, store: Store, name: str, parent: str | None, words: dict[str, str], params: Mapping[str, Any]
    ) -> RunHandle:
        with store.writing():  # as one, lest two processes make two
            run = store.find(name, parent, words)
            if run is None:
                run_id, restarts = store.create(name, parent, words), 0
            else:
                run_id, restarts = str(run.info.run_id), store.reopen(run)
        handle = RunHandle(store, run_id, fresh=run is None, owner=True, restarts=restarts, **self._options())
        if run is not None:
            handle.tags(words)
        handle.params(params)
        return handle

    def _into_spool(self, header: Mapping[str, Any], *, owner: bool) -> SpoolHandle:
        if self._spool is None:
            raise ValueError(
                f"run {header['run_id']} is not in the MLflow store {self.shown} but waits in a spool, which "
                f"{SPOOL_VARIABLE} does not name"
            )
        return SpoolHandle(self._spool, header, owner=owner, uri=self.uri, in_background=self._in_background)

    def _as_fetched(self, run_id: str) -> str:
        """The id that a run of the spool has got in the store, if it has been fetched."""
        if self._spool is None or not run_id.startswith(PENDING):
            return run_id
        return fetched_as(self._spool, run_id) or run_id

    def _options(self) -> dict[str, Any]:
        return {"spool": self._spool, "in_background": self._in_background}


def inherited_run_id() -> str | None:
    """Return the run that the process which started this one wants it to write to, if any."""
    return os.environ.get(RUN_VARIABLE) or None
