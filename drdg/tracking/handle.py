"""Station 6, tracking: what a stage holds while it works, and logs numbers, settings and files to."""

from __future__ import annotations

import math
import sys
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from drdg.tracking.names import clean_name, flatten, shorten
from drdg.tracking.store import RUN_VARIABLE, URI_VARIABLE, Store

if TYPE_CHECKING:
    from mlflow.entities import Metric
    from typing_extensions import Self

# Logging one value costs 23 ms on sqlite, fifty in one call 30 ms (measured), so values wait for each other, but not
# longer than a person who watches the curves likes to.
FLUSH_VALUES = 500
FLUSH_SECONDS = 15.0
# A store that is away costs seconds at each try, in which a training stands still.
LONGEST_PAUSE_S = 600.0

Row = tuple[str, float, int, int]
"""A value that was logged: its name, itself, when, in milliseconds since 1970, and at which step."""


class Handle:
    """What a stage logs to. This base keeps nothing; it is what ranks other than 0 get (as ``NullHandle``)."""

    run_id: str = ""

    def log(self, values: Mapping[str, float], step: int = 0) -> None:
        """Keep numbers by name at a step (iterations, or epochs where the name says so)."""

    def params(self, values: Mapping[str, Any]) -> None:
        """Keep settings; a nested mapping becomes dotted names."""

    def tags(self, values: Mapping[str, object]) -> None:
        """Keep words by which runs are found; a later value replaces an earlier one."""

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Keep a file, or all files of a folder, under ``folder`` of the run's artifacts."""

    def text(self, content: str, name: str) -> None:
        """Keep a text as the artifact ``name``."""

    def history(self) -> dict[str, list[tuple[int, float]]]:
        """Return every logged number by name, as (step, value) in the order of steps."""
        return {}

    def flush(self) -> None:
        """Write what waits."""

    def try_to_flush(self) -> list[Row]:
        """Write what waits, or warn that it still waits, and return that."""
        return []

    def relog(self, rows: list[Row]) -> None:
        """Keep what an earlier attempt's ``try_to_flush`` returned, unless it was written after all."""

    def close(self, status: str = "FINISHED") -> None:
        """Write what waits and end the run."""

    def environment(self) -> Mapping[str, str]:
        """Return the variables by which another process joins this run (``Tracking.join``)."""
        return {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class NullHandle(Handle):
    """Keeps nothing: for ranks other than 0, which compute the same values as rank 0 and must not log them again."""


class RunHandle(Handle):
    """Writes to one MLflow run; as a context manager it ends the run with the status its block deserves.

    An exception makes the run FAILED, Ctrl-C KILLED. Values that could not be written stay in the buffer and are tried
    again, with a warning, so that a store that is away for a while does not end a training of days; ``close`` raises
    ``ValueError`` when they still cannot be written.

    A process that was cut off may end when another has long set its run going again (``restarts``); the run is then not
    its own any more, to end or to blame an error for.
    """

    def __init__(self, store: Store, run_id: str, *, fresh: bool, owner: bool, restarts: int = 0) -> None:
        self._store = store
        self.run_id = run_id
        self._owner = owner
        self._restarts = restarts
        self._waiting: list[Metric] = []
        self._last_flush = time.monotonic()
        self._pause_s = FLUSH_SECONDS
        # What an earlier attempt logged, by name and step. None: nobody wrote here before, so there is nothing to ask.
        self._before: dict[str, dict[int, float]] | None = None if fresh else {}

    def log(self, values: Mapping[str, float], step: int = 0) -> None:
        """Keep numbers by name at a step; written in batches, with the time of this call."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._waiting += [Metric(clean_name(name), float(value), now, step) for name, value in values.items()]
        is_away = self._pause_s > FLUSH_SECONDS
        if self._is_rested() or (len(self._waiting) >= FLUSH_VALUES and not is_away):
            self._flush_or_warn()

    def params(self, values: Mapping[str, Any]) -> None:
        """Keep settings as dotted names; one that differs from an earlier attempt's goes to a tag, as MLflow's
        parameters cannot change."""
        from mlflow.entities import Param
        from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH, MAX_PARAMS_TAGS_PER_BATCH

        wanted = {name: shorten(text, MAX_PARAM_VAL_LENGTH) for name, text in flatten(values).items()}
        client = self._store.client
        with self._store.writing():
            have = client.get_run(self.run_id).data.params
            new = [Param(name, text) for name, text in wanted.items() if name not in have]
            for start in range(0, len(new), MAX_PARAMS_TAGS_PER_BATCH):
                client.log_batch(self.run_id, params=new[start : start + MAX_PARAMS_TAGS_PER_BATCH])
        self.tags({f"drdg.changed.{name}": text for name, text in wanted.items() if have.get(name, text) != text})

    def tags(self, values: Mapping[str, object]) -> None:
        """Keep words by which runs are found; a later value replaces an earlier one."""
        with self._store.writing():
            for name, value in values.items():
                self._store.client.set_tag(self.run_id, name, str(value))

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Keep a file, or all files of a folder. ``ValueError`` when it is not there."""
        path = Path(path)
        if not path.exists():
            raise ValueError(f"{path} is not there, so MLflow cannot keep it; run the stage that writes it first")
        with self._store.writing():
            if path.is_dir():
                self._store.client.log_artifacts(self.run_id, str(path), folder)
            else:
                self._store.client.log_artifact(self.run_id, str(path), folder)

    def text(self, content: str, name: str) -> None:
        """Keep a text as the artifact ``name``."""
        with self._store.writing():
            self._store.client.log_text(self.run_id, content, name)

    def history(self) -> dict[str, list[tuple[int, float]]]:
        """Return every written number by name, as (step, value) in the order of steps."""
        client = self._store.client
        with self._store.reading("read"):
            names = sorted(client.get_run(self.run_id).data.metrics)
            histories = {name: client.get_metric_history(self.run_id, name) for name in names}
        return {name: sorted((metric.step, metric.value) for metric in found) for name, found in histories.items()}

    def flush(self) -> None:
        """Write the waiting values, those apart that an earlier attempt wrote already. ``ValueError`` on failure."""
        from mlflow.utils.validation import MAX_METRICS_PER_BATCH

        self._last_flush = time.monotonic()
        with self._store.writing():
            while self._waiting:
                batch = self._waiting[:MAX_METRICS_PER_BATCH]
                new = [metric for metric in batch if not self._is_known(metric)]
                if new:
                    self._store.client.log_batch(self.run_id, metrics=new)
                del self._waiting[: len(batch)]

    def try_to_flush(self) -> list[Row]:
        """Write what waits, or warn that it still waits, and return that."""
        if self._pause_s == FLUSH_SECONDS or self._is_rested():
            self._flush_or_warn()
        return [(metric.key, metric.value, metric.timestamp, metric.step) for metric in self._waiting]

    def relog(self, rows: list[Row]) -> None:
        """Keep what an earlier attempt's ``try_to_flush`` returned, unless it was written after all."""
        from mlflow.entities import Metric

        self._waiting += [Metric(*row) for row in rows]

    def _is_rested(self) -> bool:
        return time.monotonic() - self._last_flush >= self._pause_s

    def _flush_or_warn(self) -> None:
        try:
            self.flush()
            self._pause_s = FLUSH_SECONDS
        except ValueError as error:
            self._last_flush = time.monotonic()
            self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
            warnings.warn(f"{error} ({len(self._waiting)} values wait and are tried again)", stacklevel=3)

    def close(self, status: str = "FINISHED") -> None:
        """Write what waits and, if this handle began the run, end it: FINISHED, FAILED or KILLED."""
        self.flush()
        if self._is_to_end():
            with self._store.writing():
                self._store.client.set_terminated(self.run_id, status)

    def _is_to_end(self) -> bool:
        return self._owner and self._store.restarts(self.run_id) == self._restarts

    def environment(self) -> Mapping[str, str]:
        """Return the variables by which a subprocess finds the store and, with ``Tracking.join``, this run."""
        return {URI_VARIABLE: self._store.uri, RUN_VARIABLE: self.run_id}

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None or (isinstance(error, SystemExit) and not error.code):
            self.close()
            return
        try:
            if self._is_to_end():
                self.tags({"drdg.error": shorten(f"{type(error).__name__}: {error}", 500)})
            self.close("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        except ValueError as second:  # the first error is the one to see
            warnings.warn(str(second), stacklevel=2)

    def _is_known(self, metric: Metric) -> bool:
        if self._before is None:
            return False
        if metric.key not in self._before:
            history = self._store.client.get_metric_history(self.run_id, metric.key)
            self._before[metric.key] = {old.step: old.value for old in history}
        before = self._before[metric.key].get(metric.step)
        return before is not None and _as_stored(before) == _as_stored(metric.value)


def _as_stored(value: float) -> float | str:
    """Return what can be compared after a database: it holds infinity as the largest number, and NaN equals nothing."""
    return "nan" if math.isnan(value) else max(-sys.float_info.max, min(value, sys.float_info.max))
