"""Slurm's commands as far as handing in needs them: a folder that holds what was handed in, and no cluster behind it.

Called by the name of a command, as ``sbatch`` and so on; ``FAKE_SLURM`` is the folder. In it ``away`` makes all fail,
``slow-to-say`` makes sbatch take the job and fail.
"""

from __future__ import annotations

import json
import os
import re
import stat
import sys
from pathlib import Path

COMMANDS = ("sbatch", "srun", "squeue", "sacct", "scancel", "sinfo")


def install(folder: Path) -> Path:
    """Make the commands in ``folder``, which is to be on PATH."""
    folder.mkdir()
    for name in COMMANDS:
        tool = folder / name
        tool.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S -E "{__file__}" {name} "$@"\n')
        tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    return folder


def jobs(folder: Path) -> list[dict[str, str]]:
    """What was handed in: number, name, size of the array (or ""), dependency, and state."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.job"))]


def put(folder: Path, number: str, **values: str) -> None:
    path = folder / f"{number}.job"
    before = json.loads(path.read_text()) if path.exists() else {"number": number}
    path.write_text(json.dumps(before | values))


def _sbatch(folder: Path, words: list[str]) -> None:
    options = dict(re.findall(r"^#SBATCH --([a-z-]+)=(.*)$", Path(words[-1]).read_text(), re.MULTILINE))
    number = str(100 + len(jobs(folder)))
    values = {"name": options["job-name"], "array": options.get("array", ""), "state": "PENDING"}
    put(folder, number, waits=options.get("dependency", ""), **values)
    if (folder / "slow-to-say").exists():
        sys.exit("sbatch: error: Batch job submission failed: Socket timed out on send/recv operation")
    print(f"Submitted batch job {number}")


def _lines(job: dict[str, str], shape: str) -> list[str]:
    match = re.match(r"0-(\d+)", job["array"])
    numbers = [f"{job['number']}_{task}" for task in range(int(match[1]) + 1)] if match else [job["number"]]
    return [shape.format(**{**job, "number": number}) for number in numbers]


def _main(command: str, words: list[str]) -> None:
    folder = Path(os.environ["FAKE_SLURM"])
    if (folder / "away").exists():
        sys.exit(f"{command}: error: Unable to contact slurm controller")
    options = dict(word.lstrip("-").split("=", 1) for word in words if word.startswith("--") and "=" in word)
    if command == "sbatch":
        _sbatch(folder, words)
    elif command == "squeue":
        for job in jobs(folder):
            if not job.get("forgotten"):
                print(*_lines(job, "{number}|{state}|None|{name}"), sep="\n")
    elif command == "sacct":
        for job in jobs(folder):
            if job["name"] == options.get("name") or job["number"] in options.get("jobs", "").split(","):
                print(*_lines(job, "{number}|{state}|None|{name}"), sep="\n")
    elif command == "scancel":
        for number in words:
            if not number.startswith("-"):
                put(folder, number.partition("_")[0], state="CANCELLED")


if __name__ == "__main__":
    _main(sys.argv[1], sys.argv[2:])
