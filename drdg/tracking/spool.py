"""Station 6, tracking: what a store that is away should have got, on disk until :func:`drdg.tracking.sync` fetches it.

A *spool* is a folder that all jobs share. Each process that has something for it opens a file of its own there, of JSON
lines, which only grows and which it keeps locked while it lives; files to keep are copied into a folder beside it. The
first line says whose run it is: one that the store has, or one that it does not have yet, by all that makes it known
again. Such a run has an id of its own, ``spool-...``, until then.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import socket
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from drdg.tracking.base import Dataset, Row
from drdg.tracking.handle import Buffered
from drdg.tracking.names import flatten, shorten
from drdg.tracking.store import RUN_VARIABLE, URI_VARIABLE

SPOOL_VARIABLE = "DRDG_SPOOL"
PENDING = "spool-"
"""What the id of a run begins with that no store has yet."""
LINES, FILES = ".jsonl", ".files"
_told: set[Path] = set()


def say_away(error: object, spool: Path) -> None:
    """Say on standard error, once in a process, that the store is away and where what it should get waits."""
    if spool not in _told:
        _told.add(spool)
        print(
            f"warning: {error}; what is logged waits in {spool}, from where launch/sweep.py --sync and the next job "
            "fetch it",
            file=sys.stderr,
            flush=True,
        )


class SpoolFile:
    """One process's part of a spool. All its methods raise ``ValueError`` when the disk does not take it."""

    def __init__(self, folder: Path, name: str, header: Mapping[str, Any]) -> None:
        self.folder = folder
        slug = re.sub(r"[^\w.-]+", "_", name)[:60].strip("._-") or "run"
        host = socket.gethostname()
        self.path = folder / f"{slug}-{host}-{os.getpid()}-{uuid.uuid4().hex[:8]}{LINES}"
        draft = folder / f".{self.path.name}.{host}-{os.getpid()}.tmp"
        with self._writing():
            folder.mkdir(parents=True, exist_ok=True)
            # Whoever sees it under its name sees it locked, and with its first line.
            self._file = draft.open("xb", buffering=0)
            with suppress(OSError):  # a file system without locks: two must not fetch it then, which they are told
                fcntl.flock(self._file, fcntl.LOCK_EX)
            self._size = 0
            self.append(header)
            draft.rename(self.path)
            _sync(folder)

    def append(self, *records: Mapping[str, Any]) -> None:
        """Write ``records``, a line each, and wait until they are on the disk."""
        lines = "".join(json.dumps(record, default=str) + "\n" for record in records).encode()
        with self._writing():
            self._file.truncate(self._size)  # what an attempt left that the disk had no room for
            self._file.seek(self._size)
            left = memoryview(lines)
            while left:
                left = left[self._file.write(left) :]
            os.fsync(self._file.fileno())
        self._size += len(lines)

    def keep(self, path: Path) -> str:
        """Copy a file or a folder beside the lines and return by what name it lies there."""
        beside = self.path.with_suffix(FILES)
        with self._writing():
            beside.mkdir(exist_ok=True)
            place = beside / f"{len(list(beside.iterdir()))}"
            place.mkdir()
            target = place / (path.name or "files")
            if path.is_dir():
                shutil.copytree(path, target)
            else:
                shutil.copyfile(path, target)
            for copied in [target, *target.rglob("*")]:
                if copied.is_file():
                    _sync(copied)
        return f"{place.name}/{target.name}"

    def close(self) -> None:
        """Let go of it, for others to fetch."""
        self._file.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (OSError, shutil.Error) as error:
            reason = getattr(error, "strerror", None) or error
            raise ValueError(
                f"cannot write to the spool {self.folder} ({reason}); make room there or make it writable"
            ) from error


class SpoolHandle(Buffered):
    """Writes to the spool what a run in the store should get. ``header`` says whose run it is."""

    def __init__(
        self, folder: Path, header: Mapping[str, Any], *, owner: bool, uri: str, in_background: bool = False
    ) -> None:
        super().__init__(in_background=in_background)
        self.run_id = str(header["run_id"])
        self._owner = owner
        self._uri = uri
        self._file = SpoolFile(folder, str(header.get("name", self.run_id)), {**header, "owner": owner})

    def params(self, values: Mapping[str, Any]) -> None:
        """Keep settings as dotted names."""
        self._append({"params": flatten(values)})

    def tags(self, values: Mapping[str, object]) -> None:
        """Keep words by which runs are found; a later value replaces an earlier one."""
        self._append({"tags": {name: str(value) for name, value in values.items()}})

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Keep a copy of a file, or of all files of a folder. ``ValueError`` when it is not there."""
        path = Path(path)
        if not path.exists():
            raise ValueError(f"{path} is not there, so MLflow cannot keep it; run the stage that writes it first")
        with self._turn:
            self._append({"artifact": self._file.keep(path), "folder": folder})

    def text(self, content: str, name: str) -> None:
        """Keep a text as the artifact ``name``."""
        self._append({"text": content, "as": name})

    def model(self, name: str, kind: str, weights: Path) -> None:
        """Keep a copy of trained weights, of which an MLflow model will be made. ``ValueError`` without them."""
        from drdg.tracking.models import refuse_missing

        refuse_missing(weights)
        with self._turn:
            self._append({"model": name, "kind": kind, "weights": self._file.keep(weights)})

    def inputs(self, datasets: Mapping[str, Dataset]) -> None:
        """Keep what the run learns from or looks at."""
        self._append({"inputs": {context: asdict(data) for context, data in datasets.items()}})

    def put_rows(self, rows: list[Row]) -> None:
        """Keep values that were logged elsewhere."""
        self._append({"rows": rows})

    def history(self) -> dict[str, list[tuple[int, float]]]:
        """Return every number that this handle has written, by name, as (step, value) in the order of steps."""
        found: dict[str, list[tuple[int, float]]] = {}
        for record in read_lines(self._file.path):
            for name, value, _, step in record.get("rows", ()):
                found.setdefault(name, []).append((step, value))
        return {name: sorted(values) for name, values in sorted(found.items())}

    def environment(self) -> Mapping[str, str]:
        """Return the variables by which a subprocess writes for this run, too (``Tracking.join``)."""
        return {URI_VARIABLE: self._uri, RUN_VARIABLE: self.run_id, SPOOL_VARIABLE: str(self._file.folder)}

    def close(self, status: str = "FINISHED") -> None:
        """Write what waits and how the run ended, and leave it to be fetched."""
        super().close(status)
        self._file.close()

    def _write(self, rows: list[Row]) -> None:
        self.put_rows(rows)

    def _end(self, status: str) -> None:
        if self._owner:
            self._append({"end": status, "time": int(time.time() * 1000)})

    def _is_to_end(self) -> bool:
        return self._owner

    def _append(self, record: Mapping[str, Any]) -> None:
        with self._turn:
            self._file.append(record)


def pending_header(
    name: str, parent: str | None, tags: Mapping[str, str], params: Mapping[str, Any], experiment: str
) -> dict[str, Any]:
    """Return the first line of a run that no store has yet."""
    return {
        "run_id": f"{PENDING}{uuid.uuid4().hex}",
        "name": name,
        "parent": parent,
        "tags": {key: shorten(value, 5000) for key, value in tags.items()},
        "params": flatten(params),
        "experiment": experiment,
        "time": int(time.time() * 1000),
    }


def joining_header(run_id: str) -> dict[str, Any]:
    """Return the first line of a file of values for a run that another process began."""
    return {"run_id": run_id, "restarts": None, "time": int(time.time() * 1000)}


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of a spool's file; a line that its writer did not finish is none."""
    with path.open("rb") as file:
        for line in file:
            try:
                record = json.loads(line) if line.endswith(b"\n") else None
            except ValueError:
                record = None
            if isinstance(record, dict):
                yield record


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
