"""``launch/doctor.py`` on a real cluster: a healthy one, and one whose nodes do not reach each other."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from drdg.config import Config, to_yaml

# All in one process, as there is one cluster.
pytestmark = [pytest.mark.xdist_group("slurm"), pytest.mark.timeout(1200)]

WIDE = ("--mpi=none", "--nodes=2", "--ntasks-per-node=2", "--cpus-per-task=1", "--mem-per-cpu=500M")


def examine(cluster: Any, config: Config, folder: Path, *options: str) -> tuple[int, dict[str, tuple[str, str]]]:
    """The command's status, and for each check how bad it is and what was measured."""
    path = folder / "config.yaml"
    path.write_text(to_yaml(config))
    # Not by a batch script, whose srun would itself have to reach one node from the other.
    command = ["srun", *WIDE, sys.executable, "launch/doctor.py", "--config", str(path), "--json", *options]
    variables = cluster.variables | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=variables, cwd=cluster.root, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    order = ("ok", "warning", "bad")
    worst: dict[str, tuple[str, str]] = {}
    for finding in sorted(json.loads(done.stdout), key=lambda finding: order.index(finding["level"])):
        worst[finding["check"]] = finding["level"], finding["measured"]
    return done.returncode, worst


def test_a_healthy_cluster(cluster: Any, small: Callable[..., Config], tmp_path: Path) -> None:
    status, worst = examine(cluster, small("gan.batch_size=4"), tmp_path, "--timeout=30")
    assert [(check, said) for check, (level, said) in worst.items() if level == "bad"] == []
    assert status == 0
    assert worst["ranks"] == ("ok", "4 ranks on 2 nodes by srun, 2 on each")
    for check in ("port", "host names", "clocks", "signals", "locks", "all-reduce", "links"):
        assert worst[check][0] in ("ok", "warning"), worst[check]  # of what is slow on a busy machine
    assert worst["shards"][0] == "warning"  # they were not built
    assert not list(tmp_path.rglob(".drdg-doctor*"))


def test_nodes_that_cannot_reach_each_other(cluster: Any, small: Callable[..., Config], tmp_path: Path) -> None:
    """A firewall between the nodes that drops what one sends to the other; Slurm itself is not in its way."""
    first, second = (cluster.place.address(node) for node in ("node1", "node2"))
    cluster.run_on("node2", "ip", "route", "add", "blackhole", f"{first}/32")
    try:
        status, worst = examine(cluster, small("gan.batch_size=4"), tmp_path, "--timeout=5")
    finally:
        cluster.run_on("node2", "ip", "route", "delete", "blackhole", f"{first}/32")
    assert status == 1
    level, said = worst["ranks"]
    assert level == "bad"
    assert "of node2, never came" in said
    level, said = worst["port"]
    assert level == "bad"
    assert "on node2 cannot reach node1:" in said
    assert second not in said
