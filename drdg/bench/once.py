"""Station 7, bench: one build in processes of its own, which say how long it took and how much memory.

``python -m drdg.bench.once DOMAIN SHARDS``, the two sections as JSON; rank 0 prints the answer as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from drdg.bench.machine import peak_memory_mb, take_core
from drdg.config import DomainConfig, ShardsConfig
from drdg.distributed.mpi import open_crew
from drdg.distributed.topology import mpi_place
from drdg.shards.build import build_shards
from drdg.shards.crew import Alone, Crew

ERROR = "error: "


def build_in_child(domain: DomainConfig, shards: ShardsConfig, ranks: int) -> dict[str, float]:
    """Build with labels on ``ranks`` MPI ranks, or with 0 in one process without MPI.

    Each rank has a core of its own. One rank is as in ``shards/build.py``: it does not load MPI. Returns ``seconds`` of
    the build proper, from when all ranks have started to when all are done, and ``peak_mb``, the largest peak memory of
    a rank. Raises ``ValueError`` when there is no ``mpiexec`` or the build fails.
    """
    command = [sys.executable, "-m", "drdg.bench.once", domain.model_dump_json(), shards.model_dump_json()]
    if ranks:
        # A core for each rank, lest one alone takes all of them; as srun and mpiexec -bind-to core have it.
        command = [mpiexec(), "-n", str(ranks), *command, "--own-core"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        how = f"on {ranks} MPI ranks" if ranks else "in a process of its own"
        raise ValueError(
            f"{shards.root}: the build {how} ended with status {done.returncode}: {_last_words(done.stderr)}"
        )
    return json.loads(done.stdout.strip().splitlines()[-1])


def mpiexec() -> str:
    """The ``mpiexec`` of this environment, else of the search path; ``ValueError`` when there is none."""
    place = Path(sys.prefix) / "bin" / "mpiexec"
    found = str(place) if place.is_file() else shutil.which("mpiexec")
    if found is None:
        raise ValueError("mpiexec: not found; pip install 'drdg[mpi]', or leave the ranks out with --only")
    return found


def main() -> None:
    """Build once and say what it took."""
    arguments = argparse.ArgumentParser(description="One build of shards, measured from inside.")
    arguments.add_argument("domain", type=DomainConfig.model_validate_json)
    arguments.add_argument("shards", type=ShardsConfig.model_validate_json)
    arguments.add_argument("--own-core", action="store_true", help="keep each rank to a core of its own")
    options = arguments.parse_args()
    if options.own_core:
        rank, _ = mpi_place()
        take_core(rank)
    try:
        with open_crew(Alone(quiet=True)) as crew:
            answer = _measured(options.domain, options.shards, crew)
    except ValueError as error:
        raise SystemExit(f"{ERROR}{error}") from error
    if answer is not None:
        print(json.dumps(answer))


def _measured(domain: DomainConfig, shards: ShardsConfig, crew: Crew) -> dict[str, float] | None:
    """What the build took, on rank 0; None on the others."""
    crew.gather(None)
    began = time.perf_counter()
    build_shards(domain, shards, need_label=True, crew=crew)
    crew.gather(None)
    seconds = time.perf_counter() - began
    peaks = crew.gather(peak_memory_mb())
    return {"seconds": seconds, "peak_mb": max(peaks)} if crew.rank == 0 else None


def _last_words(said: str) -> str:
    """The sentence by which a child ended, else its last line."""
    lines = said.strip().splitlines() or ["it says nothing"]
    return next((line.removeprefix(ERROR) for line in lines if line.startswith(ERROR)), lines[-1])


if __name__ == "__main__":
    main()
