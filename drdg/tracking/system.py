"""Station 6, tracking: what the machine of a run does meanwhile: its cores, memory, disk, network and GPUs.

MLflow has monitors for that, and a thread of its own that asks the store at each sample and goes past our batches; so
the monitors are its, and the thread is ours.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from drdg.tracking.base import Handle, NullHandle

PREFIX = "system/"
"""Before MLflow's names, in which are the units, as in its own runs."""
EVERY_S = 10.0
SAMPLES = 6
"""Samples of which each logged value is the mean."""


@contextmanager
def watch_system(handle: Handle, every_s: float = EVERY_S, samples: int = SAMPLES) -> Iterator[None]:
    """Log what the machine does while the block lasts, under ``system/``, at steps that count on from an earlier
    attempt's. Whatever fails here ends the watching, with a word on standard error, and nothing else.
    """
    if isinstance(handle, NullHandle):
        yield
        return
    ending = threading.Event()
    thread = threading.Thread(target=_watch, args=(handle, ending, every_s, samples), name="system", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ending.set()
        # A sample takes no time, but a disk or a store that hangs must not hold up the end of a job.
        thread.join(timeout=every_s)


def next_step(steps: Iterable[int | None]) -> int:
    """The step after the last of ``steps``."""
    return max((step + 1 for step in steps if step is not None), default=0)


def _watch(handle: Handle, ending: threading.Event, every_s: float, samples: int) -> None:
    try:
        monitors = _monitors()
        step: int | None = None
        while True:  # at least once: a stage may be over at once
            for _ in range(samples):
                for monitor in monitors:
                    monitor.collect_metrics()
                if ending.wait(every_s):
                    break
            values = {}
            for monitor in monitors:
                values.update({f"{PREFIX}{name}": value for name, value in monitor.aggregate_metrics().items()})
                monitor.clear_metrics()
            if step is None:
                step = next_step(handle.last_step(name) for name in values)
            handle.log(values, step)
            step += 1
            if ending.is_set():
                return
    except Exception as error:  # of a driver, a container's /proc, a store that is away: none is the job's business
        print(f"warning: the machine is not watched any more: {error!r}", file=sys.stderr, flush=True)


def _monitors() -> list[Any]:
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor
    from mlflow.system_metrics.metrics.rocm_monitor import ROCMMonitor

    logging.getLogger("mlflow.system_metrics").setLevel(logging.ERROR)
    monitors: list[Any] = []
    for kind in (CPUMonitor, DiskMonitor, NetworkMonitor, GPUMonitor, ROCMMonitor):
        try:
            monitors.append(kind())
        except Exception:  # each says in its own way that there is nothing for it here
            logging.getLogger(__name__).debug("no %s", kind.__name__, exc_info=True)
    return monitors
