"""Station 6, cluster: the process that begins a sweep's jobs on this machine, each when what it needs is done and there
are cores for it.

It has no terminal and outlives the command that starts it. When it is killed its jobs go on, and the next one takes
them over. It ends when nothing is left to do.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psutil
from submitit import LocalExecutor

from drdg.cluster.locks import POLL_S, Held, alive, holder_here, is_held, try_hold
from drdg.cluster.machine import cores, gpus, pinned
from drdg.cluster.orders import Order, Orders, locked_orders, read_spec
from drdg.cluster.state import BLOCKED, CANCELLED, COMPLETED, FAILED, KILLED, logs_of
from drdg.cluster.work import LOCK as JOB_LOCK
from drdg.cluster.work import Work, place_of
from drdg.sweep.notes import read_note
from drdg.sweep.spec import REPORT

LOCK, LOG = "conductor.lock", "conductor.log"
# There is no time limit here, but submitit's executor has one: ten years.
ENDLESS_MIN = 10 * 366 * 24 * 60
# Whoever looks whether a conductor is there holds its lock for an instant.
TRIES = 5


def still_runs(folder: Path, order: Order) -> bool:
    """Whether a job that was begun has not ended: the process that watches over it, or what does the work, is there."""
    return alive(order.pid, order.began) is not None or is_held(place_of(folder, order.key) / JOB_LOCK)


def seen_to_end(folder: Path, order: Order) -> Order:
    """The order of a job that runs no more: how it ended by its own note, or that it is to begin again."""
    note = read_note(place_of(folder, order.key))
    if note is not None and note.is_done(order.digest):
        return replace(order, state="ended", ended=COMPLETED)
    if order.cancelled_at:
        return replace(order, state="ended", ended=CANCELLED)
    said = note.said if note is not None and note.digest == order.digest else ""
    if said == "again":
        return replace(order, state="waiting", reason="begins again", pid=0, began=0.0, on_cores=(), on_gpus=())
    return replace(order, state="ended", ended=FAILED if said == "failed" else KILLED)


class Conductor:
    """Begins, watches and ends jobs on ``cores`` and ``gpus``; one asked to end has ``patience_s`` to save."""

    def __init__(self, folder: Path, cores: list[int], gpus: list[int], patience_s: float):
        self.folder, self.cores, self.gpus, self.patience_s = folder, cores, gpus, patience_s
        self._told: set[str] = set()
        self._asked_to_end: set[str] = set()

    def run(self, held: Held) -> None:
        """Until nothing is left; then let go of what says that there is a conductor."""
        while True:
            _reap()
            with locked_orders(self.folder, quiet=True) as orders:
                before = list(orders.orders)
                self._look(orders)
                self._begin_ready(orders)
                if orders.orders != before:
                    orders.save()
                if all(order.ended for order in orders.orders if order.kind == "local"):
                    held.release()  # before anybody can add an order, who then starts the next conductor
                    return
            time.sleep(POLL_S)

    def _look(self, orders: Orders) -> None:
        looked = []
        for order in orders.orders:
            if order.kind == "local" and order.state == "running" and not order.ended:
                if still_runs(self.folder, order):
                    self._end_if_asked(order)
                else:
                    order = seen_to_end(self.folder, order)
                    _say(f"{order.key}: {order.ended or order.reason}")
            looked.append(order)
        orders.orders = looked

    def _end_if_asked(self, order: Order) -> None:
        """By a word at first, which a training answers by saving; the processes' death when it takes too long."""
        if not order.cancelled_at:
            return
        top = [alive(order.pid, order.began), holder_here(place_of(self.folder, order.key) / JOB_LOCK)]
        processes = [process for process in top if process is not None]
        if order.token not in self._asked_to_end:
            self._asked_to_end.add(order.token)
            _say(f"{order.key}: asked to end")
            _signal(processes[:1], signal.SIGTERM)  # the first passes it on
        elif time.time() - order.cancelled_at > self.patience_s:
            below = [child for process in processes for child in _children(process)]
            _signal([*processes, *below], signal.SIGKILL)

    def _begin_ready(self, orders: Orders) -> None:
        for order in orders.orders:
            if order.kind != "local" or order.ended or order.state != "waiting":
                continue
            latest = orders.latest("local")
            needed = [latest[need] for need in order.needs if need in latest]
            if order.stage != REPORT and (bad := [need for need in needed if need.ended not in ("", COMPLETED)]):
                reason = f"needs {bad[0].key}, which has not succeeded"
                _put(orders, replace(order, state="ended", ended=BLOCKED, reason=reason))
            elif not all(need.ended for need in needed):
                _put(orders, replace(order, reason="what it needs is not done"))
            elif any(other.key == order.key and other.state == "running" for other in orders.orders if not other.ended):
                _put(orders, replace(order, reason="an earlier start of it is ending"))
            elif (begun := self._begin(orders, order)) is None:
                # Nothing that comes later overtakes it, or a job for many cores might wait for ever.
                _put(orders, replace(order, reason="no cores are free"))
                return
            else:
                _put(orders, begun)
                orders.save()

    def _begin(self, orders: Orders, order: Order) -> Order | None:
        """The order of the job, begun; None where there are not enough cores or GPUs for it now."""
        place = place_of(self.folder, order.key)
        note = read_note(place)
        if note is not None and note.is_done(order.digest):
            return replace(order, state="ended", ended=COMPLETED)
        busy = [other for other in orders.orders if other.state == "running" and not other.ended]
        on_cores = _free(self.cores, (core for other in busy for core in other.on_cores), order.cores)
        on_gpus = _free(self.gpus, (gpu for other in busy for gpu in other.on_gpus), order.gpus)
        if on_cores is None or on_gpus is None:
            return None
        begun = replace(order, state="running", reason="", on_cores=on_cores, on_gpus=on_gpus)
        if is_held(place / JOB_LOCK):
            if note is None or note.digest != order.digest:
                return None  # an earlier one, with other settings, that is just ending
            _say(f"{order.key}: runs already")  # begun by a conductor that was killed before it could write that down
            return begun
        try:
            spec = read_spec(place)
        except (OSError, ValueError, TypeError) as error:
            return replace(order, state="ended", ended=KILLED, reason=f"cannot be begun: {error}")
        executor = LocalExecutor(logs_of(self.folder, order.token))
        executor.update_parameters(
            timeout_min=ENDLESS_MIN, gpus_per_node=len(on_gpus), visible_gpus=on_gpus, stderr_to_stdout=True
        )
        with pinned(on_cores):
            job = executor.submit(Work(order.function, order.folder), spec)
        _say(f"{order.key}: begun as process {job.job_id} on cores {', '.join(map(str, on_cores))}")
        return replace(begun, job_id=job.job_id, pid=int(job.job_id), began=_began(int(job.job_id)))


def _free(all_of: list[int], taken: Iterable[int], wanted: int) -> tuple[int, ...] | None:
    """So many that are not taken; who wants more than there are gets all."""
    wanted = min(wanted, len(all_of))
    free = sorted(set(all_of) - set(taken))
    return tuple(free[:wanted]) if len(free) >= wanted else None


def _put(orders: Orders, changed: Order) -> None:
    orders.orders = [changed if order.token == changed.token else order for order in orders.orders]


def _began(pid: int) -> float:
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.NoSuchProcess:
        return 0.0


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return list(process.children(recursive=True))
    except psutil.NoSuchProcess:
        return []


def _signal(processes: Iterable[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def _reap() -> None:
    """Take note of the ends of jobs that this process has begun, so that they are not there any more."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _say(words: str) -> None:
    print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {words}", flush=True)


def main(folder: str, most_cores: str, patience_s: str) -> None:
    """Conduct the sweep in ``folder`` unless another process does."""
    place = Path(folder)
    # Before it holds the lock, which tells the command that all is well: here is what may go wrong.
    conductor = Conductor(place, cores()[: int(most_cores) or None], gpus(), float(patience_s))
    for _ in range(TRIES):
        if (held := try_hold(place / LOCK)) is not None:
            conductor.run(held)
            return
        time.sleep(POLL_S)


if __name__ == "__main__":
    main(*sys.argv[1:])
