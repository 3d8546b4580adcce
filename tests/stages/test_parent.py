"""Ranks that a process has started end with it, and those that it has not do not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

RANK = """
import time
from drdg.stages.parent import die_with_parent
die_with_parent()
print("up", flush=True)
time.sleep(600)
"""
STARTER = f"""
import os, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {RANK!r}], stdout=subprocess.PIPE, text=True,
                         env=os.environ | {{"DRDG_STARTED_BY": str(os.getpid()) if sys.argv[1] == "as a rank" else ""}})
child.stdout.readline()
print(child.pid, flush=True)
child.wait()
"""


@pytest.mark.parametrize("how", ["as a rank", "by itself"])
def test_a_rank_ends_with_who_started_it(how: str) -> None:
    starter = subprocess.Popen([sys.executable, "-c", STARTER, how], stdout=subprocess.PIPE, text=True)
    assert starter.stdout is not None
    rank = psutil.Process(int(starter.stdout.readline()))
    starter.kill()
    starter.wait()
    try:
        if how == "as a rank":
            while rank.is_running() and rank.status() != psutil.STATUS_ZOMBIE:
                time.sleep(0.1)
        else:
            time.sleep(2.0)  # four looks, had it any
            assert rank.status() != psutil.STATUS_ZOMBIE
    finally:
        if rank.is_running():
            os.kill(rank.pid, signal.SIGKILL)
