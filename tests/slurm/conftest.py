"""The fixture ``cluster``: a real Slurm cluster of three nodes on this machine.

Its nodes are namespaces, so it needs Linux and root; the disks, and with them the checkout, are the same on all nodes.
Where it cannot be, the tests on it are skipped and say why; where it can be and does not come up, that is an error.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from cluster import Cluster
from nodes import NAMESPACES, ip
from packages import SEARCH_PATH, missing
from settings import Place

# Of the 600 s that pytest gives a test together with the making of its fixtures.
PATIENCE_FOR_OTHERS_S = 300.0


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The cluster, brought down when the session ends."""
    place = Place.of_environment()
    if reason := what_forbids(place):
        pytest.skip(reason)
    with alone(place):
        made = Cluster(place)
        try:
            bring_up(made)
            yield made
        finally:
            made.down()


@pytest.fixture(autouse=True)
def tidied(request: pytest.FixtureRequest) -> Iterator[None]:
    """What a test that failed midway leaves, jobs and nodes without power, is not the next one's trouble."""
    if "cluster" not in request.fixturenames:
        yield
        return
    made: Cluster = request.getfixturevalue("cluster")
    before = len(made.submitted)
    yield
    made.tidy(made.submitted[before:])


def what_forbids(place: Place) -> str:
    """Why there can be no cluster here; empty if there can."""
    if sys.platform != "linux":
        return "a cluster of namespaces needs Linux"
    if os.geteuid() != 0:
        return "a cluster of namespaces needs root"
    if packages := missing():
        return f"not installed: {', '.join(packages)} ('make test' as root installs them on Debian and Ubuntu)"
    unshare = subprocess.run(
        ["unshare", *NAMESPACES, "--fork", "--mount-proc", "true"],
        env=os.environ | {"PATH": SEARCH_PATH},
        capture_output=True,
        text=True,
        check=False,
    )
    if unshare.returncode:
        return f"no namespaces can be made here: {unshare.stderr.strip()}"
    trial = f"{place.bridge}t"
    made = ip("link", "add", trial, "type", "bridge")
    if made.returncode:
        return f"no network bridge can be made here: {made.stderr.strip()}"
    ip("link", "delete", trial)
    return ""


@contextmanager
def alone(place: Place) -> Iterator[None]:
    """One cluster at a time on a machine; other sessions wait for theirs."""
    end = time.monotonic() + PATIENCE_FOR_OTHERS_S
    with place.lock.open("w") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    pytest.fail(f"{place.lock}: for {PATIENCE_FOR_OTHERS_S:.0f} s another session had its cluster up")
                time.sleep(0.5)
        yield


def bring_up(made: Cluster) -> None:
    """A second time, from nothing, where a busy machine was too late for the first."""
    for last in (False, True):
        try:
            return made.up()
        except (OSError, subprocess.SubprocessError) as error:
            if last:
                pytest.fail(f"the cluster did not come up: {error}\n{made.daemons.last_words()}")
