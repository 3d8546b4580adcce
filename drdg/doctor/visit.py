"""Station 6, doctor: one process's whole part, whichever rank it is, and how it ends."""

from __future__ import annotations

import json
import shlex
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from rich.console import Console

from drdg.cli import FAILED, Damage, one_sentence
from drdg.config import Config
from drdg.distributed.topology import discover
from drdg.doctor.context import Context
from drdg.doctor.desk import Desk
from drdg.doctor.examination import Examination, stopped
from drdg.doctor.finding import Finding
from drdg.doctor.guest import attend
from drdg.doctor.page import as_plain_values, print_page
from drdg.doctor.steps import LONGEST, STEPS
from drdg.doctor.timed import ending_after, leave

# Of a step's time: ranks start one after the other, and load Python from a disk that all of them ask.
ARRIVAL = 3.0


def visit(config: Config, arguments: Sequence[str], timeout: float, json_wanted: bool = False) -> None:
    """Examine as rank 0, and print the page; as any other rank, answer it.

    ``arguments`` are those that said ``config``. Raises ``Damage`` when something is bad, and ``OSError`` on a rank
    that does not find rank 0. Ends the process itself where something in it hangs.
    """
    began = time.monotonic()
    # As if every step hung once: no more than that is ever waited for.
    longest = timeout * (2 * ARRIVAL + sum(2 * step.patience for step in STEPS.values()) + LONGEST)
    findings: list[Finding] = []

    def last_words() -> None:
        sentence = f"the doctor itself hung for {time.monotonic() - began:.0f} s, and ends"
        if findings:
            show(heading(config, began), [*findings, stopped(began)], json_wanted)
        print(f"error: {sentence}\n", end="", file=sys.stderr, flush=True)

    with ending_after(longest, last_words):
        context = Context(config, discover(), timeout)
        with _ended_properly(), one_sentence():
            if context.rank.number > 0:
                attend(context, ARRIVAL * timeout)
                return
            _examine(context, shlex.join(arguments), findings, began, json_wanted)


def _examine(context: Context, arguments: str, findings: list[Finding], began: float, json_wanted: bool) -> None:
    desk = Desk(context)
    examination = Examination(context, desk, arguments)
    examination.findings = findings
    try:
        with _stoppable():
            desk.wait_for_all(ARRIVAL * context.timeout)
            examination.carry_out(time.monotonic() - began)
    except KeyboardInterrupt:
        findings.append(stopped(began))
    finally:
        desk.close()
    show(heading(context.config, began), findings, json_wanted)
    count = sum(finding.level == "bad" for finding in findings)
    if count:
        raise Damage(
            f"{count} of {len(findings)} findings {'is' if count == 1 else 'are'} bad; cure them, then ask again"
        )


def heading(config: Config, began: float) -> str:
    """The first line of the page."""
    return f"drdg doctor: run {config.run.name}, {time.monotonic() - began:.0f} s"


def show(head: str, findings: Sequence[Finding], json_wanted: bool) -> None:
    """Print the page, to standard error where standard output is JSON's."""
    print_page(head, findings, Console(stderr=True) if json_wanted else None)
    if json_wanted:
        print(json.dumps(as_plain_values(findings), indent=1), flush=True)


@contextmanager
def _stoppable() -> Iterator[None]:
    """Let SIGTERM, which launchers send when another rank has failed, end the block as Ctrl-C does: with a page."""

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _ended_properly() -> Iterator[None]:
    """End the process as the block ends, at once where a thread in it hangs."""
    status = 0
    try:
        yield
    except SystemExit as ending:
        status = ending.code if isinstance(ending.code, int) else FAILED
        raise
    finally:
        leave(status)
