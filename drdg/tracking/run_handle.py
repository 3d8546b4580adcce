"""Station 6, tracking: an MLflow run that is written to, and what is put aside while its store is away."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from drdg.tracking.base import Dataset, Row
from drdg.tracking.handle import BATCH, Buffered
from drdg.tracking.names import flatten, shorten
from drdg.tracking.spool import SPOOL_VARIABLE, SpoolHandle, say_away
from drdg.tracking.store import RUN_VARIABLE, URI_VARIABLE, Store

# With a spool, values wait in memory up to so many while the store is away.
MOST_WAITING = 50_000
LONGEST_TAG = 5000
CHANGED = "drdg.changed."


class RunHandle(Buffered):
    """Writes to one MLflow run.

    ``close`` raises ``ValueError`` when values still cannot be written; with a ``spool`` it puts them there instead, as
    do the others with what the store does not take. Once something lies there all further words and files do, too, so
    that none overtakes another.

    A process that was cut off may end when another has long set its run going again (``restarts``); the run is then not
    its own any more, to end or to blame an error for.
    """

    def __init__(
        self,
        store: Store,
        run_id: str,
        *,
        fresh: bool,
        owner: bool,
        restarts: int = 0,
        spool: Path | None = None,
        in_background: bool = False,
    ) -> None:
        super().__init__(in_background=in_background)
        self._store = store
        self.run_id = run_id
        self._owner = owner
        self._restarts = restarts
        self._spool = spool
        self._aside: SpoolHandle | None = None
        self._fresh = fresh
        # What an earlier attempt logged, by name and step. None: nobody wrote here before, so there is nothing to ask.
        self._before: dict[str, dict[int, float]] | None = None if fresh else {}

    def params(self, values: Mapping[str, Any]) -> None:
        """Keep settings as dotted names; one that differs from an earlier attempt's goes to a tag, as MLflow's
        parameters cannot change."""
        self._here_or_aside(lambda: self._set_params(values), lambda aside: aside.params(values))

    def _set_params(self, values: Mapping[str, Any]) -> None:
        from mlflow.entities import Param
        from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH, MAX_PARAMS_TAGS_PER_BATCH

        wanted = {name: shorten(text, MAX_PARAM_VAL_LENGTH) for name, text in flatten(values).items()}
        client = self._store.client
        with self._store.writing():
            run = client.get_run(self.run_id)
            have = run.data.params
            new = [Param(name, text) for name, text in wanted.items() if name not in have]
            for start in range(0, len(new), MAX_PARAMS_TAGS_PER_BATCH):
                client.log_batch(self.run_id, params=new[start : start + MAX_PARAMS_TAGS_PER_BATCH])
            for name in wanted.keys() & have.keys():
                if have[name] == wanted[name] and f"{CHANGED}{name}" in run.data.tags:  # taken back since
                    client.delete_tag(self.run_id, f"{CHANGED}{name}")
        self._set_tags({f"{CHANGED}{name}": text for name, text in wanted.items() if have.get(name, text) != text})

    def tags(self, values: Mapping[str, object]) -> None:
        """Keep words by which runs are found; a later value replaces an earlier one."""
        self._here_or_aside(lambda: self._set_tags(values), lambda aside: aside.tags(values))

    def _set_tags(self, values: Mapping[str, object]) -> None:
        from mlflow.entities import RunTag
        from mlflow.utils.validation import MAX_PARAMS_TAGS_PER_BATCH

        words = [RunTag(name, shorten(str(value), LONGEST_TAG)) for name, value in values.items()]
        for start in range(0, len(words), MAX_PARAMS_TAGS_PER_BATCH):
            with self._store.writing():
                self._store.client.log_batch(self.run_id, tags=words[start : start + MAX_PARAMS_TAGS_PER_BATCH])

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Keep a file, or all files of a folder. ``ValueError`` when it is not there."""
        path = Path(path)
        if not path.exists():
            raise ValueError(f"{path} is not there, so MLflow cannot keep it; run the stage that writes it first")
        self._here_or_aside(lambda: self._put_files(path, folder), lambda aside: aside.artifact(path, folder))

    def _put_files(self, path: Path, folder: str | None) -> None:
        with self._store.keeping():
            if path.is_dir():
                self._store.client.log_artifacts(self.run_id, str(path), folder)
            else:
                self._store.client.log_artifact(self.run_id, str(path), folder)

    def inputs(self, datasets: Mapping[str, Dataset]) -> None:
        """Keep what the run learns from or looks at; the same is kept once."""
        self._here_or_aside(lambda: self._put_inputs(datasets), lambda aside: aside.inputs(datasets))

    def _put_inputs(self, datasets: Mapping[str, Dataset]) -> None:
        from mlflow.entities import Dataset as Entity
        from mlflow.entities import DatasetInput, InputTag

        known = [
            DatasetInput(
                Entity(data.name, data.digest, "local", json.dumps({"uri": data.place})),
                [InputTag("mlflow.data.context", context)],
            )
            for context, data in datasets.items()
        ]
        with self._store.writing():
            self._store.client.log_inputs(self.run_id, known)

    def text(self, content: str, name: str) -> None:
        """Keep a text as the artifact ``name``."""

        def put() -> None:
            with self._store.keeping():
                self._store.client.log_text(self.run_id, content, name)

        self._here_or_aside(put, lambda aside: aside.text(content, name))

    def model(self, name: str, kind: str, weights: Path) -> None:
        """Keep trained weights as an MLflow model, once. ``ValueError`` when they are not there."""
        from drdg.tracking.models import put_model, refuse_missing

        refuse_missing(weights)
        self._here_or_aside(
            lambda: put_model(self._store, self.run_id, name, kind, weights),
            lambda aside: aside.model(name, kind, weights),
        )

    def history(self) -> dict[str, list[tuple[int, float]]]:
        """Return every written number by name, as (step, value) in the order of steps; with a spool and without a
        store, those that this handle has put aside.
        """
        client = self._store.client
        try:
            with self._store.reading("read"):
                names = sorted(client.get_run(self.run_id).data.metrics)
                histories = {name: client.get_metric_history(self.run_id, name) for name in names}
        except ValueError:
            if self._spool is None:
                raise
            return self._aside.history() if self._aside else {}
        return {name: sorted((metric.step, metric.value) for metric in found) for name, found in histories.items()}

    def last_step(self, name: str) -> int | None:
        """Return the last step at which an earlier attempt logged ``name``; None if none did."""
        return None if self._fresh else self._store.last_step(self.run_id, name)

    def flush(self) -> None:
        """Write the waiting values, those apart that an earlier attempt wrote already; into the spool, if there is one,
        where the store does not take them. ``ValueError`` when that fails, too.
        """
        try:
            self._flush_all()
        except ValueError as error:
            if self._spool is None:
                raise
            self._put_rows_aside(error)

    def _flush_or_warn(self) -> None:
        # While there is room the store is waited for: what lies in the spool waits for somebody to fetch it.
        super()._flush_or_warn()
        if self._spool is not None and (count := len(self._rows())) >= MOST_WAITING:
            self._put_rows_aside(ValueError(f"the MLflow store {self._store.shown} has not taken {count} values"))

    def close(self, status: str = "FINISHED") -> None:
        """Write what waits and, if this handle began the run, end it: FINISHED, FAILED or KILLED."""
        super().close(status)
        if self._aside is not None:
            self._aside.close(status)

    def _end(self, status: str) -> None:
        def end() -> None:
            if self._is_to_end():
                with self._store.writing():
                    self._store.client.set_terminated(self.run_id, status)

        self._here_or_aside(end, lambda aside: None)  # closing it says the end

    def _is_to_end(self) -> bool:
        if not self._owner:
            return False
        try:
            return self._store.restarts(self.run_id) == self._restarts
        except ValueError:
            if self._spool is None:
                raise
            return True  # who fetches it from the spool looks again

    def environment(self) -> Mapping[str, str]:
        """Return the variables by which a subprocess finds the store and, with ``Tracking.join``, this run."""
        aside = {} if self._spool is None else {SPOOL_VARIABLE: str(self._spool)}
        return {URI_VARIABLE: self._store.uri, RUN_VARIABLE: self.run_id, **aside}

    def _here_or_aside(self, here: Callable[[], None], put_aside: Callable[[SpoolHandle], None]) -> None:
        if self._aside is None:
            try:
                here()
                return
            except ValueError as error:
                if self._spool is None:
                    raise
                put_aside(self._open_aside(error))
                return
        put_aside(self._aside)

    def _open_aside(self, error: ValueError) -> SpoolHandle:
        if self._aside is None:
            assert self._spool is not None
            say_away(error, self._spool)
            known = {"run_id": self.run_id, "restarts": self._restarts, "time": int(time.time() * 1000)}
            self._aside = SpoolHandle(self._spool, known, owner=self._owner, uri=self._store.uri)
        return self._aside

    def _put_rows_aside(self, error: ValueError) -> None:
        with self._turn:
            aside = self._open_aside(error)
            while batch := self._rows(BATCH):
                aside.put_rows(batch)
                with self._guard:
                    del self._waiting[: len(batch)]

    def _write(self, rows: list[Row]) -> None:
        from mlflow.entities import Metric

        with self._store.writing():
            new = [row for row in rows if not self._is_known(row)]
            if new:
                self._store.client.log_batch(self.run_id, metrics=[Metric(*row) for row in new])

    def _is_known(self, row: Row) -> bool:
        if self._before is None:
            return False
        name, value, _, step = row
        if name not in self._before:
            history = self._store.client.get_metric_history(self.run_id, name)
            self._before[name] = {old.step: old.value for old in history}
        before = self._before[name].get(step)
        return before is not None and as_stored(before) == as_stored(value)


def as_stored(value: float) -> float | str:
    """Return what can be compared after a database: it holds infinity as the largest number, and NaN equals nothing."""
    return "nan" if math.isnan(value) else max(-sys.float_info.max, min(value, sys.float_info.max))
