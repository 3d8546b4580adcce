"""Station 6, doctor: the checks in their order, from what all others need to what only healthy clusters can do."""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
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
    processors,
    signals,
    software,
    store,
    tiles,
)
from drdg.doctor.answers import Answer, Rank, leaders, named
from drdg.doctor.context import Context
from drdg.doctor.desk import Desk, Silence
from drdg.doctor.finding import Finding, bad, warning
from drdg.doctor.meeting import take_notes
from drdg.doctor.networks import Networks
from drdg.doctor.processors import NO_GPU
from drdg.doctor.steps import FOREIGN, STEPS
from drdg.doctor.timed import within


class Examination:
    """Rank 0's examination of the ranks at its desk; :attr:`findings` grows as it goes on."""

    def __init__(self, context: Context, desk: Desk, arguments: str) -> None:
        self.context, self.desk = context, desk
        self.arguments = arguments
        """Those of this command that say the configuration, for cures that name another command."""
        self.findings: list[Finding] = []
        self._networks: Networks | None = None
        self._backend = "gloo"
        self._built = False
        self._blind: set[int] = set()
        self._notes: dict[int, tuple[str, str]] = {}

    @property
    def checks(self) -> list[Callable[[], Iterable[Finding]]]:
        """What is looked at, in this order, which is the page's as well."""
        return [
            self._settings,
            self._agent,
            self._software,
            self._processors,
            self._names,
            self._interfaces,
            self._clocks,
            self._signals,
            self._tiles,
            self._files,
            self._store,
            self._limits,
            self._links,
        ]

    def carry_out(self, waited_s: float) -> None:
        """Make all checks, with those that have come within ``waited_s``."""
        self._add(self._ranks(waited_s))
        for check in self.checks:
            self._add(check())
            self._add(silent(self.desk.silences))
            self.desk.silences.clear()

    def _add(self, findings: Iterable[Finding]) -> None:
        self.findings.extend(findings)

    def _several_nodes(self) -> bool:
        return len(leaders(self.desk.ranks)) > 1

    def _ranks(self, waited_s: float) -> list[Finding]:
        context, desk = self.context, self.desk
        if desk.missing:
            with suppress(TimeoutError):  # the run's folder hangs, which its own check will say
                self._notes = within(context.timeout, lambda: take_notes(context, desk.missing))
        ranks = list(desk.arrived.values())
        found = arrivals.judge_ranks(
            context.config, context.topology, ranks, desk.missing, self._notes, desk.strangers, waited_s
        )
        if context.topology.world_size > 1 and context.topology.launcher != "torchrun":
            found += arrivals.judge_port(context.topology, desk.port_taken, desk.came, [], self._notes)
        return found

    def _settings(self) -> list[Finding]:
        return arrivals.judge_settings(self.desk.ask("settings"))

    def _agent(self) -> list[Finding]:
        if self.context.topology.launcher != "torchrun":
            return []
        answers = self.desk.ask("agent")
        return arrivals.judge_port(self.context.topology, "", self.desk.came, answers, self._notes)

    def _software(self) -> list[Finding]:
        answers = self.desk.ask("software")
        return software.judge(self.context.config, answers) if answers else []

    def _processors(self) -> list[Finding]:
        answers = self.desk.ask("processors")
        if not answers:
            return []
        if any(answer.value["device"] != NO_GPU for answer in answers):
            self._backend = "nccl"
        found = processors.judge_gpus(self.context.config, answers)
        return [*found, *processors.judge_cores(answers)]

    def _names(self) -> list[Finding]:
        first = leaders(self.desk.ranks)
        answers = self.desk.ask("names", first, {"hosts": [rank.host for rank in first]})
        return names.judge(answers, self.context.topology.master_address) if answers else []

    def _interfaces(self) -> list[Finding]:
        answers = self.desk.ask("interfaces")
        return interfaces.judge(answers, self._backend) if answers else []

    def _clocks(self) -> list[Finding]:
        others = [rank for rank in leaders(self.desk.ranks) if rank.number != 0] or self.desk.ranks[1:2]
        return clocks.judge([offset for rank in others if (offset := clocks.measure(rank, self._clock_of(rank)))])

    def _clock_of(self, rank: Rank) -> Callable[[], float | None]:
        def ask() -> float | None:
            answers = self.desk.ask("clock", [rank])
            return float(answers[0].value["time_s"]) if answers else None

        return ask

    def _signals(self) -> list[Finding]:
        answers = self.desk.ask("signals")
        return signals.judge(answers) if answers else []

    def _tiles(self) -> list[Finding]:
        answers = self.desk.ask("tiles")
        self._built = any(not answer.value["why"] for answer in answers)
        return tiles.judge(answers, self.arguments) if answers else []

    def _files(self) -> list[Finding]:
        sized = self.desk.ask("networks", self.desk.ranks[:1])
        self._networks = Networks(**sized[0].value) if sized and sized[0].value else None
        found = self._folder("run")
        # Shards that were read need no more proof of their folder.
        if not self._built and self.desk.ranks[1:]:
            found += self._folder("shards")
        return found

    def _folder(self, root: str) -> list[Finding]:
        first, others = self.desk.ranks[:1], self.desk.ranks[1:]
        token = secrets.token_hex(6)
        at: dict[str, Any] = {"root": root, "token": token}
        try:
            begun = self.desk.ask("files.begin", first, at)
            if not begun:
                return []
            found = files.judge_begin(root, begun[0])
            if found:
                return found
            if others:
                found += self._shared(root, begun[0], at)
            if root == "run":
                speed = self.desk.ask("files.speed", first, at)
                keep = self.context.config.gan.keep_checkpoints
                found += files.judge_speed(begun[0], speed[0], self._networks, keep) if speed else []
                found += self._locks(token)
            return found
        finally:
            self.desk.ask("files.clear", first, at)

    def _shared(self, root: str, begun: Answer, at: dict[str, Any]) -> list[Finding]:
        looks = self.desk.ask("files.look", self.desk.ranks[1:], at)
        seeing = [
            answer.who.number for answer in looks if answer.value["seconds"] is not None and not answer.value["error"]
        ]
        if root == "run":
            self._blind = {answer.who.number for answer in looks} - set(seeing)
        gathered = self.desk.ask("files.gather", self.desk.ranks[:1], {**at, "ranks": seeing})
        return files.judge_shared(root, begun, looks, gathered[0] if gathered else None)

    def _locks(self, token: str) -> list[Finding]:
        first = self.desk.ranks[:1]
        seeing = [rank for rank in self.desk.ranks if rank.number not in self._blind]
        others = [rank for rank in leaders(seeing) if rank.number != 0] or seeing[1:2]
        at = {"token": token}
        taken = self.desk.ask("locks.take", first, at)
        if not taken:
            return []
        during = self.desk.ask("locks.try", others, at)
        self.desk.ask("locks.drop", first, at)
        after = [answer for rank in others for answer in self.desk.ask("locks.try", [rank], at)]
        return locks.judge(taken[0], during, after)

    def _store(self) -> list[Finding]:
        answers = self.desk.ask("store", self.desk.ranks[:1])
        return store.judge(answers[0], self._several_nodes()) if answers else []

    def _limits(self) -> list[Finding]:
        answers = self.desk.ask("limits")
        return limits.judge(answers, self._networks, self._backend == "nccl") if answers else []

    def _links(self) -> list[Finding]:
        ranks = [rank.number for rank in self.desk.ranks]
        if len(ranks) < 2:
            return []
        whole = len(ranks) == self.context.topology.world_size
        if self.desk.port_taken or not whole:
            port: int | None = free_port()
        else:
            port = None
        answers = self.desk.ask("links", None, {"ranks": ranks, "port": port})
        return links.judge(answers, self._networks) if answers else []


def silent(silences: Iterable[Silence]) -> list[Finding]:
    """What ranks that did not answer mean: one finding for all that did so for the same reason."""
    alike: dict[tuple[str, str, bool, str], list[Rank]] = {}
    for silence in silences:
        step = STEPS[silence.step]
        alike.setdefault((step.check, silence.why, silence.hung, step.cure), []).append(silence.who)
    found = []
    for (check, why, hung, cure), ranks in alike.items():
        found.append(bad(check, f"{named(ranks)}: {why}", cure if hung or check == links.CHECK else FOREIGN))
    return found


def stopped(began: float) -> Finding:
    """What the page says when somebody stops the examination."""
    return warning(
        "doctor", f"stopped after {time.monotonic() - began:.0f} s, before all was looked at", "start it again"
    )


def free_port() -> int:
    """A port of this host that nothing listens at."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
