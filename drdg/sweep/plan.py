"""Station 6, sweep: the whole plan: every job of every direction, seed and row, with what it needs.

The same configuration and files give the same plan, in any process: what is done, what is running and what is to be
started is found by its keys and digests.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from drdg.config import Config, DomainConfig, RunConfig, SweepConfig, digest
from drdg.experiments import Row, find_row
from drdg.shards.remote import is_remote
from drdg.sweep.asked import Asked, Direction, directions_of, name_of, rows_of, seeds_of
from drdg.sweep.digests import Cache, Content, shards_digest, stage_digests
from drdg.sweep.spec import REPORT, ROW_STAGES, SHARDS, JobSpec
from drdg.tracking.store import given_uri


@dataclass(frozen=True)
class Cell:
    """One row with one seed in one direction."""

    key: str
    """``DIRECTION/seedN/ROW``."""
    direction: str
    row: str
    seed: int
    config: Config
    """That of the run of its direction and seed, without the row's own settings."""
    is_asked: bool
    """False for a row of which only the translated tiles are needed, by another."""
    jobs: tuple[str, ...]
    """The keys of the jobs that lead to its scores (or tiles), first to last, its own and others'."""

    @property
    def own_jobs(self) -> tuple[str, ...]:
        """The keys of its own stages."""
        return tuple(key for key in self.jobs if key.rpartition("/")[0] == self.key)

    @property
    def evaluate(self) -> str:
        """The key of the job that scores it."""
        return f"{self.key}/{ROW_STAGES[-1]}"


@dataclass(frozen=True)
class Sweep:
    """A plan."""

    name: str
    folder: Path
    directions: tuple[Direction, ...]
    rows: tuple[str, ...]
    """Those that were asked for."""
    seeds: tuple[int, ...]
    settings: SweepConfig
    uri: str
    """Of the MLflow store."""
    experiment: str
    cells: tuple[Cell, ...]
    """Those that were asked for, then those whose tiles others need."""
    jobs: dict[str, JobSpec]
    """By key, each after all that it needs."""

    @property
    def preset(self) -> str:
        """The presets of the directions, usually one."""
        return ",".join(dict.fromkeys(direction.config.preset for direction in self.directions))

    @property
    def asked_cells(self) -> tuple[Cell, ...]:
        """The cells of the table."""
        return tuple(cell for cell in self.cells if cell.is_asked)


def make_sweep(asked: Asked) -> Sweep:
    """The plan of what is asked for; archives' files are looked at, nothing is written.

    Raises ``ValueError`` with one sentence for whatever does not go together.
    """
    rows, seeds = rows_of(asked), seeds_of(asked)
    directions = directions_of(asked)
    folder = _folder(directions, name_of(asked, directions))
    needed = _with_helpers(rows)
    cache: Cache = {}
    jobs: dict[str, JobSpec] = {}
    cells: list[Cell] = []
    for direction in directions:
        config = _resolved(direction.config)
        content = Content(config, cache)
        key = f"{direction.name}/{SHARDS}"
        first = _run_config(config, direction.name, folder, rows, seeds[0])
        jobs[key] = JobSpec(
            key=key,
            stage=SHARDS,
            digest=shards_digest(map(find_row, needed), content),
            folder=str(folder),
            config=first.model_dump(mode="json"),
            rows=rows,
        )
        for seed in seeds:
            run = _run_config(config, direction.name, folder, rows, seed)
            for row in map(find_row, needed):
                mine = _jobs_of(row, run, content, direction.name, folder, is_asked=row.name in rows)
                jobs.update((job.key, job) for job in mine)
            prefix = f"{direction.name}/seed{seed}"
            cells += [_cell(direction.name, row, seed, run, jobs, row in rows, f"{prefix}/{row}") for row in needed]
    jobs[REPORT] = _report(jobs, folder, rows)
    cells.sort(key=lambda cell: not cell.is_asked)
    only = {name: _one(name, directions) for name in ("sweep", "tracking")}
    return Sweep(
        name=folder.name,
        folder=folder,
        directions=directions,
        rows=rows,
        seeds=seeds,
        settings=only["sweep"],
        uri=given_uri(directions[0].config.tracking.uri, folder)[0],
        experiment=only["tracking"].experiment,
        cells=tuple(cells),
        jobs=_in_order(jobs),
    )


def folder_of(asked: Asked) -> Path:
    """Where the sweep lies that is asked for, without a look at its data. Raises ``ValueError`` as make_sweep does."""
    directions = directions_of(asked)
    return _folder(directions, name_of(asked, directions))


def _folder(directions: Sequence[Direction], name: str) -> Path:
    roots = {direction.config.run.root: direction for direction in directions}
    if len(roots) > 1:
        (one, first), (other, second) = list(roots.items())[:2]
        raise ValueError(
            f"run.root is {one} in {first.given_by} and {other} in {second.given_by}; give one for all by "
            f"--set run.root={one}"
        )
    return next(iter(roots)).absolute() / name


def _one(section: str, directions: Sequence[Direction]) -> Any:
    """The section that all directions have to share."""
    first = getattr(directions[0].config, section)
    for direction in directions[1:]:
        other = getattr(direction.config, section)
        if other != first:
            knob = next(name for name, value in first if value != getattr(other, name))
            raise ValueError(
                f"{section}.{knob} differs between {directions[0].given_by} and {direction.given_by}; give one for all "
                f"by --set {section}.{knob}=..."
            )
    return first


def _with_helpers(rows: Iterable[str]) -> tuple[str, ...]:
    """The rows, and before them those that they build on, each once."""
    rows = tuple(rows)
    helpers = [name for row in map(find_row, rows) for name in row.builds_on if name not in rows]
    for name in (*helpers, *rows):
        # Else the edges below would not be all.
        assert not any(find_row(other).builds_on for other in find_row(name).builds_on), name
    return (*dict.fromkeys(helpers), *rows)


def _jobs_of(row: Row, run: Config, content: Content, direction: str, folder: Path, *, is_asked: bool) -> list[JobSpec]:
    """The jobs of one row and seed, first to last; of a helper only those that make its tiles."""
    digests = stage_digests(row, run, content)
    stages = [stage for stage in digests if is_asked or stage in ("gan", "translate")]
    prefix = f"{direction}/seed{run.run.seed}"
    before: tuple[str, ...] = (f"{direction}/{SHARDS}",)
    found = []
    for stage in stages:
        if stage == "segment":
            tiles = tuple(f"{prefix}/{name}/translate" for name in row.builds_on)
            # Whoever learns from others' tiles alone needs no shards but those that they are made of.
            before = (*(before if "translate" in digests else ()), *tiles) or before
        found.append(
            JobSpec(
                key=f"{prefix}/{row.name}/{stage}",
                stage=stage,
                digest=digests[stage],
                folder=str(folder),
                needs=before,
                config=run.model_dump(mode="json"),
                rows=(row.name,),
            )
        )
        before = (found[-1].key,)
    return found


def _cell(direction: str, row: str, seed: int, run: Config, jobs: dict[str, JobSpec], is_asked: bool, key: str) -> Cell:
    own = [job for job in jobs if job.rpartition("/")[0] == key]
    wanted = ancestors(jobs, own) | set(own)
    return Cell(key, direction, row, seed, run, is_asked, tuple(_in_order({k: jobs[k] for k in jobs if k in wanted})))


def ancestors(jobs: dict[str, JobSpec], keys: Iterable[str]) -> set[str]:
    """The keys of all jobs that must be done before those of ``keys``."""
    found: set[str] = set()
    ahead = list(keys)
    while ahead:
        new = set(jobs[ahead.pop()].needs) - found
        found |= new
        ahead += new
    return found


def _in_order(jobs: dict[str, JobSpec]) -> dict[str, JobSpec]:
    """Each after those it needs; else as they stand."""
    ordered: dict[str, JobSpec] = {}

    def add(key: str) -> None:
        if key not in ordered and key in jobs:
            for need in jobs[key].needs:
                add(need)
            ordered[key] = jobs[key]

    for key in jobs:
        add(key)
    return ordered


def _report(jobs: dict[str, JobSpec], folder: Path, rows: tuple[str, ...]) -> JobSpec:
    scored = [job for job in jobs.values() if job.stage == ROW_STAGES[-1]]
    known_by = digest({"stage": REPORT, "of": {job.key: job.digest for job in scored}})
    needs = tuple(job.key for job in scored)
    return JobSpec(REPORT, REPORT, known_by, str(folder), needs, config=scored[0].config, rows=rows)


def _run_config(config: Config, direction: str, folder: Path, rows: tuple[str, ...], seed: int) -> Config:
    run = RunConfig(name=f"{direction}_seed{seed}", root=folder / "runs", seed=seed, rows=list(rows), keep_changed=True)
    return config.model_copy(update={"run": run})


def _resolved(config: Config) -> Config:
    """The configuration with every path absolute, so that a job finds them wherever it starts.

    ``segmentation.encoder_weights`` stays as it was typed: it is part of what the weights are known by. Jobs start
    where the command did, so that it is found as well.
    ``tracking.uri`` is taken out: it may hold a password, which would go wherever a configuration goes, and it may
    change while jobs wait. They read it where they start (``drdg.sweep.record.current_uri``).
    """

    def domain(values: DomainConfig) -> DomainConfig:
        place = values.shards
        if place is not None and not is_remote(place):
            place = str(Path(place).absolute())
        archive = values.archive.model_copy(update={"root": values.archive.root.absolute()})
        return values.model_copy(update={"archive": archive, "shards": place})

    shards = {"root": config.shards.root.absolute()}
    if config.shards.cache is not None:
        shards["cache"] = config.shards.cache.absolute()
    synthetic = config.synthetic
    if synthetic is not None:
        synthetic = synthetic.model_copy(update={"root": synthetic.root.absolute()})
    distributed = {"deepspeed": config.distributed.deepspeed.absolute()}
    return config.model_copy(
        update={
            "source": domain(config.source),
            "target": domain(config.target),
            "synthetic": synthetic,
            "shards": config.shards.model_copy(update=shards),
            "distributed": config.distributed.model_copy(update=distributed),
            "tracking": config.tracking.model_copy(update={"uri": None}),
        }
    )


def with_parents(sweep: Sweep, parents: dict[str, str], described: dict[str, Any]) -> Sweep:
    """The plan with the MLflow run of each job's parent, and with what the report has to know of the sweep.

    ``parents``: run ids by cell's key, and the sweep's own under ``""``.
    """
    jobs = {
        key: replace(
            job,
            parent_run_id=parents.get(key.rpartition("/")[0], parents[""]),
            sweep=described if job.stage == REPORT else {},
        )
        for key, job in sweep.jobs.items()
    }
    return replace(sweep, jobs=jobs)
