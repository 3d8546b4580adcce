"""Nodes: namespaces of their own for network, name, processes, mounts and shared memory; the disks are everybody's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from daemons import ENVIRONMENT, Daemons, children, until
from settings import HEAD, NODES, Place

NAMESPACES = ("--net", "--uts", "--ipc", "--mount", "--pid")


def ip(*words: object) -> subprocess.CompletedProcess[str]:
    """``ip WORDS`` in this machine's own network."""
    command = ["ip", *map(str, words)]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)


def _addresses(pid: int) -> str:
    return Path(f"/proc/{pid}/net/fib_trie").read_text()


class Nodes:
    """The machines, on a switch of their own."""

    def __init__(self, place: Place, daemons: Daemons):
        self.place = place
        self.daemons = daemons

    def connect(self) -> None:
        """The switch, with this machine on it. Raises ``OSError`` where it cannot be made."""
        made = (
            # If the switch goes away, nothing meant for it leaves this machine by another way.
            ip("route", "replace", "blackhole", f"{self.place.network}.0/24", "metric", 9999),
            ip("link", "add", self.place.bridge, "type", "bridge"),
            ip("address", "add", f"{self.place.this_machine}/24", "dev", self.place.bridge),
            ip("link", "set", self.place.bridge, "up"),
        )
        for done in made:
            if done.returncode:
                raise OSError(f"{' '.join(done.args)}: {done.stderr.strip()}")

    def disconnect(self) -> None:
        for node in (*NODES, HEAD):
            ip("link", "delete", self.place.interface(node))
        ip("link", "delete", self.place.bridge)
        ip("route", "delete", "blackhole", f"{self.place.network}.0/24", "metric", 9999)

    def start(self, node: str) -> None:
        """Give it power; nothing if it has."""
        if self.is_on(node):
            return
        first = Path(__file__).with_name("power_on.py")
        keeps = () if node == HEAD else ("slurmd", "-D", "-f", self.place.configuration)
        machine = self.daemons.start(
            node,
            *("unshare", *NAMESPACES, "--fork", "--kill-child", "--mount-proc"),
            *(sys.executable, "-I", first, node, self.place.address(node), self.place.folder, *keeps),
        )
        until(lambda: bool(children(machine.pid)) or machine.poll() is not None, f"{node} is on")
        self._plug_in(node, machine.pid)

    def _plug_in(self, node: str, pid: int) -> None:
        interface = self.place.interface(node)
        ip("link", "delete", interface)  # of a network that has lost its last process and is just going
        eth0 = ("name", "eth0", "address", self.place.hardware_address(node), "netns", pid)
        for words in (
            ("link", "add", interface, "type", "veth", "peer", *eth0),
            ("link", "set", interface, "master", self.place.bridge, "up"),
        ):
            done = ip(*words)
            if done.returncode:
                raise OSError(f"{' '.join(done.args)}: {done.stderr.strip()}")

    def crash(self, node: str) -> None:
        """Take its power: all its processes die at once, and no word of it reaches the others."""
        self.cut(node)
        self.daemons.kill(node)

    def cut(self, node: str) -> None:
        """Take its network; its processes go on."""
        assert ip("link", "set", self.place.interface(node), "down").returncode == 0, f"{node} has no network"

    def heal(self, node: str) -> None:
        """Give it its network again."""
        assert ip("link", "set", self.place.interface(node), "up").returncode == 0, f"{node} has no network"

    def restart_slurmd(self, node: str) -> None:
        """Kill slurmd alone, jobs go on; return when a new one runs."""
        (old,) = self._slurmd(node)
        os.kill(old, signal.SIGKILL)
        until(lambda: self._slurmd(node) not in ([], [old]), f"{node} has a slurmd again")

    def is_on(self, node: str) -> bool:
        machine = self.daemons.mine.get(node)
        return machine is not None and machine.poll() is None

    def is_cut(self, node: str) -> bool:
        return "state UP" not in ip("link", "show", self.place.interface(node)).stdout

    def inside(self, node: str) -> list[str]:
        """What makes a command run in the node, put before it."""
        (first,) = children(self.daemons.mine[node].pid)
        return ["nsenter", "--target", str(first), *NAMESPACES, "--"]

    def at_its_place(self, node: str) -> list[str]:
        """What makes a daemon of this machine's listen in the node's network, under its name, put before it."""
        (first,) = children(self.daemons.mine[node].pid)
        until(lambda: self.place.address(node) in _addresses(first), f"{node} has its address")
        return ["nsenter", "--target", str(first), "--net", "--uts", "--mount", "--"]

    def _slurmd(self, node: str) -> list[int]:
        (first,) = children(self.daemons.mine[node].pid)
        return [pid for pid in children(first) if Path(f"/proc/{pid}/comm").read_text().strip() == "slurmd"]
