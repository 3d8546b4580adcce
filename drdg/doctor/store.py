"""Station 6, doctor: whether MLflow's store can be written, and whether it lies where it may."""

from __future__ import annotations

import time
from typing import Any

from drdg.doctor.answers import Answer, milliseconds
from drdg.doctor.context import Context, nearest
from drdg.doctor.finding import Finding, bad, ok, warning
from drdg.doctor.mounts import is_network, kind

CHECK = "tracking"


def probe(context: Context) -> dict[str, Any]:
    """Where the store is, on which file system, whether it is there yet, and why it cannot be used."""
    from drdg.tracking.probe import probe_store

    tracking = context.config.tracking
    began = time.perf_counter()
    try:
        state = probe_store(tracking.uri, context.config.run.directory)
    except ValueError as error:
        return {"error": str(error)}
    on = "" if state.database is None else kind(nearest(state.database.parent))
    seconds = time.perf_counter() - began
    return {"error": "", "shown": state.shown, "is_there": state.is_there, "kind": on, "seconds": seconds}


def judge(answer: Answer, several_nodes: bool) -> list[Finding]:
    """What rank 0, which alone writes to the store, found."""
    value = answer.value
    if value["error"]:
        said, _, cure = value["error"].partition("; ")
        return [bad(CHECK, said, cure or "mend the store, or set tracking.uri to another")]
    state = "can be read and locked for writing" if value["kind"] else "answers"
    measured = f"{value['shown']} {state}" if value["is_there"] else f"{value['shown']} will be made by the first run"
    measured += f" ({milliseconds(value['seconds'])}{', on ' + value['kind'] if value['kind'] else ''})"
    if is_network(value["kind"]):
        # sqlite.org, "How To Corrupt An SQLite Database File", section 2.1, and its FAQ 5.
        cure = (
            "set tracking.uri to an MLflow server, or to an sqlite file on a disk of the node; on a network's file "
            "system sqlite is slow and can be damaged"
        )
        return [warning(CHECK, measured, cure)]
    if value["kind"] and several_nodes and value["kind"] in ("tmpfs", "ramfs"):
        cure = "set tracking.uri to a place that is there when the job continues on other nodes"
        return [warning(CHECK, measured, cure)]
    return [ok(CHECK, measured)]
