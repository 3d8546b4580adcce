"""What runs first in a node, as its process 1: it makes the node a machine of its own and keeps its daemon running.

    python power_on.py NAME ADDRESS FOLDER [COMMAND]

in new namespaces; the folder is the cluster's. Without a command there is no daemon, and others come in from outside.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path


def main(name: str, address: str, folder: Path, command: list[str]) -> None:
    socket.sethostname(name)
    for file in ("hosts", "nsswitch.conf"):
        _do("mount", "--bind", folder / "etc" / file, f"/etc/{file}")
    _do("mount", "-t", "tmpfs", "-o", "size=2g", "tmpfs", "/dev/shm")
    while "eth0" not in (interface for _, interface in socket.if_nameindex()):
        time.sleep(0.01)  # the cable is plugged in from outside
    _do("ip", "address", "add", f"{address}/24", "dev", "eth0")
    for interface in ("lo", "eth0"):
        _do("ip", "link", "set", interface, "up")
    while not command:
        time.sleep(3600)
    while True:
        daemon = os.spawnvp(os.P_NOWAIT, command[0], command)
        # Process 1 is also the parent of all whose own has died.
        while os.wait()[0] != daemon:
            pass
        time.sleep(0.2)


def _do(*command: object) -> None:
    subprocess.run([str(word) for word in command], check=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), sys.argv[4:])
