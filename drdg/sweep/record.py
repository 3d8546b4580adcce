"""Station 6, sweep: what a sweep writes down of itself, in its folder and in MLflow, before any job starts."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import drdg
from drdg.config import Config, digest
from drdg.experiments import config_of, find_row
from drdg.files import json_text, whole_file
from drdg.sweep.plan import Cell, Sweep, with_parents
from drdg.sweep.spec import REPORT
from drdg.tracking.store import URI_VARIABLE, given_uri

if TYPE_CHECKING:
    from drdg.tracking import Tracking

RECORD, LOCK = "sweep.json", "sweep.lock"
VERSION = 1
PIPELINES = "report.json"


def read_record(folder: Path) -> dict[str, Any] | None:
    """What an earlier start of the command has written; None where there was none.

    Raises ``ValueError`` when it cannot be read, or is of another version.
    """
    path = folder / RECORD
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        version = record["version"]
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path}: is no record of a sweep; remove it, and the same command goes on") from error
    if version != VERSION:
        raise ValueError(
            f"{path}: is of version {version}, not {VERSION}; take the drdg that wrote it, or another --name"
        )
    assert isinstance(record, dict)
    return record


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Write ``sweep.json``, whole or not at all, and for its owner alone: the store's address may hold a password.

    Raises ``OSError`` when it cannot be written.
    """
    with whole_file(folder / RECORD) as file:
        os.fchmod(file.fileno(), 0o600)  # before there is anything to read
        file.write(json_text(record).encode())


def current_uri(folder: Path, default: str | None) -> str | None:
    """Where the store of the sweep in ``folder`` is now; ``default`` where ``sweep.json`` does not say."""
    try:
        uri = json.loads((folder / RECORD).read_text(encoding="utf-8"))["uri"]
    except (OSError, ValueError, TypeError, KeyError):
        return default
    return uri if isinstance(uri, str) else default


def typed_uri(config: Config, folder: Path) -> str | None:
    """Where the user says that the store is, by ``tracking.uri`` or the environment; None where neither says it.

    Raises ``ValueError`` for what is no store.
    """
    is_said = config.tracking.uri or os.environ.get(URI_VARIABLE)
    return given_uri(config.tracking.uri, folder)[0] if is_said else None


def relocated(folder: Path, tracking: Tracking) -> dict[str, Any]:
    """The record of the sweep in ``folder``, with the address of ``tracking``, which is written down where it is new.

    Raises ``ValueError`` when that store has not the sweep's run or another start of the command is at work,
    ``OSError`` when the file cannot be written.
    """
    with starting(folder):
        record = read_record(folder)
        assert record is not None, folder
        if record["uri"] != tracking.uri:
            _refuse_another_store(folder, record, tracking)
            record["uri"] = tracking.uri
            write_record(folder, record)
    return record


def refuse_another(folder: Path, name: str, record: Mapping[str, Any] | None) -> None:
    """Raise ``ValueError`` when the folder holds something that is not this sweep."""
    if record is None:
        if (folder / PIPELINES).is_file():
            raise ValueError(f"{folder}: holds a run of launch/pipeline.py; choose another --name")
        return
    there = Path(str(record.get("folder")))
    is_same = there.is_dir() and there.samefile(folder)
    if record.get("name") != name or not is_same:
        raise ValueError(
            f"{folder}: holds the sweep {record.get('name')} of {there}, whose results are known by that place; "
            "move it back, or choose another --name"
        )


def adopted(sweep: Sweep, record: Mapping[str, Any] | None) -> Sweep:
    """The plan, whose report has the digest that an earlier start has given it, where it is the same report."""
    report = {} if record is None else record.get("jobs", {}).get(REPORT, {})
    if report.get("of") != sweep.jobs[REPORT].digest:
        return sweep
    return _with_report(sweep, report["digest"])


def renewed(sweep: Sweep, base: Sweep) -> Sweep:
    """The plan with a report that differs from all before: other jobs are to end before it. ``base``: as planned."""
    return _with_report(sweep, digest([base.jobs[REPORT].digest, time.time_ns()]))


def _with_report(sweep: Sweep, known_by: str) -> Sweep:
    return replace(sweep, jobs={**sweep.jobs, REPORT: replace(sweep.jobs[REPORT], digest=known_by)})


def describe(sweep: Sweep, base: Sweep, runs: Mapping[str, str], uri: str) -> dict[str, Any]:
    """What ``sweep.json`` holds; ``runs``: run ids by cell's key, and the sweep's own under ``""``."""
    jobs: dict[str, Any] = {
        key: {"stage": job.stage, "digest": job.digest, "needs": list(job.needs)} for key, job in sweep.jobs.items()
    }
    jobs[REPORT]["of"] = base.jobs[REPORT].digest
    return {
        "version": VERSION,
        "name": sweep.name,
        "folder": str(sweep.folder),
        "uri": uri,
        "experiment": sweep.experiment,
        "run_id": runs[""],
        "preset": sweep.preset,
        "directions": [direction.name for direction in sweep.directions],
        "rows": list(sweep.rows),
        "seeds": list(sweep.seeds),
        "cells": [
            {
                "key": cell.key,
                "direction": cell.direction,
                "row": cell.row,
                "seed": cell.seed,
                "run_id": runs[cell.key],
                "evaluate": cell.evaluate,
                "digest": sweep.jobs[cell.evaluate].digest,
                "jobs": list(cell.jobs),
            }
            for cell in sweep.asked_cells
        ],
        "helpers": {cell.key: runs[cell.key] for cell in sweep.cells if not cell.is_asked},
        "jobs": jobs,
    }


@contextmanager
def starting(folder: Path) -> Iterator[None]:
    """Make the folder and keep other starts of the command away from it within the block.

    Raises ``ValueError`` when one is at work, ``OSError`` when the folder cannot be written.
    """
    import fcntl

    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(
                f"{folder}: another launch/sweep.py is just starting this sweep's jobs; wait until it shows its table"
            ) from error
        yield


def place(sweep: Sweep, base: Sweep, record: Mapping[str, Any] | None, tracking: Tracking) -> Sweep:
    """Make the MLflow runs of the sweep and its cells, unless they are there, and write ``sweep.json``.

    Returns the plan with the runs in its jobs. Raises ``ValueError`` when the store cannot be written, ``OSError`` when
    the file cannot.
    """
    from drdg.tracking import git_state

    if record is not None:
        _refuse_another_experiment(sweep, record)
        _refuse_another_store(sweep.folder, record, tracking)
    git = git_state(Path(drdg.__file__).parents[1])
    runs = {"": _place_sweep(sweep, record, tracking, git)}
    for cell in sweep.cells:
        runs[cell.key] = tracking.place(cell.key, runs[""], {**_tags(sweep, cell), **git}, _params(cell, tracking))
    described = describe(sweep, base, runs, tracking.uri)
    write_record(sweep.folder, described)
    shown = {**described, "uri": tracking.shown}  # others may read it there, and in the files of a scheduler
    tracking.join(runs[""]).text(json_text(shown), RECORD)
    return with_parents(sweep, runs, shown)


def _refuse_another_experiment(sweep: Sweep, record: Mapping[str, Any]) -> None:
    if record["experiment"] != sweep.experiment:
        raise _elsewhere(sweep.folder, f"tracking.experiment={record['experiment']}")


def _refuse_another_store(folder: Path, record: Mapping[str, Any], tracking: Tracking) -> None:
    """Raise ``ValueError`` when an earlier start has kept its runs elsewhere: a report could not find both.

    Another address is none: a server may come back on another node.
    """
    if record["uri"] != tracking.uri and not tracking.has_run(str(record["run_id"])):
        raise _elsewhere(folder, f"tracking.uri={given_uri(record['uri'], folder)[1]}")


def _elsewhere(folder: Path, there: str) -> ValueError:
    return ValueError(f"{folder}: the runs of this sweep are kept in {there}; set that again, or take another --name")


def _place_sweep(sweep: Sweep, record: Mapping[str, Any] | None, tracking: Tracking, git: Mapping[str, object]) -> str:
    tags: dict[str, object] = {
        "drdg.kind": "sweep",
        "drdg.row": ",".join(sweep.rows),
        "drdg.seed": ",".join(map(str, sweep.seeds)),
        "drdg.direction": ",".join(direction.name for direction in sweep.directions),
        "drdg.preset": sweep.preset,
        "drdg.digest": digest([sweep.name, str(sweep.folder)]),
        **git,
    }
    if record is not None:
        # With more rows or seeds than before it is still the same sweep.
        run_id = str(record["run_id"])
        tracking.join(run_id).tags(tags)
        return run_id
    params = {
        "name": sweep.name,
        "folder": str(sweep.folder),
        "rows": ",".join(sweep.rows),
        "seeds": ",".join(map(str, sweep.seeds)),
    }
    return tracking.place(sweep.name, None, tags, params)


def _tags(sweep: Sweep, cell: Cell) -> dict[str, object]:
    return {
        "drdg.kind": "cell",
        "drdg.row": cell.row,
        "drdg.seed": cell.seed,
        "drdg.direction": cell.direction,
        "drdg.preset": cell.config.preset,
        "drdg.digest": digest(["cell", cell.key]),
    }


def _params(cell: Cell, tracking: Tracking) -> dict[str, Any]:
    own: Config = config_of(find_row(cell.row), cell.config)
    values = own.model_dump(mode="json")
    values["tracking"]["uri"] = tracking.shown
    return values
