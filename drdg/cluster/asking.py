"""Station 6, cluster: what Slurm says of jobs, by ``squeue`` and ``sacct``, and what it is told by ``scancel``.

``squeue`` knows what is alive and what has ended lately; ``sacct``, where a site has it, all the rest.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import psutil

PATIENCE_S, POLL_S = 20.0, 0.2
# Commands take so many words at a time.
AT_ONCE = 200
RUNNING = {"RUNNING", "CONFIGURING", "COMPLETING", "SUSPENDED", "SIGNALING", "STAGE_OUT", "RESIZING", "STOPPED"}
# A job that was robbed of its nodes is just being queued again, as ours ask for that.
WAITING = {"PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD", "PREEMPTED"}
WAITING |= {"NODE_FAIL", "BOOT_FAIL"}
SEPARATOR = "|"


class Away(OSError):
    """Slurm's controller or its accounting does not answer."""


@dataclass(frozen=True)
class Said:
    """What Slurm says of a job."""

    job_id: str
    """``123``, or ``123_4`` for a task of an array."""
    state: str
    reason: str = ""
    name: str = ""

    @property
    def is_waiting(self) -> bool:
        """Whether it is to begin yet."""
        return self.state in WAITING

    @property
    def is_completing(self) -> bool:
        """Whether its processes are ending, or its nodes are being freed."""
        return self.state == "COMPLETING"

    @property
    def is_running(self) -> bool:
        """Whether it has nodes."""
        return self.state in RUNNING


def queue() -> dict[str, Said]:
    """All jobs of this user that Slurm's controller remembers. Raises ``Away``."""
    shape = SEPARATOR.join(("%i", "%T", "%r", "%j"))
    command = ("squeue", "--noheader", "--array", "--states=all", f"--user={os.getuid()}", f"--format={shape}")
    return _read(call(command))


def accounts(numbers: Iterable[str]) -> dict[str, Said]:
    """Those of the jobs that the accounting knows, tasks of arrays included; none where there is no accounting."""
    wanted = sorted({number.partition("_")[0] for number in numbers})
    found: dict[str, Said] = {}
    shape = ("--noheader", "--parsable2", "--allocations", "--array", "--format=JobID,State,Reason,JobName")
    try:
        for part in _parts(wanted):
            found |= _read(call(("sacct", *shape, f"--jobs={','.join(part)}")))
    except Away:
        pass
    return found


def called(name: str, since: float) -> set[str]:
    """The numbers of jobs of this name, tasks of an array apart, that were handed in after ``since``. Raises ``Away``
    where Slurm's controller does not answer.
    """
    found = {said.job_id for said in queue().values() if said.name == name}
    # A day is more than clocks differ. Without accounting there is what the controller remembers.
    began = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(since - 86400))
    shape = ("--noheader", "--parsable2", "--allocations", "--format=JobID,State,Reason,JobName")
    try:
        said = call(("sacct", *shape, f"--name={name}", f"--starttime={began}"))
        found |= {said.job_id for said in _read(said).values() if said.name == name}
    except Away:
        pass
    return {number.partition("_")[0] for number in found}


def wait_for_sbatch(name: str) -> None:
    """Wait while an sbatch hands in the job of this name; it outlives the command that has started it."""
    while any(_hands_in(process, name) for process in psutil.process_iter()):
        time.sleep(POLL_S)


def _hands_in(process: psutil.Process, name: str) -> bool:
    try:
        return process.name() == "sbatch" and any(name in word for word in process.cmdline())
    except psutil.Error:
        return False


def cancel(numbers: Sequence[str]) -> None:
    """End jobs; those that have ended are no error. Raises ``Away``."""
    for part in _parts(numbers):
        call(("scancel", "--quiet", *part))


def call(command: Sequence[str]) -> str:
    """What a command of Slurm's prints. Raises ``Away`` where it does not succeed in time."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        raise Away(f"{command[0]}: {error}") from None
    if done.returncode:
        raise Away(f"{command[0]} has ended with status {done.returncode}: {' '.join(done.stderr.split())}")
    return done.stdout


def _read(lines: str) -> dict[str, Said]:
    found = {}
    for line in lines.splitlines():
        words = line.split(SEPARATOR, 3)
        if len(words) != 4:
            continue
        state = words[1].split()[0] if words[1].split() else ""  # "CANCELLED by 0"
        for number in expanded(words[0]):
            found[number] = Said(number, state, words[2], words[3])
    return found


def expanded(number: str) -> list[str]:
    """The tasks of ``123_[0-2,5%4]``, which Slurm has not told apart yet."""
    match = re.fullmatch(r"(\d+)_\[([\d,-]+)(?:%\d+)?\]", number)
    if match is None:
        return [number]
    tasks: list[str] = []
    for part in match[2].split(","):
        first, _, last = part.partition("-")
        tasks += [f"{match[1]}_{task}" for task in range(int(first), int(last or first) + 1)]
    return tasks


def _parts(words: Sequence[str]) -> Iterable[Sequence[str]]:
    return [words[first : first + AT_ONCE] for first in range(0, len(words), AT_ONCE)]
