"""Station 6, cluster: which jobs are handed in together as an array, and what each call waits for.

Every job waits for exactly what it needs, never for what its neighbours in the array need: a cell that fails takes no
other one with it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from drdg.sweep.spec import REPORT, ROW_STAGES, JobSpec

# Slurm's own limit, MaxArraySize, is 1001 unless a site says otherwise.
LONGEST_ARRAY = 500


@dataclass(frozen=True)
class Task:
    """A job in a batch that is just being handed in, or in an array that is alive already: its place there."""

    batch: int | str
    """The number of the batch among those that are being handed in; an array's number, as Slurm has it."""
    index: int


Ref = Task | str
"""What a job waits for: such a task, or a job in no array that is alive already, by its number."""


@dataclass(frozen=True)
class Batch:
    """Jobs handed in by one call of the scheduler; several of them are an array."""

    jobs: tuple[JobSpec, ...]
    after: tuple[Ref, ...] = ()
    """What all of them wait for."""
    beside: tuple[int | str, ...] = ()
    """Arrays (by their batch) whose task of the same number each of them waits for as well."""

    @property
    def is_array(self) -> bool:
        """Whether it has several jobs."""
        return len(self.jobs) > 1

    @property
    def stage(self) -> str:
        """That of all its jobs."""
        return self.jobs[0].stage

    @property
    def name(self) -> str:
        """What its jobs have in common, for people."""
        if not self.is_array:
            return self.jobs[0].key
        parts = [key_parts(job) for job in self.jobs]
        common = [names[0] for names in zip(*parts, strict=True) if len(set(names)) == 1]
        return "/".join(common)


@dataclass
class _Packing:
    batches: list[Batch] = field(default_factory=list)
    task_of: dict[str, Task] = field(default_factory=dict)

    def put(self, batch: Batch) -> None:
        for index, job in enumerate(batch.jobs):
            self.task_of[job.key] = Task(len(self.batches), index)
        self.batches.append(batch)


def pack(jobs: Sequence[JobSpec], alive: Mapping[str, str]) -> list[Batch]:
    """Batches of ``jobs``, each after those that it waits for.

    ``jobs`` are in the order of their needs; ``alive`` has the numbers of jobs that were handed in before. What is
    needed and in neither is done.
    """
    packing = _Packing()
    for group in _groups(jobs):
        refs = {job.key: _refs(job, packing.task_of, alive) for job in group}
        for batch in _batches(group, refs):
            packing.put(batch)
    return packing.batches


def key_parts(job: JobSpec) -> tuple[str, ...]:
    """A key's parts: of a stage of a row its direction, seed, row and stage."""
    return tuple(job.key.rsplit("/", 3)) if job.stage in ROW_STAGES else (job.key,)


def _groups(jobs: Sequence[JobSpec]) -> Iterator[list[JobSpec]]:
    """Jobs of one direction and stage, none of which needs another of them, the seeds of each row side by side."""
    depth: dict[str, int] = {}
    for job in jobs:
        depth[job.key] = 1 + max((depth.get(need, -1) for need in job.needs), default=-1)
    found: dict[tuple[int, str, str], list[JobSpec]] = {}
    for job in jobs:
        found.setdefault((depth[job.key], key_parts(job)[0], job.stage), []).append(job)
    for _, group in sorted(found.items(), key=lambda item: item[0][0]):
        rows = list(dict.fromkeys(_row(job) for job in group))
        yield sorted(group, key=lambda job: rows.index(_row(job)))


def _row(job: JobSpec) -> str:
    return key_parts(job)[-2] if job.stage in ROW_STAGES else job.key


def _refs(job: JobSpec, task_of: Mapping[str, Task], alive: Mapping[str, str]) -> frozenset[Ref]:
    found: set[Ref] = set()
    for need in job.needs:
        if need in task_of:
            found.add(task_of[need])
        elif need in alive:
            array, _, index = alive[need].partition("_")
            found.add(Task(array, int(index)) if index else array)
    return frozenset(found)


def _batches(group: list[JobSpec], refs: Mapping[str, frozenset[Ref]]) -> Iterator[Batch]:
    if group[0].stage not in ROW_STAGES:
        for job in group:
            yield Batch((job,), _sorted(refs[job.key]))
        return
    for jobs in _split(group, lambda job: frozenset(_batch_of(ref) for ref in refs[job.key])):
        common = frozenset.intersection(*(refs[job.key] for job in jobs))
        arrays, left = _corresponding(jobs, {job.key: refs[job.key] - common for job in jobs})
        for array in arrays:
            beside = {ref.batch for ref in refs[array[0].key] - common if isinstance(ref, Task)}
            yield Batch(tuple(array), _sorted(common), tuple(sorted(beside, key=str)))
        for same in _split(left, lambda job: refs[job.key]):
            for first in range(0, len(same), LONGEST_ARRAY):
                yield Batch(tuple(same[first : first + LONGEST_ARRAY]), _sorted(refs[same[0].key]))


def _batch_of(ref: Ref) -> int | str:
    """Jobs that wait for the same arrays may become one themselves."""
    return ref.batch if isinstance(ref, Task) else ref


def _split(jobs: Iterable[JobSpec], kind_of: Callable[[JobSpec], Hashable]) -> list[list[JobSpec]]:
    kinds: dict[Hashable, list[JobSpec]] = {}
    for job in jobs:
        kinds.setdefault(kind_of(job), []).append(job)
    return list(kinds.values())


def _corresponding(
    jobs: list[JobSpec], refs: Mapping[str, frozenset[Ref]]
) -> tuple[list[list[JobSpec]], list[JobSpec]]:
    """Arrays whose tasks wait for the tasks of the same numbers of others, row beside row, and what fits into none."""
    arrays: list[list[JobSpec]] = []
    for row in _split(jobs, _row):
        numbers = {job.key: _number(refs[job.key]) for job in row}
        known = sorted((number, job.key, job) for job in row if (number := numbers[job.key]) is not None)
        first = known[0][0] if known else 0
        if [number for number, _, _ in known] != list(range(first, first + len(row))):
            continue
        array = next((array for array in arrays if len(array) == first), None)
        if array is None and first == 0:
            arrays.append(array := [])
        if array is not None:
            array += [job for _, _, job in known]
    arrays = [array for array in arrays if len(array) > 1]
    placed = {job.key for array in arrays for job in array}
    return arrays, [job for job in jobs if job.key not in placed]


def _number(refs: Iterable[Ref]) -> int | None:
    """That of all tasks that a job waits for, one in each of some arrays; None where there is no such."""
    tasks = [ref for ref in refs if isinstance(ref, Task)]
    numbers = {task.index for task in tasks}
    is_one = len(numbers) == 1 and len(tasks) == len(set(refs)) == len({task.batch for task in tasks})
    return numbers.pop() if is_one else None


def _sorted(refs: Iterable[Ref]) -> tuple[Ref, ...]:
    def place(ref: Ref) -> tuple[bool, str, int]:
        return (True, f"{ref.batch:>9}", ref.index) if isinstance(ref, Task) else (False, ref, 0)

    return tuple(sorted(refs, key=place))


def dependency(batch: Batch, number_of: Mapping[int, str], batches: Sequence[Batch]) -> str:
    """What Slurm is told that ``batch`` waits for; ``number_of`` has the number of each batch handed in before."""

    def number(of: int | str) -> str:
        return number_of[of] if isinstance(of, int) else of

    after = [ref for ref in batch.after if isinstance(ref, str)]
    tasks = [ref for ref in batch.after if isinstance(ref, Task)]
    for array in dict.fromkeys(task.batch for task in tasks):
        indices = [task.index for task in tasks if task.batch == array]
        if isinstance(array, int) and len(indices) == len(batches[array].jobs):
            after.append(number(array))  # the whole of it
        else:
            after += [f"{number(array)}_{index}" for index in indices]
    said = [":".join(["afterany" if batch.stage == REPORT else "afterok", *after])] if after else []
    return ",".join([*said, *(f"aftercorr:{number(array)}" for array in batch.beside)])
