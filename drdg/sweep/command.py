"""Station 6, sweep: the command: plan, refuse, write down, hand in, look on; or end it, or take in what was spooled.

The order is what keeps things whole: whatever can be refused is, before anything is written; the store and the record
are there before any job is; and the jobs need nobody to look on.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from drdg.config import ResourcesConfig, to_yaml
from drdg.sweep.asked import Asked, directions_of
from drdg.sweep.options import SLURM
from drdg.sweep.plan import Sweep, folder_of, make_sweep
from drdg.sweep.record import (
    RECORD,
    adopted,
    place,
    read_record,
    refuse_another,
    relocated,
    renewed,
    starting,
    typed_uri,
)
from drdg.sweep.refusals import refuse_what_cannot_work
from drdg.sweep.scheduler import Executor, OpenExecutor, Scheduled, is_alive
from drdg.sweep.spec import REPORT, SHARDS, JobSpec
from drdg.sweep.states import JobState, State, forgotten, is_at_rest, is_complete, state_of, to_end, to_submit
from drdg.sweep.view import in_words, trouble
from drdg.sweep.watch import LOOK_S, SLURM_LOOK_S, conclusion, watch

ORDERS, SPOOL = "orders.json", "spool"
# More are counted, not named.
MOST_NEEDS = 3


@dataclass(frozen=True)
class Surroundings:
    """What the command is given, so that nothing here knows a scheduler or loads torch."""

    open_executor: OpenExecutor
    default_kind: Callable[[Path], str]
    """Which executor has, or is to have, the jobs of the sweep in a folder."""
    settle: Callable[[Mapping[str, Any]], object]
    """Settle the cells and write the report of the sweep that ``sweep.json`` describes."""
    console: Console | None = None
    look_s: float | None = None
    """Seconds between looks at the jobs; None: as the executor bears."""


def asked_of(options: argparse.Namespace) -> Asked:
    """What was typed."""
    return Asked(
        config=options.config,
        directions=options.directions,
        ablation=options.ablation,
        table1=options.table1,
        rows=options.rows,
        seeds=options.seeds,
        name=options.name,
        smoke=options.smoke,
        overrides=(*options.set, *options.overrides),
    )


def act(options: argparse.Namespace, around: Surroundings) -> str:
    """Do what the options ask for, and return what is not done after all, in one sentence; empty where all is.

    Raises ``ValueError`` and ``OSError`` for what a user can mend.
    """
    asked = asked_of(options)
    if options.print_config:
        for direction in directions_of(asked):
            print(f"# {direction.name}\n{to_yaml(direction.config)}", end="", flush=True)
    elif options.cancel:
        cancel(asked, options, around)
    elif options.sync:
        sync(asked, options, around)
    else:
        return start(asked, options, around)
    return ""


def start(asked: Asked, options: argparse.Namespace, around: Surroundings) -> str:
    """Start what is not done and look on until all has ended; return what is not done then, in one sentence."""
    base = make_sweep(asked)
    record = read_record(base.folder)
    refuse_another(base.folder, base.name, record)
    kind = options.executor or around.default_kind(base.folder)
    refuse_what_cannot_work(base, on_cluster=kind == SLURM)
    sweep = adopted(base, record)
    executor = around.open_executor(kind, sweep.folder, sweep.settings)
    scheduled = known_to(executor, sweep.folder)
    _refuse_to_forget(sweep, scheduled)
    states = state_of(sweep, scheduled)
    chosen = to_submit(sweep, states, retry_failed=options.retry_failed)
    if options.dry_run:
        describe(sweep, states, chosen, executor, kind)
        return ""
    print(f"by executor {kind}", flush=True)
    if chosen or to_end(states, chosen):
        sweep = _submit(base, executor, retry_failed=options.retry_failed)
    elif record is not None and typed_uri(base.directions[0].config, base.folder) not in (None, record["uri"]):
        _relocate(base, record["experiment"])
    if options.detach:
        print(f"{len(chosen)} jobs started in {sweep.folder}; the same command without --detach shows them", flush=True)
        return ""
    look_s = (SLURM_LOOK_S if kind == SLURM else LOOK_S) if around.look_s is None else around.look_s
    return _look_on(sweep, executor, around.console, look_s, is_anything_new=bool(chosen))


def known_to(executor: Executor, folder: Path) -> Mapping[str, Scheduled]:
    """What the scheduler knows of the sweep's jobs; it is not asked where none was ever handed in."""
    return executor.states() if (folder / ORDERS).is_file() else {}


def _refuse_to_forget(sweep: Sweep, scheduled: Mapping[str, Scheduled]) -> None:
    """Raise ``ValueError`` where jobs are alive that the plan does not have."""
    if lost := forgotten(sweep, scheduled):
        raise ValueError(
            f"{sweep.folder}: {len(lost)} jobs of an earlier start are alive that this one does not ask for, such as "
            f"{lost[0]}; ask for their rows and seeds as well, end them with --cancel, or take another --name"
        )


def _submit(base: Sweep, executor: Executor, *, retry_failed: bool) -> Sweep:
    """Make the MLflow runs, write down the plan, and hand in jobs; return the plan as it is then. What is alive with
    other settings and not replaced is ended.

    Where the store does not answer, jobs that are alive are only looked at; without such ones it is an error.
    Raises ``ValueError`` also where another start has handed in what this one does not ask for.
    """
    with starting(base.folder):
        # Now that nobody else is at it: another start may have been.
        record = read_record(base.folder)
        sweep = adopted(base, record)
        scheduled = known_to(executor, base.folder)
        _refuse_to_forget(sweep, scheduled)
        states = state_of(sweep, scheduled)
        chosen = to_submit(sweep, states, retry_failed=retry_failed)
        outdated = to_end(states, chosen)
        if not chosen:
            _end(executor, outdated)
            return sweep
        from drdg.tracking import Tracking

        fresh = renewed(sweep, base)
        try:
            fresh = place(fresh, base, record, Tracking(sweep.uri, sweep.experiment, sweep.folder))
        except ValueError as error:
            if is_at_rest(states):
                raise
            print(f"nothing is started, what runs is only shown: {error}", flush=True)
            return sweep
        _end(executor, outdated)
        executor.submit([fresh.jobs[job.key] for job in chosen])
    return fresh


def _relocate(base: Sweep, experiment: str) -> None:
    """Tell the jobs that are still to start where the store is now; if it is not there, say so and change nothing."""
    from drdg.tracking import Tracking

    try:
        relocated(base.folder, Tracking(base.uri, experiment, base.folder))
    except ValueError as error:
        print(f"the address of the MLflow store stays as it was: {error}", flush=True)


def _end(executor: Executor, outdated: list[str]) -> None:
    """End jobs of other settings."""
    if outdated:
        executor.cancel(outdated)
        print(f"{len(outdated)} jobs of other settings are asked to end, such as {outdated[0]}", flush=True)


def _look_on(sweep: Sweep, executor: Executor, console: Console | None, look_s: float, *, is_anything_new: bool) -> str:
    """Watch to the end and say what became of it; return what is not done, in one sentence."""
    states: dict[str, JobState] | None = state_of(sweep, known_to(executor, sweep.folder))
    assert states is not None
    if is_anything_new or not is_at_rest(states):
        states = watch(sweep, executor, console, look_s=look_s)
    if states is None:
        return ""
    if is_complete(states):
        print(f"done: {sweep.folder / 'report'}", flush=True)
        return ""
    for line in conclusion(sweep, states):
        print(line, flush=True)
    has_failed = any(now.state is State.FAILED for now in states.values())
    cure = "--retry-failed starts what failed again" if has_failed else "the same command starts the rest"
    missing = sum(now.state is not State.DONE for now in states.values())
    return f"{sweep.folder}: {missing} of {len(states)} jobs are not done; {cure}"


def cancel(asked: Asked, options: argparse.Namespace, around: Surroundings) -> None:
    """End every job of the sweep that is alive, whatever rows and seeds are asked for."""
    folder, executor = _existing(asked, options, around)
    alive = [key for key, known in known_to(executor, folder).items() if is_alive(known)]
    if options.dry_run:
        print(f"would end {len(alive)} jobs of {folder}", flush=True)
        return
    ended = executor.cancel(alive) if alive else 0
    print(
        f"{ended} jobs of {folder} are asked to end; the same command without --cancel goes on from what is whole",
        flush=True,
    )


def sync(asked: Asked, options: argparse.Namespace, around: Surroundings) -> None:
    """Take what jobs have spooled into MLflow, and, once none is alive, settle the sweep's cells from it."""
    folder, executor = _existing(asked, options, around)
    record = read_record(folder)
    if record is None:
        raise ValueError(f"{folder}: has no {RECORD}; give the options that the sweep was started with, without --sync")
    if options.dry_run:
        print(f"would write what waits in {folder / SPOOL} to {record['experiment']}", flush=True)
        return
    from drdg.tracking import Tracking, sync

    uri = typed_uri(directions_of(asked)[0].config, folder) or record["uri"]
    tracking = Tracking(uri, record["experiment"], folder)
    if uri != record["uri"]:
        record = relocated(folder, tracking)
    taken = sync(folder / SPOOL, tracking)
    print(f"{taken} runs of {folder / SPOOL} are in {tracking.shown} now", flush=True)
    if any(map(is_alive, known_to(executor, folder).values())):
        print("the cells are settled and reported by the sweep's last job, as jobs are still alive", flush=True)
    else:
        around.settle(record)
        print(f"reported: {folder / 'report'}", flush=True)


def _existing(asked: Asked, options: argparse.Namespace, around: Surroundings) -> tuple[Path, Executor]:
    """The folder of a sweep that was started before, and its executor. Raises ``ValueError`` where there is none."""
    folder = folder_of(asked)
    if not (folder / RECORD).is_file() and not (folder / ORDERS).is_file():
        raise ValueError(f"{folder}: holds no sweep; give the options that it was started with")
    kind = options.executor or around.default_kind(folder)
    return folder, around.open_executor(kind, folder, directions_of(asked)[0].config.sweep)


def describe(
    sweep: Sweep, states: Mapping[str, JobState], chosen: list[JobSpec], executor: Executor, kind: str
) -> None:
    """Print the graph, what each job is and asks for, and what would be handed in."""
    start = {job.key for job in chosen}
    print(f"{sweep.name} in {sweep.folder}, by executor {kind}: {len(start)} of {len(sweep.jobs)} jobs would start")
    names = {key: key.partition("/")[2] or key for key in sweep.jobs}
    width = max(map(len, names.values()))
    direction = ""
    for key, job in sweep.jobs.items():
        if job.stage != REPORT and key.partition("/")[0] != direction:
            direction = key.partition("/")[0]
            print(f"{direction}:")
        now = states[key]
        words = [f"{names[key]:<{width}}", f"{now.state.value}{', would start' if key in start else ''}"]
        if kind == SLURM:
            words.append(resources_of(sweep, job))
        if job.needs:
            few = len(job.needs) <= MOST_NEEDS
            words.append(f"after {', '.join(names[need] for need in job.needs) if few else f'{len(job.needs)} jobs'}")
        print(f"  {'  '.join(words)}")
        if now.state is State.FAILED:
            print(f"    {in_words(sweep, key)} {trouble(now)}" + (f"; log: {now.log}" if now.log else ""))
    if chosen:
        print(f"\n{executor.describe(chosen)}", end="", flush=True)


def resources_of(sweep: Sweep, job: JobSpec) -> str:
    """What a job asks of a cluster, in words."""
    asked: ResourcesConfig = sweep.settings.single
    if job.stage in (SHARDS, REPORT):
        asked = sweep.settings.shards
    elif job.stage == "gan":
        asked = sweep.settings.gan
    nodes = f"{asked.nodes} node{'s' * (asked.nodes > 1)} of {asked.processes} rank{'s' * (asked.processes > 1)}"
    return f"{nodes}, {asked.gpus} GPU, {asked.cpus} cores a rank, {asked.minutes} min"
