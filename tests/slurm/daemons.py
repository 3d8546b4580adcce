"""Processes that live as long as the tests' session, and the end of those that outlived theirs."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from packages import SEARCH_PATH
from settings import Place

# Generous: the machine may have two cores and other work.
PATIENCE_S = 90.0
# Nothing of the person's own: no proxies, no settings of another cluster.
ENVIRONMENT = {"PATH": SEARCH_PATH, "HOME": "/root", "LANG": "C.UTF-8"}


def until(is_so: Callable[[], bool], what: str, patience_s: float = PATIENCE_S) -> None:
    """Wait for it; raise ``TimeoutError`` with what was waited for."""
    end = time.monotonic() + patience_s
    while not is_so():
        if time.monotonic() > end:
            raise TimeoutError(f"after {patience_s:.0f} s still not: {what}")
        time.sleep(0.05)


class Daemons:
    """What runs for the cluster, each by its name: ``log/NAME.log`` is what it says, ``run/NAME.pid`` who it is."""

    def __init__(self, place: Place):
        self.place = place
        self.mine: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, *command: object, inside: Sequence[str] = ()) -> subprocess.Popen[bytes]:
        """Start what stays in the foreground, by the words ``inside``, which end in the command's taking over.

        The kernel ends it with the thread that starts it, so also when a session is killed: call this from the main
        thread.
        """
        words = [str(word) for word in command]
        with (self.place.folder / f"log/{name}.log").open("ab") as log:
            process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *inside, *words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=ENVIRONMENT | {"SLURM_CONF": str(self.place.configuration)},
                cwd=self.place.folder,
                start_new_session=True,  # Ctrl-C is pytest's
            )
        # Programs that take over from each other (exec) keep the number and the time of the start.
        file = self.place.folder / f"run/{name}.pid"
        file.write_text(f"{process.pid} {_started(process.pid)} {words[0]}")
        self.mine[name] = process
        return process

    def listens(self, name: str, address: tuple[str, int] | Path) -> Callable[[], bool]:
        """Whether a daemon answers at a network's or a socket's address yet; raises ``ChildProcessError`` if it has
        ended instead.
        """
        family = socket.AF_UNIX if isinstance(address, Path) else socket.AF_INET

        def is_so() -> bool:
            self.must_run(name)
            with contextlib.suppress(OSError), socket.socket(family) as client:
                client.settimeout(1)
                client.connect(str(address) if isinstance(address, Path) else address)
                return True
            return False

        return is_so

    def must_run(self, name: str) -> None:
        if (status := self.mine[name].poll()) is not None:
            raise ChildProcessError(f"{name} has ended with status {status}")

    def kill(self, name: str) -> None:
        """End one that this or an earlier session has started, and nothing else that has its number by now."""
        file = self.place.folder / f"run/{name}.pid"
        # Not three words: a session was killed while it wrote them.
        if file.exists() and len(words := file.read_text().split()) == 3:
            pid, started, program = int(words[0]), words[1], words[2]
            if _started(pid) == started and _is(pid, program):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                if name in self.mine:
                    self.mine[name].wait()
                until(lambda: _started(pid) != started, f"{name} (process {pid}) is dead")
        self.mine.pop(name, None)
        file.unlink(missing_ok=True)

    def kill_all(self) -> None:
        for file in sorted(self.place.folder.glob("run/*.pid")):
            self.kill(file.stem)

    def last_words(self) -> str:
        """The ends of all logs."""
        logs = sorted(self.place.folder.glob("log/*.log"))
        return "\n".join(
            line
            for log in logs
            for line in (f"== {log}", *log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
        )


def children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def _is(pid: int, program: str) -> bool:
    try:
        return program in Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return False


def _started(pid: int) -> str:
    """When a process was started, in ticks since the machine was; empty for a dead one, which may still be there as a
    zombie if nobody asks for its status.
    """
    try:
        # Its name, the second field, may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return "" if fields[0] in "ZX" else fields[19]
