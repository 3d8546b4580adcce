"""Station 6, tracking: what a stage holds while it works; this base keeps nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self

Row = tuple[str, float, int, int]
"""A value that was logged: its name, itself, when, in milliseconds since 1970, and at which step."""


@dataclass(frozen=True)
class Dataset:
    """Data that a run is given."""

    name: str
    digest: str
    """Of their content, of at most 36 characters (MLflow)."""
    place: str
    """Where they lie."""


class Handle:
    """What a stage logs to. This base keeps nothing; it is what ranks other than 0 get (as ``NullHandle``)."""

    run_id: str = ""

    def log(self, values: Mapping[str, float], step: int = 0) -> None:
        """Keep numbers by name at a step (iterations, or epochs where the name says so). Any thread may call it."""

    def params(self, values: Mapping[str, Any]) -> None:
        """Keep settings; a nested mapping becomes dotted names."""

    def tags(self, values: Mapping[str, object]) -> None:
        """Keep words by which runs are found; a later value replaces an earlier one."""

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Keep a file, or all files of a folder, under ``folder`` of the run's artifacts."""

    def text(self, content: str, name: str) -> None:
        """Keep a text as the artifact ``name``."""

    def model(self, name: str, kind: str, weights: Path) -> None:
        """Keep trained weights as an MLflow model; :mod:`drdg.tracking.models` knows the kinds."""

    def inputs(self, datasets: Mapping[str, Dataset]) -> None:
        """Keep what the run learns from or looks at, by what it is to it: ``source``, ``target`` and so on."""

    def history(self) -> dict[str, list[tuple[int, float]]]:
        """Return every logged number by name, as (step, value) in the order of steps."""
        return {}

    def last_step(self, name: str) -> int | None:
        """Return the last step at which an earlier attempt logged ``name``; None if none did."""
        return None

    def flush(self) -> None:
        """Write what waits."""

    def try_to_flush(self) -> list[Row]:
        """Write what waits, or see to it, and return what is not written yet."""
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
