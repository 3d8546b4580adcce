"""Arrays and dependencies: every job waits for exactly what it needs, in whatever company it is handed in."""

from __future__ import annotations

from pathlib import Path

from cheap_jobs import job
from hypothesis import given
from hypothesis import strategies as st

from drdg.cluster.packing import LONGEST_ARRAY, Batch, Ref, Task, dependency, pack
from drdg.cluster.sbatch import described
from drdg.config.sweep import ResourcesConfig, SweepConfig
from drdg.sweep.spec import REPORT, ROW_STAGES, JobSpec

FOLDER = Path("/no such folder")
D = "a_to_b"


def table(rows: dict[str, str], seeds: int, directions: tuple[str, ...] = (D,)) -> list[JobSpec]:
    """The jobs of rows, each with whose translated tiles its segmentor learns from: its own, another's, or nobody's."""
    jobs = []
    for direction in directions:
        shards = f"{direction}/shards"
        jobs.append(job(FOLDER, shards))
        for seed in range(seeds):
            place = f"{direction}/seed{seed}"
            for row, tiles in rows.items():
                needs = [shards]
                if tiles == row:
                    jobs.append(job(FOLDER, f"{place}/{row}/gan", needs=[shards]))
                    jobs.append(job(FOLDER, f"{place}/{row}/translate", needs=[f"{place}/{row}/gan"]))
                if tiles:
                    needs = [f"{place}/{tiles}/translate"]
                jobs.append(job(FOLDER, f"{place}/{row}/segment", needs=needs))
                jobs.append(job(FOLDER, f"{place}/{row}/evaluate", needs=[f"{place}/{row}/segment"]))
    jobs.append(job(FOLDER, REPORT, needs=[spec.key for spec in jobs if spec.stage == "evaluate"]))
    order = ("shards", *ROW_STAGES, REPORT)
    return sorted(jobs, key=lambda spec: order.index(spec.stage))


def waits_of(batches: list[Batch]) -> dict[str, set[str]]:
    """What each job waits for, by Slurm's rules: a key, or the number of a job that was alive before."""

    def name(ref: Ref) -> str:
        if isinstance(ref, str):
            return ref
        return batches[ref.batch].jobs[ref.index].key if isinstance(ref.batch, int) else f"{ref.batch}_{ref.index}"

    found = {}
    for batch in batches:
        for index, spec in enumerate(batch.jobs):
            refs = [*batch.after, *(Task(array, index) for array in batch.beside)]
            found[spec.key] = {name(ref) for ref in refs}
    return found


@st.composite
def graphs(draw: st.DrawFn) -> tuple[list[JobSpec], dict[str, str]]:
    """Jobs of rows and seeds of which some are alive, some done, and some need what others of any row make."""
    jobs: list[JobSpec] = []
    alive: dict[str, str] = {}
    left: list[JobSpec] = []
    for stage in ("shards", *ROW_STAGES):
        before = [spec.key for spec in jobs]
        for row in ("x", "y") if stage != "shards" else ("",):
            for seed in range(draw(st.integers(0, 3))) if row else (0,):
                key = f"{D}/seed{seed}/{row}/{stage}" if row else f"{D}/shards"
                needs = draw(st.lists(st.sampled_from(before), unique=True, max_size=3)) if before else []
                own = f"{D}/seed{seed}/{row}/{ROW_STAGES[ROW_STAGES.index(stage) - 1]}" if row else ""
                if own in before and draw(st.booleans()):
                    needs = [own]
                spec = job(FOLDER, key, needs=needs)
                jobs.append(spec)
                what = draw(st.sampled_from(["new", "new", "new", "done", "alive"]))
                if what == "new":
                    left.append(spec)
                elif what == "alive":
                    number = str(100 + draw(st.integers(0, 1)))
                    index = sum(other.startswith(f"{number}_") for other in alive.values())
                    alive[key] = f"{number}_{index}" if draw(st.booleans()) else f"{len(alive)}"
    return left, alive


@given(graphs())
def test_every_job_waits_for_exactly_what_it_needs(graph: tuple[list[JobSpec], dict[str, str]]) -> None:
    jobs, alive = graph
    batches = pack(jobs, alive)
    new = {spec.key for spec in jobs}
    assert sorted(spec.key for batch in batches for spec in batch.jobs) == sorted(new)
    waits = waits_of(batches)
    for spec in jobs:
        wanted = {need for need in spec.needs if need in new} | {alive[need] for need in spec.needs if need in alive}
        assert waits[spec.key] == wanted
    for number, batch in enumerate(batches):
        waits_for = [*(ref.batch for ref in batch.after if isinstance(ref, Task)), *batch.beside]
        assert all(other < number for other in waits_for if isinstance(other, int)), "a circle"
        assert batch.is_array or not batch.beside
        # Slurm's aftercorr: tasks of the same number.
        longest = [len(batches[other].jobs) for other in batch.beside if isinstance(other, int)]
        assert all(length >= len(batch.jobs) for length in longest)
        assert len({spec.stage for spec in batch.jobs}) == 1
        assert len(batch.jobs) <= LONGEST_ARRAY


def test_a_whole_table_is_a_few_arrays() -> None:
    jobs = table({"baseline": "", "other": "", "drdg": "drdg", "rdg": "rdg", "again": "drdg"}, seeds=3)
    batches = pack(jobs, {})
    assert [(batch.name, len(batch.jobs)) for batch in batches] == [
        (f"{D}/shards", 1),
        (f"{D}/gan", 6),
        (f"{D}/segment", 6),  # of baseline and other, which need the same
        (f"{D}/translate", 6),
        (f"{D}/evaluate", 6),
        (f"{D}/segment", 6),  # beside the translations of drdg and rdg
        (f"{D}/again/segment", 3),  # beside the first three of them
        (f"{D}/evaluate", 6),
        (f"{D}/again/evaluate", 3),
        ("report", 1),
    ]


def test_a_row_whose_every_seed_is_new_is_an_array_at_each_stage() -> None:
    batches = pack(table({"drdg": "drdg", "rdg": "rdg"}, seeds=2, directions=(D, "b_to_a")), {})
    assert [len(batch.jobs) for batch in batches] == [1, 1, *[4] * 8, 1]
    numbers = {index: str(10 * index) for index in range(len(batches))}
    said = [dependency(batch, numbers, batches) for batch in batches]
    assert said == [
        *("", "", "afterok:0", "afterok:10", "aftercorr:20", "aftercorr:30", "aftercorr:40", "aftercorr:50"),
        *("aftercorr:60", "aftercorr:70", "afterany:80:90"),
    ]


def test_what_is_alive_is_waited_for_by_its_number() -> None:
    jobs = table({"drdg": "drdg"}, seeds=2)
    left = [spec for spec in jobs if spec.stage not in ("shards", "gan")]

    def said(*numbers: str) -> list[str]:
        batches = pack(left, {f"{D}/seed{seed}/drdg/gan": number for seed, number in enumerate(numbers)})
        return [dependency(batch, {index: f"n{index}" for index in range(9)}, batches) for batch in batches]

    assert said("7_0", "7_1") == ["aftercorr:7", "aftercorr:n0", "aftercorr:n1", "afterany:n2"]
    apart = ["afterok:n0", "afterok:n1", "afterok:n2", "afterok:n3", "afterany:n4:n5"]
    assert said("7_1", "7_2") == ["afterok:7_1", "afterok:7_2", *apart]
    assert said("7", "8") == ["afterok:7", "afterok:8", *apart]


def test_arrays_are_cut_where_slurm_would_not_take_them() -> None:
    jobs = [job(FOLDER, f"{D}/seed{seed}/baseline/segment") for seed in range(2 * LONGEST_ARRAY + 1)]
    assert [len(batch.jobs) for batch in pack(jobs, {})] == [LONGEST_ARRAY, LONGEST_ARRAY, 1]


def test_what_sbatch_is_told() -> None:
    settings = SweepConfig(
        gan=ResourcesConfig(nodes=2, processes=8, gpus=8, options={"reservation": "spring"}),
        shards=ResourcesConfig(gpus=0, memory_gb=1.5),
        at_once=3,
        account="me",
        signal_s=77,
    )
    batches = pack(table({"drdg": "drdg"}, seeds=4), {})
    text = described(settings, FOLDER, batches, lambda batch: batch.name.replace("/", "-"), "/a folder")
    shards, gan, translate, *_ = text.split("#!/bin/bash")[1:]
    for line in ("--nodes=2", "--ntasks-per-node=8", "--gpus-per-node=8", "--reservation=spring", "--account=me"):
        assert f"#SBATCH {line}\n" in gan
    for line in ("--kill-on-invalid-dep=yes", "--requeue", "--open-mode=append", "--signal=USR2@77", "--array=0-3%3"):
        assert f"#SBATCH {line}\n" in gan
    assert "#SBATCH --dependency='afterok:<a_to_b-shards>'\n" in gan
    assert "#SBATCH --dependency='aftercorr:<a_to_b-drdg-gan>'\n" in translate
    assert "#SBATCH --mem=1536M\n" in shards
    for absent in ("--gpus-per-node", "--array", "--dependency", "--partition", "--wckey", "--reservation"):
        assert f"#SBATCH {absent}" not in shards
    assert "\ncd '/a folder' || exit\n" in gan
    assert "source " in gan
    for option in ("--kill-on-bad-exit=0", "--wait=120", "--mpi=none", "--export=ALL"):
        assert f" {option} " in gan
