"""Station 6, doctor: rank 0's side of the examination: who has come, what each is asked and what it answers.

Everything that is waited for has a time: a rank that is gone, hangs or never came is named and does without an answer.
"""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from drdg.doctor.answers import Answer, Rank, numbers
from drdg.doctor.context import Context
from drdg.doctor.meeting import listen_anywhere, who
from drdg.doctor.steps import STEPS, perform
from drdg.doctor.wire import Wire, words

# More than a rank's own time-out, so that it is the rank that says what took too long.
GRACE_S = 3.0
GREETING_S = 5.0
ACCEPT_S = 0.2


@dataclass(frozen=True)
class Silence:
    """A step that a rank did not answer as it should."""

    step: str
    who: Rank
    why: str
    hung: bool
    """Whether it took too long, rather than failed."""


class Desk:
    """Where rank 0 waits for the others and asks them."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.arrived: dict[int, Rank] = {0: context.rank}
        self.came: dict[int, dict[str, Any]] = {}
        """Greetings of the others."""
        self.strangers: list[str] = []
        """Why who came was refused, in the words of :func:`~drdg.doctor.meeting.who`."""
        self.port_taken = ""
        """Why the master's port cannot be had; empty if it can, or where torchrun's agent holds it."""
        self.silences: list[Silence] = []
        self._wires: dict[int, Wire] = {}
        self._lock = threading.Lock()
        self._asked = 0

    @property
    def ranks(self) -> list[Rank]:
        """Ranks that are here and answer, this one first."""
        return [self.arrived[number] for number in sorted(self.arrived) if number == 0 or number in self._wires]

    @property
    def missing(self) -> list[int]:
        """Ranks that never came."""
        return [number for number in range(self.context.topology.world_size) if number not in self.arrived]

    def wait_for_all(self, seconds: float) -> None:
        """Let the others come for at most ``seconds``. Raises ``OSError`` when there is no port to listen at."""
        if self.context.topology.world_size == 1:
            return
        listener, self.port_taken = listen_anywhere(self.context.topology)
        end = time.monotonic() + seconds
        say_at = end - seconds + self.context.timeout / 2
        with listener:
            listener.settimeout(ACCEPT_S)
            while self.missing and time.monotonic() < end:
                with suppress(TimeoutError):
                    connection, address = listener.accept()
                    # Each by itself: one that says nothing must not hold up the rest.
                    threading.Thread(target=self._welcome, args=(connection, str(address[0])), daemon=True).start()
                if time.monotonic() > say_at:
                    say_at += self.context.timeout / 2
                    self._say_who_is_missing(end - time.monotonic())

    def ask(
        self, step: str, ranks: Iterable[Rank] | None = None, arguments: dict[str, Any] | None = None
    ) -> list[Answer]:
        """What ``ranks`` (default: all that are here) answer, in their order; who does not is in :attr:`silences`."""
        here = self.ranks
        asked = here if ranks is None else [rank for rank in ranks if rank in here]
        self._asked += 1
        others = [rank for rank in asked if rank.number != 0]
        request = {"step": step, "number": self._asked, "arguments": arguments or {}}
        for rank in others:
            try:
                self._wires[rank.number].send(request, GRACE_S)
            except OSError as error:
                self._lose(step, rank, error)
        seconds = STEPS[step].patience * self.context.timeout + GRACE_S
        end = time.monotonic() + seconds
        replies = {}
        if len(others) < len(asked):
            replies[0] = perform(self.context, step, arguments or {})
        for rank in others:
            if rank.number in self._wires:
                try:
                    replies[rank.number] = self._reply(rank, end)
                except OSError as error:
                    self._lose(step, rank, error)
        return [answer for rank in asked if (answer := self._answer(step, rank, replies.get(rank.number)))]

    def close(self) -> None:
        """Send everybody home."""
        for wire in self._wires.values():
            with suppress(OSError):
                wire.send({"step": "end"}, GRACE_S)
            wire.close()
        self._wires.clear()

    def _welcome(self, connection: socket.socket, address: str) -> None:
        wire = Wire(connection)
        try:
            message = wire.receive(GREETING_S)
            rank = who(message, self.context.topology.world_size)
            with self._lock:
                if rank.number in self.arrived:
                    raise ValueError(
                        f"{rank.host} sent rank {rank.number}, which had come from {self.arrived[rank.number].host}"
                    )
                wire.send({"welcome": True}, GREETING_S)
                self.came[rank.number] = message
                self._wires[rank.number] = wire
                self.arrived[rank.number] = rank
        except ValueError as error:
            if str(error) not in self.strangers:
                self.strangers.append(str(error))
            with suppress(OSError):
                wire.send({"refused": str(error)}, GREETING_S)
            wire.close()
        except (OSError, KeyError, TypeError):  # it looked whether somebody listens, or speaks another language
            wire.close()

    def _reply(self, rank: Rank, end: float) -> dict[str, Any]:
        while True:
            reply = self._wires[rank.number].receive(max(end - time.monotonic(), 0.01))
            if reply.get("number") == self._asked:
                return reply

    def _answer(self, step: str, rank: Rank, reply: dict[str, Any] | None) -> Answer | None:
        if reply is None:
            return None
        if "error" in reply:
            self.silences.append(Silence(step, rank, reply["error"], bool(reply.get("hung"))))
            return None
        return Answer(rank, reply["value"])

    def _lose(self, step: str, rank: Rank, error: OSError) -> None:
        """Ask this rank nothing more: it would take as long each time."""
        hung = isinstance(error, TimeoutError)
        why = "does not answer any more" if hung else f"has ended or cannot be reached any more ({words(error)})"
        self.silences.append(Silence(step, rank, why, hung))
        self._wires.pop(rank.number).close()

    def _say_who_is_missing(self, seconds: float) -> None:
        if self.missing:
            size = self.context.topology.world_size
            print(
                f"{size - len(self.missing)} of {size} ranks are here; waiting {max(seconds, 0):.0f} s more for "
                f"rank{'s' * (len(self.missing) > 1)} {numbers(self.missing)}",
                file=sys.stderr,
                flush=True,
            )
