"""Station 6, doctor: whether a lock that one node holds keeps the others out, as sqlite needs it."""

from __future__ import annotations

import fcntl
from collections.abc import Sequence
from typing import IO, Any

from drdg.doctor.answers import Answer, named
from drdg.doctor.context import Context
from drdg.doctor.files import folder
from drdg.doctor.finding import Finding, bad, ok, warning

CHECK = "locks"
KINDS = ("lockf", "flock")
"""POSIX locks are sqlite's, and with it MLflow's; the others the copies' of remote shards (``shards.cache``)."""
GRANTED, HELD = "granted", "held"


def probe_take(context: Context, token: str) -> dict[str, Any]:
    """Rank 0 takes a lock of each kind and keeps it."""
    outcome = {}
    kept: list[IO[bytes]] = context.kept.setdefault("locks", [])
    for kind in KINDS:
        file = (folder(context, "run", token) / kind).open("wb")
        kept.append(file)
        outcome[kind] = _lock(file, kind)
    return outcome


def probe_try(context: Context, token: str) -> dict[str, Any]:
    """Another rank tries for them, and lets go at once."""
    outcome = {}
    for kind in KINDS:
        with (folder(context, "run", token) / kind).open("r+b") as file:
            outcome[kind] = _lock(file, kind)
    return outcome


def probe_drop(context: Context, token: str) -> dict[str, Any]:
    """Rank 0 lets go."""
    for file in context.kept.pop("locks", []):
        file.close()
    return {}


def judge(taken: Answer, during: Sequence[Answer], after: Sequence[Answer]) -> list[Finding]:
    """Whether the lock was to be had, kept the others out while it was held, and no longer than that."""
    found = []
    for kind in KINDS:
        judgement = bad if kind == "lockf" else warning
        what = "sqlite (MLflow)" if kind == "lockf" else "copies of remote shards"
        cure = f"mount the file system with locking (NFS: without nolock; Lustre: -o flock); {what} needs it"
        if taken.value[kind] != GRANTED:
            found.append(judgement(CHECK, f"{kind} in run.root: {_said(taken.value[kind])}", cure))
            continue
        intruders = [answer.who for answer in during if answer.value[kind] == GRANTED]
        if intruders:
            measured = f"{kind} in run.root: {named(intruders)} got the lock that rank 0 held"
            found.append(judgement(CHECK, measured, cure))
        failed = [answer for answer in (*during, *after) if answer.value[kind] not in (GRANTED, HELD)]
        if failed:
            measured = f"{kind} in run.root: {_said(failed[0].value[kind])} for {named(a.who for a in failed)}"
            found.append(judgement(CHECK, measured, cure))
        stuck = [answer.who for answer in after if answer.value[kind] == HELD]
        if stuck:
            measured = f"{kind} in run.root: still held for {named(stuck)} after rank 0 let go"
            found.append(judgement(CHECK, measured, cure))
    if found:
        return found
    hosts = {answer.who.host for answer in (taken, *during)}
    shared = f", and keep out {len(hosts) - 1} other node{'s' * (len(hosts) > 2)}" if len(hosts) > 1 else ""
    shared = shared or (", and keep out other ranks" if during else "")
    return [ok(CHECK, f"{' and '.join(KINDS)} work in run.root{shared}")]


def _lock(file: IO[bytes], kind: str) -> str:
    try:
        (fcntl.lockf if kind == "lockf" else fcntl.flock)(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # EAGAIN or, from some systems, EACCES
        return HELD
    except OSError as error:
        return str(error.strerror or error)
    return GRANTED


def _said(outcome: str) -> str:
    return "somebody else holds it" if outcome == HELD else outcome
