"""Answers of ranks that never were, and real ranks on this machine, some of them ill."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from drdg.doctor.answers import Answer, Rank
from drdg.doctor.finding import Finding

ROOT = Path(__file__).parents[2]
# Runs a command with a clock that is ahead by its first argument, in seconds.
FAST_CLOCK = (
    "import runpy, sys, time; true = time.time; ahead = float(sys.argv[1]); time.time = lambda: true() + ahead; "
    "sys.argv = sys.argv[2:]; runpy.run_path(sys.argv[0], run_name='__main__')"
)


def answers_of(*values: Mapping[str, Any], per_node: int = 1, **common: Any) -> list[Answer]:
    """One answer for each rank, ``per_node`` of them on node1, node2 and so on."""
    return [
        Answer(Rank(number, f"node{number // per_node + 1}", number % per_node, per_node), {**common, **value})
        for number, value in enumerate(values)
    ]


def said(findings: Sequence[Finding]) -> list[str]:
    """Each finding as a line: its level, its check and what was measured."""
    return [f"{finding.level} {finding.check}: {finding.measured}" for finding in findings]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Ranks:
    """Ranks of the doctor as torchrun's variables, without an agent, would start them on this machine."""

    def __init__(self, folder: Path, world_size: int, *arguments: str, port: int | None = None) -> None:
        self.folder, self.world_size = folder, world_size
        self.arguments = [str(ROOT / "launch/doctor.py"), *arguments]
        self.port = port or free_port()
        self.processes: dict[int, subprocess.Popen[str]] = {}

    def start(
        self,
        rank: int,
        *arguments: str,
        before: Sequence[str] = (),
        prepare: Callable[[], None] | None = None,
        **variables: str,
    ) -> subprocess.Popen[str]:
        """Start a rank, with more arguments or variables than the others, or prepared to be ill."""
        place = {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(self.world_size),
            "LOCAL_SIZE": str(self.world_size),
            "CROSS_RANK": "0",  # DeepSpeed's launcher, as torchrun keeps the master's port for itself
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(self.port),
        }
        self.processes[rank] = subprocess.Popen(
            [sys.executable, *before, *self.arguments, *arguments],
            cwd=self.folder,
            env=os.environ | place | variables,
            preexec_fn=prepare,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        return self.processes[rank]

    def page(self, status: int) -> dict[str, list[dict[str, Any]]]:
        """The findings of rank 0, started with ``--json``, by check, once it has ended with ``status``."""
        out, err = self.processes[0].communicate(timeout=120)
        assert self.processes[0].returncode == status, err
        found: dict[str, list[dict[str, Any]]] = {}
        for finding in json.loads(out):
            found.setdefault(finding["check"], []).append(finding)
        return found

    def end(self) -> None:
        """End what still runs."""
        for process in self.processes.values():
            process.kill()
            process.communicate()
