"""A sweep's jobs on a real cluster: each is handed in once, waits for what it needs, and continues where it was."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from drdg.cluster.executors import default_kind
from drdg.cluster.local import LocalSweep
from drdg.cluster.slurm import SlurmSweep
from drdg.config.sweep import ResourcesConfig, SweepConfig
from drdg.sweep.notes import Note, read_note
from drdg.sweep.spec import JobSpec

# All in one process, as there is one cluster.
pytestmark = [pytest.mark.xdist_group("slurm"), pytest.mark.timeout(1200)]

CHEAP = Path(__file__).parents[1] / "cluster"
sys.path.append(str(CHEAP))  # for this process; jobs have it as PYTHONPATH
from cheap_jobs import RUN, begun, chain, go, job, told  # noqa: E402

NARROW = ResourcesConfig(gpus=0, cpus=1, memory_gb=0.3, minutes=10)
SETTINGS = SweepConfig(shards=NARROW, gan=NARROW, single=NARROW)
ENDED = "ended"


@pytest.fixture
def sweep(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SlurmSweep:
    """A sweep's executor as the command on the login node has it."""
    for name, value in cluster.variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONPATH", str(CHEAP))
    return SlurmSweep(tmp_path / "a sweep", SETTINGS, RUN)


@pytest.fixture(autouse=True)
def nothing_left(cluster: Any, request: pytest.FixtureRequest) -> Any:
    """What a test that failed midway leaves is not the next one's trouble."""
    yield
    cluster.call("scancel", "--user=root")
    cluster.tidy([])


def wait(is_so: Callable[[], bool], what: Callable[[], object]) -> None:
    end = time.monotonic() + 300
    while not is_so():
        assert time.monotonic() < end, what()
        time.sleep(0.2)


def wait_for_end(sweep: SlurmSweep, *keys: str) -> dict[str, str]:
    """Until they, or all, have ended; the reason of each."""

    def has_ended() -> bool:
        states = sweep.states()
        return all(states[key].state == ENDED for key in keys or states)

    wait(has_ended, sweep.states)
    return {key: state.reason for key, state in sweep.states().items()}


def note(sweep: SlurmSweep, spec: JobSpec) -> Note:
    found = read_note(spec.place)
    assert found is not None, sweep.states()
    return found


def names(cluster: Any) -> list[str]:
    """Of all jobs of these tests' sweeps that were ever handed in.

    Not those of other tests: the accounting may hear of one that they have cancelled only now.
    """
    shape = ("--noheader", "--parsable2", "--allocations", "--duplicates", "--format=JobName")
    found = set(cluster.call("sacct", *shape).split())
    return sorted(name for name in found if "a_to_b" in name or "a-to-b" in name)


def test_a_job_that_fails_leaves_its_neighbours_in_the_array_alone(cluster: Any, sweep: SlurmSweep) -> None:
    folder = sweep.folder
    good, bad = chain(folder, "drdg", 0), chain(folder, "drdg", 1, first="fail")
    others = [chain(folder, "rdg", seed) for seed in (0, 1)]
    # They follow the first two of four.
    after = [
        job(folder, f"a_to_b/seed{seed}/other/segment", needs=[cell[1].key]) for seed, cell in enumerate((good, bad))
    ]
    report = job(folder, "report", needs=[*(cell[1].key for cell in others), *(spec.key for spec in after)])
    cells = (good, bad, *others)
    sweep.submit([*(cell[0] for cell in cells), *(cell[1] for cell in cells), *after, report])
    reasons = wait_for_end(sweep)
    blocked = (bad[1].key, after[1].key)
    assert {key for key, reason in reasons.items() if reason == "CANCELLED"} == {*blocked}  # by Slurm
    assert {key for key, reason in reasons.items() if reason == "FAILED"} == {bad[0].key}
    assert set(reasons.values()) == {"COMPLETED", "FAILED", "CANCELLED"}
    assert (note(sweep, bad[0]).said, note(sweep, bad[0]).error) == ("failed", "the input is bad")
    assert "the input is bad" in Path(note(sweep, bad[0]).log).read_text()
    assert note(sweep, good[1]).log == sweep.states()[good[1].key].log
    assert not any(told(folder, key) for key in blocked)
    arrays = {state.job_id.partition("_")[0] for state in sweep.states().values()}
    assert len(arrays) == 4  # the report's alone is none
    assert told(folder)[-1]["key"] == "report"
    # A second time what has failed alone, and what has missed it.
    sweep.submit([job(folder, bad[0].key), bad[1], after[1]])
    assert set(wait_for_end(sweep).values()) == {"COMPLETED"}
    assert [begun(folder, spec.key) for spec in (*good, *bad, *after)] == [1, 1, 2, 1, 1, 1]


KILLED = """
import os, signal, sys
from pathlib import Path
from cheap_jobs import RUN, job
from drdg.cluster import slurm
from tests_settings import SETTINGS
sweep = slurm.SlurmSweep(Path(sys.argv[1]), SETTINGS, RUN)
def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
{fault}
sweep.submit([job(sweep.folder, f"a_to_b/seed{{seed}}/drdg/gan", sys.argv[2]) for seed in (0, 1)])
"""
FAULTS = {
    "before sbatch": "slurm.SlurmExecutor._submit_command = die",
    "after sbatch": "from submitit.core import utils; utils.JobPaths.move_temporary_file = die",
    "before it is written down": "slurm.Orders.record = die",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_command_that_is_killed_hands_nothing_in_twice(
    cluster: Any, sweep: SlurmSweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    settings = f"from drdg.config.sweep import SweepConfig\nSETTINGS = SweepConfig(**{SETTINGS.model_dump()!r})\n"
    (tmp_path / "tests_settings.py").write_text(settings)
    monkeypatch.setenv("PYTHONPATH", f"{CHEAP}:{tmp_path}")
    before = names(cluster)
    command = [sys.executable, "-c", KILLED.format(fault=FAULTS[fault]), str(sweep.folder), "follow"]
    killed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    jobs = [job(sweep.folder, f"a_to_b/seed{seed}/drdg/gan", "follow") for seed in (0, 1)]
    assert len(sweep.states()) == (0 if fault == "before sbatch" else 2)
    sweep.submit(jobs)
    sweep.submit(jobs)
    wait(lambda: all(begun(sweep.folder, spec.key) for spec in jobs), sweep.states)
    for spec in jobs:
        go(sweep.folder, spec.key)
    assert set(wait_for_end(sweep).values()) == {"COMPLETED"}
    assert [begun(sweep.folder, spec.key) for spec in jobs] == [1, 1]
    wait(lambda: len(names(cluster)) > len(before), lambda: names(cluster))
    assert len(names(cluster)) == len(before) + 1


def test_told_to_stop_preempted_and_robbed_of_its_node(
    cluster: Any, sweep: SlurmSweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = job(sweep.folder, "a_to_b/seed0/drdg/gan", "train")
    plain, other = (job(sweep.folder, f"a_to_b/seed{seed}/drdg/translate", "follow") for seed in (0, 1))
    sweep.settings = SETTINGS.model_copy(update={"gan": NARROW.model_copy(update={"nodes": 2})})
    with monkeypatch.context() as launched:
        launched.setenv("RANK", "0")  # of a launcher that the command was started by
        sweep.submit([spec, plain, other])
    number = {key: state.job_id for key, state in sweep.states().items()}

    def wait_for_starts(of_spec: int, of_plain: int, of_other: int) -> None:
        wanted = {spec.key: 2 * of_spec, plain.key: of_plain, other.key: of_other}
        wait(
            lambda: {key: begun(sweep.folder, key) for key in wanted} == wanted,
            lambda: (sweep.states(), told(sweep.folder)),
        )

    wait_for_starts(1, 1, 1)
    # As Slurm does it when the time is nearly up: to the processes.
    for key in (spec.key, plain.key):
        cluster.call("scancel", "--signal=USR2", number[key])
    wait_for_starts(2, 2, 1)
    urgent = cluster.submit("--partition=urgent", "--nodes=3", "--exclusive", "--output=/dev/null", "--wrap=true")
    assert cluster.wait(urgent)["JobState"] == "COMPLETED"
    wait_for_starts(3, 3, 2)
    lost = cluster.call("scontrol", "show", "hostnames", cluster.job(number[spec.key])["NodeList"]).split()[0]
    cluster.crash(lost)
    wait(lambda: begun(sweep.folder, spec.key) == 8, sweep.states)
    cluster.start(lost)
    for key in number:
        go(sweep.folder, key)
    assert set(wait_for_end(sweep).values()) == {"COMPLETED"}
    assert note(sweep, spec).restarts == int(cluster.job(number[spec.key])["Restarts"]) == 3
    # The first process twice; its node then lost its power without a word.
    saved = [words for words in told(sweep.folder, spec.key) if words["what"] == "saves"]
    assert sum(words["environment"]["SLURM_PROCID"] == "0" for words in saved) == 2
    assert {key: state.job_id for key, state in sweep.states().items()} == number
    assert number[plain.key].partition("_") == (number[other.key].partition("_")[0], "_", "0")
    assert not any("RANK" in words["environment"] for words in told(sweep.folder))


def test_cancelled(cluster: Any, sweep: SlurmSweep, capfd: pytest.CaptureFixture[str]) -> None:
    training, following = chain(sweep.folder, "drdg", 0, first="train")
    sweep.submit([training, following])
    wait(lambda: begun(sweep.folder, training.key) == 1, sweep.states)
    states = sweep.states()
    assert (states[training.key].state, states[following.key].state) == ("running", "waiting")
    assert states[following.key].reason == "Dependency"
    # By somebody else.
    cluster.call("scancel", states[training.key].job_id)
    assert wait_for_end(sweep) == {training.key: "CANCELLED", following.key: "CANCELLED"}
    assert note(sweep, training).said == "again"
    # By the command, on Slurm's own account, and by other settings.
    sweep.submit([training, following])
    wait(lambda: begun(sweep.folder, training.key) == 2, sweep.states)
    assert sweep.cancel([training.key]) == 1
    assert wait_for_end(sweep) == {training.key: "CANCELLED", following.key: "CANCELLED"}
    wait(lambda: note(sweep, training).said == "again", lambda: note(sweep, training))
    sweep.submit([training, following])
    wait(lambda: begun(sweep.folder, training.key) == 3, sweep.states)
    other = [job(sweep.folder, training.key, digest="b"), job(sweep.folder, following.key, "", [training.key], "b")]
    capfd.readouterr()
    sweep.submit(other)
    said = capfd.readouterr().err
    assert f"{training.key}: cancelled" in said
    assert f"{following.key}: cancelled" in said
    assert set(wait_for_end(sweep).values()) == {"COMPLETED"}
    assert note(sweep, other[1]).is_done(other[1].digest)


def test_what_slurm_refuses_and_another_kind(cluster: Any, sweep: SlurmSweep) -> None:
    spec = job(sweep.folder, "a_to_b/seed0/drdg/gan", "follow")
    wrong = SlurmSweep(sweep.folder, SETTINGS.model_copy(update={"partition": "no_such"}), RUN)
    with pytest.raises(ValueError, match=r"sbatch refuses a_to_b/seed0/drdg/gan: .*partition"):
        wrong.submit([spec])
    assert wrong.states() == {}
    sweep.submit([spec])
    with pytest.raises(ValueError, match="go on with --executor slurm"):
        LocalSweep(sweep.folder, SETTINGS, RUN).submit([spec])
    go(sweep.folder, spec.key)
    wait_for_end(sweep)
    assert default_kind() == "slurm"
