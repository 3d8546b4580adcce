"""Station 6, cluster: a sweep's jobs on this machine, within its cores, by submitit's local executor.

The command hands them to a conductor, a process that outlives it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from drdg.cluster.conductor import LOCK, LOG, seen_to_end, still_runs
from drdg.cluster.executors import refuse_others
from drdg.cluster.locks import POLL_S, is_held
from drdg.cluster.machine import cores, gpus, own
from drdg.cluster.orders import Order, Orders, locked_orders, new_orders, read_orders, stale_orders, write_spec
from drdg.cluster.sbatch import resources
from drdg.cluster.state import CANCELLED, KILLED, SchedulerState, say
from drdg.cluster.work import RUN_JOB
from drdg.config.sweep import SweepConfig
from drdg.sweep.spec import JobSpec


@dataclass
class LocalSweep:
    """The executor for one machine. ``function`` is what a job runs."""

    folder: Path
    settings: SweepConfig
    function: str = RUN_JOB
    kind: str = "local"

    def submit(self, jobs: Sequence[JobSpec]) -> None:
        """See ``drdg.sweep.scheduler.Executor``. Raises ``OSError`` where no conductor can be started."""
        with locked_orders(self.folder) as orders:
            refuse_others(orders, self.kind, self.settings)
            alive = self._alive(orders)
            stale = stale_orders(jobs, alive)
            for order in stale:
                say(f"{order.key}: cancelled, as it has changed or what it needs is run again")
            self._end(orders, stale)
            alive = {key: order for key, order in alive.items() if order not in stale}
            new = [job for job in jobs if job.key not in alive]
            not_done = {*alive, *(job.key for job in new)}
            for job in new:
                write_spec(job)
            orders.add(order for job in new for order in self._orders(job, not_done))
        self._ensure_conductor()

    def states(self) -> dict[str, SchedulerState]:
        """See ``drdg.sweep.scheduler.Executor``."""
        is_conducted = is_held(self.folder / LOCK)  # first: when it ends all its jobs have
        return {
            key: self._state(order, is_conducted) for key, order in read_orders(self.folder).latest(self.kind).items()
        }

    def cancel(self, keys: Iterable[str]) -> int:
        """See ``drdg.sweep.scheduler.Executor``."""
        wanted = set(keys)
        with locked_orders(self.folder) as orders:
            ending = [order for key, order in self._alive(orders).items() if key in wanted]
            self._end(orders, ending)
        self._ensure_conductor()
        return len(ending)

    def describe(self, jobs: Sequence[JobSpec]) -> str:
        """See ``drdg.sweep.scheduler.Executor``."""
        most = len(self._cores())
        lines = [f"On this machine, on at most {most} cores, logs in {self.folder / 'logs'}:"]
        for job in jobs:
            most_gpus = resources(self.settings, job.stage).gpus
            needs = f" after {', '.join(job.needs)}" if job.needs else ""
            lines.append(f"{job.key}: {self._cores_of(job)} cores, up to {most_gpus} GPUs{needs}")
        return "\n".join(lines) + "\n"

    def _orders(self, job: JobSpec, not_done: set[str]) -> list[Order]:
        return new_orders(
            self.kind,
            job.key,
            [job],
            needs=tuple(need for need in job.needs if need in not_done),
            function=self.function,
            folder=str(Path.cwd()),
            cores=self._cores_of(job),
            gpus=resources(self.settings, job.stage).gpus,
        )

    def _cores(self) -> list[int]:
        return cores()[: self.settings.local_cores]

    def _cores_of(self, job: JobSpec) -> int:
        wanted = self.settings.local_cores_per_job
        most = len(self._cores())
        if wanted is None:
            wanted = int(job.config.get("distributed", {}).get("processes", 1)) if job.stage == "gan" else 1
            if (on_gpus := min(resources(self.settings, job.stage).gpus, self._gpus)) > 0:
                # GPUs let no more jobs run, so that each has its share of the cores to feed its own.
                wanted = max(wanted, most // self._gpus * on_gpus)
        return min(wanted, most)

    @cached_property
    def _gpus(self) -> int:
        """How many there are here. Raises ``ValueError`` where CUDA_VISIBLE_DEVICES names one that is not there."""
        return len(gpus())

    def _alive(self, orders: Orders) -> dict[str, Order]:
        """Those that go on: one that is asked to end does not, and the conductor waits for it before the next start."""
        latest = orders.latest(self.kind)
        return {key: order for key, order in latest.items() if not order.ended and not order.cancelled_at}

    def _end(self, orders: Orders, ending: Sequence[Order]) -> None:
        tokens = {order.token for order in ending}
        orders.change(
            lambda order: order.token in tokens and order.state == "waiting", state="ended", ended=CANCELLED, reason=""
        )
        orders.change(lambda order: order.token in tokens and order.state == "running", cancelled_at=time.time())
        orders.save()

    def _state(self, order: Order, is_conducted: bool) -> SchedulerState:
        if not is_conducted and not order.ended:
            if order.state == "running" and not still_runs(self.folder, order):
                order = seen_to_end(self.folder, order)
            if order.state == "waiting":
                # Nobody will begin it; the same command again does.
                why = f"the process that was to begin it has ended; {self.folder / LOG} may say why"
                return SchedulerState("ended", f"{KILLED}: {why}", order.job_id, order.log(self.folder), order.digest)
        words = [order.ended, order.reason] if order.ended else [order.reason]
        if order.cancelled_at and not order.ended:
            words = [CANCELLED, "asked to end"]
        reason = ": ".join(word for word in words if word)
        return SchedulerState(order.state, reason, order.job_id, order.log(self.folder), order.digest)

    def _ensure_conductor(self) -> None:
        if all(order.ended for order in read_orders(self.folder).orders if order.kind == self.kind):
            return
        if is_held(self.folder / LOCK):
            return  # it reads the orders again before it ends
        path = self.folder / LOG
        command = [sys.executable, "-m", "drdg.cluster.conductor", str(self.folder)]
        settings = [str(self.settings.local_cores or 0), str(self.settings.signal_s)]
        with path.open("ab") as log:
            started = subprocess.Popen(
                [*command, *settings],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=own(os.environ),
                start_new_session=True,  # Ctrl-C and a terminal that is closed are the command's
            )
        while not is_held(self.folder / LOCK):
            if (status := started.poll()) is not None:
                if status:
                    last = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
                    raise OSError(f"{path}: no jobs can be begun: {''.join(last)}")
                return  # another was faster, or all is done
            time.sleep(POLL_S)
