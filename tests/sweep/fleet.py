"""A scheduler that does what a test tells it, and jobs that write their notes without working."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from drdg.sweep.asked import Asked
from drdg.sweep.notes import NOTE, Note
from drdg.sweep.plan import Sweep, make_sweep
from drdg.sweep.spec import REPORT, JobSpec

DEMO = str(Path(__file__).parents[2] / "configs/demo.yaml")
LOG = "/logs/12_0_log.out"
clock = itertools.count(1_000_000.0)
"""Each note is later than the one before."""


def places(folder: Path) -> tuple[str, ...]:
    """The overrides by which all lies in ``folder``."""
    towns = folder / "towns"
    archives = (f"source.archive.root={towns / 'Potsdam'}", f"target.archive.root={towns / 'Vaihingen'}")
    return (f"run.root={folder}", f"shards.root={folder / 'shards'}", f"synthetic.root={towns}", *archives)


def planned(folder: Path, rows: str = "rdg,drdg", seeds: str = "0,1", **more: object) -> Sweep:
    """A small sweep whose towns are to be generated, so that no file is looked at."""
    stores = [f"tracking.uri={more.pop('store')}"] if "store" in more else []
    asked = {"config": DEMO, "rows": rows, "seeds": seeds, "overrides": (*places(folder), *stores), **more}
    return make_sweep(Asked(**asked))  # type: ignore[arg-type]


def note_of(job: JobSpec, said: str, **more: object) -> Note:
    values: dict[str, object] = {"job_id": "12", "host": "node1", "log": LOG, "began": next(clock), "at": next(clock)}
    if said == "done":
        values["result"] = str(job.place)
    return Note(said, more.pop("digest", job.digest), **{**values, **more})  # type: ignore[arg-type]


def leave(job: JobSpec, said: str, **more: object) -> None:
    """Write what a job would."""
    job.place.mkdir(parents=True, exist_ok=True)
    (job.place / NOTE).write_text(json.dumps(asdict(note_of(job, said, **more))))


@dataclass(frozen=True)
class Known:
    """What the scheduler knows of a job."""

    state: str
    reason: str = ""
    job_id: str = "12"
    log: str = LOG
    digest: str = ""


@dataclass
class Fleet:
    """An executor. Each look at it lets every job whose needs are done end; ``fate`` says how, by its key."""

    fate: Callable[[JobSpec], str] = lambda job: "done"
    known: dict[str, Known] = field(default_factory=dict)
    jobs: dict[str, JobSpec] = field(default_factory=dict)
    handed_in: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    frozen: bool = False
    on_look: Callable[[], None] = lambda: None
    numbers: itertools.count = field(default_factory=lambda: itertools.count(100))  # type: ignore[type-arg]
    folder: Path | None = None

    def submit(self, jobs: Sequence[JobSpec]) -> None:
        if jobs:
            (Path(jobs[0].folder) / "orders.json").write_text("{}")
        for job in jobs:
            known = self.known.get(job.key)
            is_there = known is not None and known.state != "ended" and known.digest == job.digest
            if is_there and not any(need in self.handed_in[-len(jobs) :] for need in job.needs):
                raise AssertionError(f"{job.key} is alive as it is")
            self.jobs[job.key] = job
            self.known[job.key] = Known("waiting", "Dependency", str(next(self.numbers)), LOG, job.digest)
            self.handed_in.append(job.key)

    def states(self) -> dict[str, Known]:
        self.on_look()
        if not self.frozen:
            before = dict(self.known)
            for key, job in self.jobs.items():
                self._go_on(key, job, before)
        return dict(self.known)

    def _go_on(self, key: str, job: JobSpec, known_before: dict[str, Known]) -> None:
        if self.known[key].state == "ended":
            return
        before = [known_before.get(need) for need in job.needs]
        if any(known is not None and known.state != "ended" for known in before):
            return
        if key != REPORT and any(known is not None and known.reason != "COMPLETED" for known in before):
            self._end(key, "CANCELLED")  # as Slurm does by kill-on-invalid-dep
            return
        fate = self.fate(job)
        if fate == "waits":
            return
        if fate in ("done", "failed"):
            leave(job, fate, job_id=self.known[key].job_id, **({"error": "out of paint"} if fate == "failed" else {}))
        elif fate != "CANCELLED":
            leave(job, "running", job_id=self.known[key].job_id)
        self._end(key, {"done": "COMPLETED", "failed": "FAILED"}.get(fate, fate))

    def _end(self, key: str, how: str) -> None:
        self.known[key] = replace(self.known[key], state="ended", reason=how)

    def cancel(self, keys: Iterable[str]) -> int:
        ended = [key for key in keys if self.known[key].state != "ended"]
        for key in ended:
            self._end(key, "CANCELLED")
        self.ended += ended
        return len(ended)

    def describe(self, jobs: Sequence[JobSpec]) -> str:
        return f"#SBATCH of {len(jobs)} jobs"
