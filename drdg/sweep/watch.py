"""Station 6, sweep: looking on while its jobs run, which do not mind whether anybody does."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from rich.console import Console
from rich.live import Live

from drdg.sweep.plan import Sweep
from drdg.sweep.scheduler import Executor
from drdg.sweep.states import JobState, State, is_at_rest, state_of
from drdg.sweep.view import View, at_work, counted, in_words, trouble

LOOK_S = 3.0
# Everybody who looks on asks Slurm's controller, which is the whole cluster's.
SLURM_LOOK_S = 15.0
LINE_S = 60.0
# A job's last words may take a moment through a network file system: only what is seen twice is believed.
LOOKS_AT_REST = 2
DETACHED = "Detached: the jobs go on; the same command attaches again, and with --cancel it ends them."

States = dict[str, JobState]


def watch(
    sweep: Sweep,
    executor: Executor,
    console: Console | None = None,
    sleep: Callable[[float], None] = time.sleep,
    look_s: float = LOOK_S,
) -> States | None:
    """Show the sweep until no job of it is alive, and return what became of each; None where Ctrl-C detached.

    A table on a terminal, else a line for each change and one a minute.
    """
    console = console or Console()
    try:
        if console.is_terminal:
            return _with_table(sweep, executor, console, sleep, look_s)
        return _with_lines(sweep, executor, console, sleep, look_s)
    except KeyboardInterrupt:
        _say(console, DETACHED)
        return None


def _with_table(
    sweep: Sweep, executor: Executor, console: Console, sleep: Callable[[float], None], look_s: float
) -> States:
    states = state_of(sweep, executor.states())
    with Live(View(sweep, states), console=console, auto_refresh=False) as live:
        at_rest = 0
        while (at_rest := at_rest + 1 if is_at_rest(states) else 0) < LOOKS_AT_REST:
            sleep(look_s)
            states = state_of(sweep, executor.states())
            live.update(View(sweep, states), refresh=True)
    return states


def _with_lines(
    sweep: Sweep, executor: Executor, console: Console, sleep: Callable[[float], None], look_s: float
) -> States:
    states = state_of(sweep, executor.states())
    _say(console, counted(sweep, states))
    last_line, at_rest = time.monotonic(), 0
    while (at_rest := at_rest + 1 if is_at_rest(states) else 0) < LOOKS_AT_REST:
        sleep(look_s)
        before, states = states, state_of(sweep, executor.states())
        for key in states:
            if line := _change(sweep, key, before[key], states[key]):
                _say(console, line)
        if time.monotonic() - last_line >= LINE_S:
            last_line = time.monotonic()
            for line in _at_work(sweep, states):
                _say(console, line)
    _say(console, counted(sweep, states))
    return states


def _change(sweep: Sweep, key: str, before: JobState, now: JobState) -> str:
    """What there is to say of a job whose state has changed; empty where it has not."""
    if before.state is now.state:
        return ""
    if now.state in (State.FAILED, State.LOST, State.CANCELLED):
        log = f" (log: {now.log})" if now.log else ""
        return f"{in_words(sweep, key)} {trouble(now)}{log}"
    about = f" ({now.about})" if now.about else ""
    return f"{in_words(sweep, key)}: {now.state.value}{about}"


def _at_work(sweep: Sweep, states: Mapping[str, JobState]) -> list[str]:
    running = [f"{in_words(sweep, key)} {at_work(now)}" for key, now in states.items() if now.state is State.RUNNING]
    return [counted(sweep, states), *(f"  {line}" for line in running)]


def conclusion(sweep: Sweep, states: Mapping[str, JobState]) -> list[str]:
    """What is to be said of every job that is not done, once no job is alive."""
    lines = []
    for key, now in states.items():
        if now.state in (State.FAILED, State.LOST, State.CANCELLED):
            lines.append(f"{in_words(sweep, key)} {trouble(now)}" + (f"; log: {now.log}" if now.log else ""))
    blocked = [cell.key for cell in sweep.asked_cells if states[cell.evaluate].state is not State.DONE]
    if blocked:
        lines.append(f"without scores: {', '.join(blocked)}")
    return lines


def _say(console: Console, line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)
