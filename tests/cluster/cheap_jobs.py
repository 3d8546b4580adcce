"""Jobs that cost nothing: each does what its ``config["do"]`` says, and writes down when it did.

``follow`` waits until the file ``go/KEY`` is there; ``train`` as well, but between iterations it can be asked to stop.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from drdg.sweep.spec import JobSpec
from drdg.training.preemption import SCHEDULERS, Stopped, listening

RUN = "cheap_jobs:run"
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Outcome:
    stage_digest: str
    result: str


def job(
    folder: Path, key: str, do: str = "", needs: Sequence[str] = (), digest: str = "a", processes: int = 1
) -> JobSpec:
    stage = key.rpartition("/")[2]
    config = {"do": do, "distributed": {"processes": processes}}
    return JobSpec(key, stage, f"{digest} {key}", str(folder), tuple(needs), config)


def chain(
    folder: Path, row: str, seed: int, first: str = "", stages: Sequence[str] = ("gan", "translate")
) -> list[JobSpec]:
    """Stages of a row each of which needs the one before; the first one does ``first``."""
    jobs: list[JobSpec] = []
    for stage in stages:
        needs = [jobs[-1].key] if jobs else []
        jobs.append(job(folder, f"a_to_b/seed{seed}/{row}/{stage}", "" if jobs else first, needs))
    return jobs


def go(folder: Path, key: str) -> None:
    """Let a job that waits go on."""
    path = folder / "go" / key.replace("/", "-")
    path.parent.mkdir(exist_ok=True)
    path.touch()


def told(folder: Path, key: str = "") -> list[dict[str, Any]]:
    """What jobs, or the job, wrote down, oldest first."""
    path = folder / "told.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [words for words in map(json.loads, lines) if key in ("", words["key"])]


def begun(folder: Path, key: str) -> int:
    """How often the job was begun."""
    return sum(words["what"] == "begins" for words in told(folder, key))


def of_sweep(folder: Path) -> list[psutil.Process]:
    """All processes that were started for a sweep."""
    found = []
    for process in psutil.process_iter():
        try:
            if any(str(folder) in word for word in process.cmdline()) and "pytest" not in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def run(spec: JobSpec) -> Outcome:
    """What ``Work`` calls."""
    _tell(spec, "begins")
    do = spec.config["do"]
    with listening(SCHEDULERS if do == "train" else ()) as request:
        if do == "fail":
            raise ValueError("the input is bad")
        if do == "crash":
            raise RuntimeError("it broke\nin two lines")
        if do == "exit":
            raise SystemExit(3)
        if do == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if do in ("follow", "train"):
            may_go = Path(spec.folder, "go", spec.key.replace("/", "-"))
            while not may_go.exists():
                time.sleep(0.05)
                if request.number:
                    _tell(spec, "saves")
                    # As trainings do: of several processes the first alone.
                    raise Stopped(request.number, "an iteration", os.environ.get("SLURM_PROCID", "0") == "0")
    _tell(spec, "ends")
    result = spec.place / "result"
    result.mkdir(exist_ok=True)
    return Outcome("digest of " + spec.key, str(result))


def _tell(spec: JobSpec, what: str) -> None:
    words = {
        "key": spec.key,
        "what": what,
        "pid": os.getpid(),
        "cores": sorted(os.sched_getaffinity(0)),
        "at": time.time(),
    }
    words["environment"] = {
        name: value for name, value in os.environ.items() if name.startswith(("SLURM", "OMP_", "RANK", "CUDA"))
    }
    # In one piece, as several may write.
    with Path(spec.folder, "told.jsonl").open("ab", buffering=0) as file:
        file.write((json.dumps(words) + "\n").encode())
