"""Station 6, cluster: a sweep's jobs on Slurm, handed in by submitit, each once."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from submitit import SlurmExecutor
from submitit.core.utils import DelayedSubmission, FailedJobError, FailedSubmissionError, JobPaths

from drdg.cluster import asking, sbatch
from drdg.cluster.executors import refuse_others
from drdg.cluster.locks import try_hold
from drdg.cluster.machine import changed_environment, own
from drdg.cluster.orders import (
    LOCK,
    Order,
    Orders,
    locked_orders,
    new_orders,
    read_orders,
    read_spec,
    stale_orders,
    write_spec,
)
from drdg.cluster.packing import Batch, dependency, pack
from drdg.cluster.state import CANCELLED, COMPLETED, Alive, SchedulerState, logs_of, say
from drdg.cluster.work import RUN_JOB, Work, place_of
from drdg.config.sweep import SweepConfig
from drdg.sweep.notes import read_note
from drdg.sweep.spec import JobSpec

# Through a network file system a job's last words may be seen so much later than its end.
ENDING_S = 60.0


@dataclass
class SlurmSweep:
    """The executor for a cluster. ``function`` is what each process of a job runs."""

    folder: Path
    settings: SweepConfig
    function: str = RUN_JOB
    kind: str = "slurm"
    ending_s: float = ENDING_S

    def __post_init__(self) -> None:
        self._known: dict[str, SchedulerState] = {}
        """The last that Slurm has said, by its number, for when it does not answer."""
        self._completed: dict[str, float] = {}
        """When it was first seen in the queue, by its number, that a job has succeeded."""

    def submit(self, jobs: Sequence[JobSpec]) -> None:
        """See ``drdg.sweep.scheduler.Executor``.

        Raises ``OSError`` where Slurm does not answer and ``ValueError`` where it refuses a job. What was handed in
        before stays so, and the same call goes on from there.
        """
        if SlurmExecutor.affinity() < 0:
            raise ValueError("there is no Slurm here, as srun is not on PATH; take --executor local")
        with locked_orders(self.folder) as orders:
            refuse_others(orders, self.kind, self.settings)
            self._adopt(orders)
            alive = self._alive(orders)
            stale = stale_orders(jobs, alive)
            if stale:
                for order in stale:
                    say(f"{order.key}: cancelled (job {order.job_id}), as it has changed or what it needs is run again")
                self._end(orders, stale)
                alive = {key: order for key, order in alive.items() if order not in stale}
            new = [job for job in jobs if job.key not in alive]
            numbers = {key: order.job_id for key, order in alive.items()}
            batches = pack(new, numbers)
            given: dict[int, str] = {}
            with changed_environment(own(os.environ)):
                for number, batch in enumerate(batches):
                    given[number] = self._give(orders, batch, dependency(batch, given, batches))

    def states(self) -> dict[str, SchedulerState]:
        """See ``drdg.sweep.scheduler.Executor``. Where Slurm does not answer it is what it has said last."""
        orders = read_orders(self.folder)
        if self._intended(orders) and (held := try_hold(self.folder / LOCK)) is not None:
            # Of a command that was killed: who is still at it holds that.
            try:
                orders = read_orders(self.folder)
                self._adopt(orders)
            except asking.Away:
                pass
            finally:
                held.release()
        return self._states(orders)

    def cancel(self, keys: Iterable[str]) -> int:
        """See ``drdg.sweep.scheduler.Executor``. Raises ``OSError`` where Slurm does not answer."""
        wanted = set(keys)
        with locked_orders(self.folder) as orders:
            self._adopt(orders)
            ending = [order for key, order in self._alive(orders).items() if key in wanted]
            self._end(orders, ending)
        return len(ending)

    def describe(self, jobs: Sequence[JobSpec]) -> str:
        """See ``drdg.sweep.scheduler.Executor``."""
        batches = pack(jobs, {})

        def name_of(batch: Batch) -> str:
            return f"drdg-{batch.name.replace('/', '-')}-{batches.index(batch)}"

        return sbatch.described(self.settings, self.folder, batches, name_of, str(Path.cwd()))

    # What is alive

    def _states(self, orders: Orders, must_answer: bool = False) -> dict[str, SchedulerState]:
        """Raises ``Away``, an ``OSError``, if Slurm ``must_answer`` and does not."""
        latest = orders.latest(self.kind)
        asked = {order.job_id: order for order in latest.values() if order.job_id and not order.ended}
        try:
            said = asking.queue() if asked else {}
            queued = set(said)
            forgotten = [number for number in asked if number not in said and not self._has_ended(number)]
            if forgotten:
                said |= asking.accounts(forgotten)
            said |= self._cancelled(number for number in asked if number in said and said[number].is_completing)
            for number, order in asked.items():
                if number in said or not self._has_ended(number):
                    known = self._known[number] = self._read(order, said.get(number), number in queued)
                    if number in queued and known.reason == COMPLETED:
                        self._completed.setdefault(number, time.monotonic())
        except asking.Away:
            if must_answer:
                raise
        return {key: self._state(order) for key, order in latest.items()}

    def _cancelled(self, completing: Iterable[str]) -> dict[str, asking.Said]:
        """Those of the jobs whose nodes are just being freed that were cancelled: they will not begin again, as jobs
        that are queued again do, which look the same until then.
        """
        numbers = list(completing)
        known = asking.accounts(numbers) if numbers else {}
        return {number: known[number] for number in numbers if number in known and known[number].state == "CANCELLED"}

    def _has_ended(self, number: str) -> bool:
        return number in self._known and self._known[number].state == "ended"

    def _read(self, order: Order, said: asking.Said | None, is_queued: bool) -> SchedulerState:
        """What only the accounting knows has ended: nobody will begin it, nor begin it again."""
        state: Alive = "ended"
        if said is not None and not is_queued:
            was_cut_off = said.is_running or said.state == "PENDING"
            said = replace(said, state="FORGOTTEN") if was_cut_off else said
        elif said is not None and (said.is_waiting or said.is_running):
            state = "waiting" if said.is_waiting else "running"
        reason = "" if said is None or state == "running" else said.reason if state == "waiting" else said.state
        if state == "waiting" and said is not None and said.state != "PENDING":
            reason = said.state
        return SchedulerState(state, reason, order.job_id, order.log(self.folder), order.digest)

    def _state(self, order: Order) -> SchedulerState:
        log = order.log(self.folder)
        if order.ended:
            return SchedulerState("ended", order.ended, order.job_id, log, order.digest)
        if not order.job_id:
            return SchedulerState("waiting", "is being handed in", "", log, order.digest)
        unknown = SchedulerState("waiting", "Slurm does not answer", order.job_id, log, order.digest)
        known = self._known.get(order.job_id, unknown)
        return replace(known, state="running", reason="") if self._is_still_ending(order, known) else known

    def _is_still_ending(self, order: Order, known: SchedulerState) -> bool:
        """Whether a job has succeeded, as Slurm says, and may have an outcome that is just not seen yet.

        What the controller has forgotten ended long before.
        """
        seen = self._completed.get(order.job_id)
        if known.state != "ended" or seen is None or time.monotonic() - seen >= self.ending_s:
            return False
        note = read_note(place_of(self.folder, order.key))
        return note is None or not note.is_done(order.digest)

    def _alive(self, orders: Orders) -> dict[str, Order]:
        """Those that have not ended; what has is written down."""
        states = self._states(orders, must_answer=True)
        latest = orders.latest(self.kind)
        for key, state in states.items():
            if state.state == "ended" and not latest[key].ended:
                number = latest[key].job_id
                orders.change(lambda order, number=number: order.job_id == number, ended=state.reason or "ENDED")  # type: ignore[misc]
        orders.save()
        return {key: order for key, order in orders.latest(self.kind).items() if not order.ended}

    def _end(self, orders: Orders, ending: Sequence[Order]) -> None:
        if ending:
            asking.cancel([order.job_id for order in ending])
            numbers = {order.job_id for order in ending}
            orders.change(lambda order: order.job_id in numbers, ended=CANCELLED)
            orders.save()

    # Handing in

    def _give(self, orders: Orders, batch: Batch, waits_for: str) -> str:
        """Hand in a batch and return its number."""
        folder = str(Path.cwd())
        written = new_orders(self.kind, batch.name, list(batch.jobs), function=self.function, folder=folder)
        token = written[0].token
        executor = SlurmExecutor(logs_of(self.folder, token), max_num_timeout=sbatch.ENDLESS)
        executor.update_parameters(**sbatch.parameters(self.settings, batch, token, waits_for, folder))
        for job in batch.jobs:
            write_spec(job)
        orders.add(written)
        try:
            given = executor.map_array(Work(self.function, folder), batch.jobs)
            orders.record(token, given[0].job_id.partition("_")[0])
        except (FailedJobError, FailedSubmissionError) as error:
            # It may have taken the job and not have been able to say so.
            self._adopt(orders)
            if not orders.number(token):
                said = " ".join(str(error).split())
                raise ValueError(f"sbatch refuses {batch.name}: {said}; correct the section sweep") from None
        return orders.number(token)

    def _intended(self, orders: Orders) -> dict[str, list[Order]]:
        """What was about to be handed in and not written down as such, by its name."""
        found: dict[str, list[Order]] = {}
        for order in orders.latest(self.kind).values():
            if not order.job_id and not order.ended:
                found.setdefault(order.token, []).append(order)
        return found

    def _adopt(self, orders: Orders) -> None:
        """Find out what came of that. Raises ``Away``."""
        for token, intended in self._intended(orders).items():
            asking.wait_for_sbatch(token)
            numbers = asking.called(token, intended[0].at)
            assert len(numbers) < 2, f"jobs {numbers} are all called {token}"
            if not numbers:
                orders.drop(token)
                continue
            orders.record(token, *numbers)
            for order in orders.latest(self.kind).values():
                if order.token == token:
                    say(f"{order.key}: was handed in already (job {order.job_id})")
                    self._leave_work(order)

    def _leave_work(self, order: Order) -> None:
        """What the job is to run, which it waits for a minute, if the command was killed before it could leave it."""
        path = JobPaths(logs_of(self.folder, order.token), job_id=order.job_id).submitted_pickle
        job = read_spec(place_of(self.folder, order.key))
        if job.digest != order.digest or path.exists():
            return
        submission = DelayedSubmission(Work(order.function, order.folder), job)
        submission.set_timeout(sbatch.resources(self.settings, job.stage).minutes, sbatch.ENDLESS)
        partial = path.with_suffix(".tmp")
        submission.dump(partial)
        partial.replace(path)
