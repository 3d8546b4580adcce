"""Ranks that mpiexec or DeepSpeed's launcher started find each other."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Each rank writes a file of its own: what several print, mpiexec passes on in pieces.
MEET = """
import sys, torch
from pathlib import Path
from drdg.config import load_config
from drdg.distributed.group import process_group
from drdg.distributed.topology import discover
topology = discover()
with process_group(load_config(None, ["distributed.threads=1"]).distributed, topology) as group:
    ranks = group.gather(torch.tensor([group.rank])).flatten().tolist()
said = f"{topology.launcher} {topology.local_rank} {topology.local_world_size} {topology.master_address} {ranks}"
Path(sys.argv[1], str(topology.rank)).write_text(said)
"""
Mpiexec = Callable[..., subprocess.CompletedProcess[str]]


def test_mpi_brings_ranks_together_and_torch_takes_over(mpiexec: Mpiexec, tmp_path: Path) -> None:
    done = mpiexec(3, "-c", MEET, tmp_path)
    assert done.returncode == 0, done.stderr
    said = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert said == {str(rank): f"mpiexec {rank} 3 127.0.0.1 [0, 1, 2]" for rank in range(3)}


def test_processes_that_mpi_does_not_bring_together_are_refused() -> None:
    pytest.importorskip("mpi4py")
    variables = {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "2"}
    command = [sys.executable, "launch/train.py", "--dry-run"]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=os.environ | variables, timeout=60, check=False
    )
    assert done.returncode == 2
    (said,) = done.stderr.splitlines()
    assert said.startswith("error: 2 processes were started, but ")


def test_deepspeeds_launcher_starts_the_command_as_it_is() -> None:
    pytest.importorskip("deepspeed")
    launcher = Path(sys.prefix, "bin/deepspeed")
    command = [sys.executable, launcher, "--num_gpus=2", "launch/train.py", "--dry-run", "run.name=both"]
    quiet = os.environ | {"DS_ACCELERATOR": "cpu", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=quiet, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    said = sorted(line for line in done.stdout.splitlines() if line.startswith("would train"))
    assert said == [f"would train gan of drdg as rank {rank} of 2 in runs/both" for rank in (0, 1)]
