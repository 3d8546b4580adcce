"""Station 6, doctor: every other rank's side: it finds rank 0, does what it is asked, and answers."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from drdg.doctor.context import Context
from drdg.doctor.meeting import candidates, greeting, is_taken, leave_note, remove_note
from drdg.doctor.steps import LONGEST, perform
from drdg.doctor.timed import within
from drdg.doctor.wire import Wire, words

# Between tries, and for one: rank 0 may start later; who does not answer in the latter is behind a firewall.
PAUSE_S, TRY_S = 0.1, 3.0
# Rank 0 does work of its own between its questions.
PATIENCE = 3.0


def attend(context: Context, seconds: float) -> None:
    """Find rank 0 within ``seconds`` and answer it until it sends this rank home.

    Where rank 0 is not found but takes this rank's note, it is rank 0 that fails: with the first rank that does, a
    launcher would end rank 0, which has more to find out. Otherwise raises ``OSError`` with a sentence when rank 0 is
    not found, refuses this rank, or is lost.
    """
    try:
        wire = within(seconds + TRY_S, lambda: find(context, seconds))
    except OSError as error:
        lost = error
        if isinstance(error, TimeoutError):
            lost = _not_found(context, "its name is not resolved, and nothing says so")
            _within_time(context, lambda: leave_note(context, "the master's name is not resolved, and nothing says so"))
        if not _is_noted_by_rank_0(context, seconds):
            raise lost from None
        print(f"error: {lost}\n", end="", file=sys.stderr, flush=True)
        return
    finally:
        _within_time(context, lambda: remove_note(context))
    idle_s = PATIENCE * LONGEST * context.timeout
    try:
        while (request := wire.receive(idle_s)).get("step") != "end":
            reply = perform(context, request["step"], request["arguments"])
            wire.send({**reply, "number": request["number"]}, context.timeout)
    except OSError as error:
        raise OSError(
            f"rank {context.rank.number} on {context.host} has lost rank 0 ({words(error)}); what rank 0 says is to be "
            "looked at first"
        ) from error
    finally:
        wire.close()


def find(context: Context, seconds: float) -> Wire:
    """A connection to rank 0 that has welcomed this rank."""
    began, tries, is_noted = time.monotonic(), 0, False
    reasons: dict[int, str] = {}
    while time.monotonic() - began < seconds:
        for port in candidates(context.topology):
            tries += 1
            try:
                return _greet(context, port, tries)
            except OSError as error:
                reasons[port] = words(error)
                if isinstance(error, TimeoutError):  # a firewall says nothing at any port
                    break
        if not is_noted and time.monotonic() - began > context.timeout:
            is_noted = True
            _within_time(context, lambda: leave_note(context, _telling(context, reasons)))
        time.sleep(PAUSE_S)
    raise _not_found(context, _telling(context, reasons))


def _greet(context: Context, port: int, tries: int) -> Wire:
    began = time.perf_counter()
    connection = socket.create_connection((context.topology.master_address or "", port), timeout=TRY_S)
    connect_s = time.perf_counter() - began
    wire = Wire(connection)
    try:
        wire.send(greeting(context, connect_s, tries), TRY_S)
        reply: dict[str, Any] = wire.receive(TRY_S)
    except OSError as error:
        wire.close()
        raise OSError(f"somebody else than rank 0 listens there ({words(error)})") from error
    if reply.get("welcome"):
        return wire
    wire.close()
    raise OSError(f"was refused: {reply.get('refused', 'somebody else than rank 0 listens there')}")


def _is_noted_by_rank_0(context: Context, seconds: float) -> bool:
    """Whether rank 0, which may have begun to wait later than this rank, takes this rank's note within ``seconds``."""

    def wait() -> bool:
        end = time.monotonic() + seconds
        while not is_taken(context) and "noted" in context.kept and time.monotonic() < end:
            time.sleep(PAUSE_S)
        return is_taken(context)

    try:
        return within(seconds + context.timeout, wait)
    except TimeoutError:
        return False


def _telling(context: Context, reasons: dict[int, str]) -> str:
    """The reason at the first port, unless another has one that says more than that nobody listens there."""
    ordered = [reasons[port] for port in candidates(context.topology) if port in reasons] or [
        "there was no time to try"
    ]
    return next((reason for reason in ordered if "refused" not in reason.lower() or ":" in reason), ordered[0])


def _not_found(context: Context, reason: str) -> OSError:
    place = context.topology
    return OSError(
        f"rank {context.rank.number} on {context.host} cannot reach rank 0 at {place.master_address}:"
        f"{candidates(place)[0]} ({reason}); start all ranks at once, and let nodes reach each other's ports from "
        f"{candidates(place)[0]} on by that name"
    )


def _within_time(context: Context, work: Callable[[], None]) -> None:
    """Do what the examination does not need, and what a file system that is away must not hold up."""
    with suppress(TimeoutError):
        within(context.timeout, work)
