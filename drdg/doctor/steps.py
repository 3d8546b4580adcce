"""Station 6, doctor: what a rank can be asked, and how it is done so that it ends."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from drdg.doctor import (
    arrivals,
    clocks,
    files,
    interfaces,
    limits,
    links,
    locks,
    names,
    networks,
    processors,
    signals,
    software,
    store,
    tiles,
)
from drdg.doctor.context import Context
from drdg.doctor.timed import within

DISK = "see whether the disk of that folder hangs or is full on that node (df, dmesg), and mount it again"
# Where in its own source gloo stopped.
NOISE = re.compile(r"\[enforce fail at \S+\] .*?\. ")
FOREIGN = "see that node's load and logs (uptime, dmesg), or leave it out (sbatch --exclude)"


@dataclass(frozen=True)
class Step:
    """Something that is measured on a rank."""

    check: str
    """The check of the page that it is for."""
    probe: Callable[..., dict[str, Any]]
    """Called with the rank's context and what rank 0 says; gives plain values."""
    cure: str = FOREIGN
    """What helps when it does not end, in a sentence."""
    patience: float = 1.0
    """How many times the time of a step that takes none: loading libraries takes some."""
    in_main_thread: bool = False
    """It ends by itself, and must be where Python's signal handlers run."""


STEPS = {
    "settings": Step(arrivals.SETTINGS, arrivals.probe_settings),
    "agent": Step(arrivals.PORT, arrivals.probe_agent),
    "software": Step(
        software.CHECK,
        software.probe,
        "see whether the disk of the Python environment hangs, or start python -c 'import torch' on that node",
        patience=6,
    ),
    "names": Step(
        names.CHECK,
        names.probe,
        "see which name server of /etc/resolv.conf does not answer, or put all nodes into /etc/hosts",
        patience=2,
    ),
    "interfaces": Step(interfaces.CHECK, interfaces.probe),
    "clock": Step(clocks.CHECK, clocks.probe),
    "signals": Step(signals.CHECK, signals.probe, in_main_thread=True),
    "networks": Step(arrivals.SETTINGS, networks.probe, patience=6),
    "files.begin": Step(files.SHARED, files.probe_begin, DISK),
    "files.look": Step(files.SHARED, files.probe_look, DISK),
    "files.gather": Step(files.SHARED, files.probe_gather, DISK),
    "files.speed": Step(files.SPEED, files.probe_speed, DISK, patience=3),
    "files.clear": Step(files.SHARED, files.probe_clear, DISK),
    "locks.take": Step(locks.CHECK, locks.probe_take, "see that the file server's lock service runs (NFS: rpc.statd)"),
    "locks.try": Step(locks.CHECK, locks.probe_try, "see that the file server's lock service runs (NFS: rpc.statd)"),
    "locks.drop": Step(locks.CHECK, locks.probe_drop),
    "tiles": Step(tiles.CHECK, tiles.probe, DISK, patience=6),
    "store": Step(
        store.CHECK, store.probe, "see whether its server or disk answers, or set tracking.uri to another", patience=6
    ),
    "processors": Step(
        processors.GPUS, processors.probe, "see that nvidia-smi answers on that node, or leave it out", patience=3
    ),
    "limits": Step(limits.CHECK, limits.probe),
    "links": Step(
        links.CHECK,
        links.probe,
        "open all ports between nodes to TCP, and set GLOO_SOCKET_IFNAME or NCCL_SOCKET_IFNAME to their network",
        patience=3,
    ),
}
LONGEST = max(step.patience for step in STEPS.values())


def perform(context: Context, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """The outcome of a step: its ``value``, or an ``error`` in words, and whether it ``hung``."""
    step = STEPS[name]
    seconds = step.patience * context.timeout
    try:
        if step.in_main_thread:
            return {"value": step.probe(context, **arguments)}
        return {"value": within(seconds, lambda: step.probe(context, **arguments))}
    except TimeoutError as error:
        return {"error": str(error), "hung": True}
    except (ValueError, OSError) as error:
        return {"error": _first_line(error)}
    except Exception as error:  # of torch, of a driver: the page is to say it, and go on
        return {"error": f"{type(error).__name__}: {_first_line(error)}"}


def _first_line(error: Exception) -> str:
    return NOISE.sub("", (str(error).strip().splitlines() or [type(error).__name__])[0])
