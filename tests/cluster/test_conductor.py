"""Jobs on this machine: within its cores, in the order of their needs, and whoever is killed, none twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from cheap_jobs import HERE, RUN, begun, chain, go, job, of_sweep, told

from drdg.cluster.conductor import LOCK, LOG
from drdg.cluster.local import LocalSweep
from drdg.cluster.locks import holder_here, is_held
from drdg.cluster.machine import cores
from drdg.config.sweep import SweepConfig
from drdg.sweep.notes import read_note

Wait = Callable[[Callable[[], bool], Callable[[], object]], None]
pytestmark = pytest.mark.timeout(600)


def how(sweep: LocalSweep) -> Callable[[], object]:
    return lambda: (sweep.states(), told(sweep.folder), (sweep.folder / LOG).read_text())


def wait_for_end(sweep: LocalSweep, wait: Wait) -> dict[str, str]:
    wait(lambda: all(state.state == "ended" for state in sweep.states().values()), how(sweep))
    return {key: state.reason for key, state in sweep.states().items()}


def kill_conductor(sweep: LocalSweep) -> None:
    conductor = holder_here(sweep.folder / LOCK)
    assert conductor is not None
    conductor.kill()
    conductor.wait()


def test_in_the_order_of_their_needs_and_never_on_more_cores_than_it_may(
    sweep: LocalSweep, wait: Wait, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As within somebody's salloc.
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setenv("RANK", "0")
    good, bad = chain(sweep.folder, "drdg", 0), chain(sweep.folder, "drdg", 1, first="fail")
    report = job(sweep.folder, "report", needs=[good[1].key, bad[1].key])
    sweep.submit([good[0], bad[0], good[1], bad[1], report])
    assert wait_for_end(sweep, wait) == {
        good[0].key: "COMPLETED",
        good[1].key: "COMPLETED",
        bad[0].key: "FAILED",
        bad[1].key: f"BLOCKED: needs {bad[0].key}, which has not succeeded",
        "report": "COMPLETED",
    }
    words = told(sweep.folder)
    assert [(line["key"], line["what"]) for line in words] == [
        (good[0].key, "begins"),
        (good[0].key, "ends"),
        (bad[0].key, "begins"),
        (good[1].key, "begins"),
        (good[1].key, "ends"),
        ("report", "begins"),
        ("report", "ends"),
    ]
    assert all(line["cores"] == cores()[:1] for line in words)
    for line in words:
        assert line["environment"].keys() & {"SLURM_JOB_ID", "RANK"} == set()
        assert (line["environment"]["OMP_NUM_THREADS"], line["environment"]["CUDA_VISIBLE_DEVICES"]) == ("1", "")
    assert "the input is bad" in Path(sweep.states()[bad[0].key].log).read_text()
    wait(lambda: not of_sweep(sweep.folder), lambda: of_sweep(sweep.folder))
    assert not is_held(sweep.folder / LOCK)
    # What has failed, again.
    sweep.submit([job(sweep.folder, bad[0].key), bad[1]])
    assert set(wait_for_end(sweep, wait).values()) == {"COMPLETED"}
    assert [begun(sweep.folder, spec.key) for spec in (*good, *bad)] == [1, 1, 2, 1]


def test_beside_each_other_on_cores_of_their_own(tmp_path: Path, wait: Wait, two_cores: int) -> None:
    sweep = LocalSweep(tmp_path / "a sweep", SweepConfig(local_cores=2), RUN)
    jobs = [job(sweep.folder, f"a_to_b/seed{seed}/drdg/translate", "follow") for seed in range(3)]
    wide = job(sweep.folder, "a_to_b/seed0/drdg/gan", "follow", processes=99)
    sweep.submit([*jobs[:2], wide, jobs[2]])
    wait(lambda: all(begun(sweep.folder, spec.key) for spec in jobs[:2]), how(sweep))
    assert sorted(line["cores"] for line in told(sweep.folder)) == [[core] for core in cores()[:2]]
    go(sweep.folder, jobs[0].key)
    wait(lambda: sweep.states()[jobs[0].key].state == "ended", how(sweep))
    # One core is free, but who wants all is not overtaken.
    wait(lambda: sweep.states()[wide.key].reason == "no cores are free", how(sweep))
    assert begun(sweep.folder, jobs[2].key) == 0
    go(sweep.folder, jobs[1].key)
    wait(lambda: begun(sweep.folder, wide.key) == 1, how(sweep))
    assert told(sweep.folder, wide.key)[0]["cores"] == cores()[:2]
    assert begun(sweep.folder, jobs[2].key) == 0
    go(sweep.folder, wide.key)
    go(sweep.folder, jobs[2].key)
    assert set(wait_for_end(sweep, wait).values()) == {"COMPLETED"}


def test_a_second_command_adds_to_the_first_one_s(sweep: LocalSweep, wait: Wait) -> None:
    first, second = chain(sweep.folder, "drdg", 0, first="follow")
    code = (
        "import sys; from pathlib import Path; from cheap_jobs import *; from drdg.cluster.local import LocalSweep;"
        "from drdg.config.sweep import SweepConfig;"
        "sweep = LocalSweep(Path(sys.argv[1]), SweepConfig(local_cores=1), RUN);"
        "sweep.submit([job(sweep.folder, sys.argv[2], 'follow')])"
    )
    # The command ends, and whatever reaches its group is not meant for the jobs.
    command = subprocess.Popen([sys.executable, "-c", code, str(sweep.folder), first.key], start_new_session=True)
    assert command.wait() == 0
    wait(lambda: begun(sweep.folder, first.key) == 1, how(sweep))
    with pytest.raises(ProcessLookupError):
        os.killpg(command.pid, signal.SIGKILL)
    conductor = holder_here(sweep.folder / LOCK)
    sweep.submit([first, second])
    sweep.submit([first, second])
    assert holder_here(sweep.folder / LOCK) == conductor
    assert sweep.states()[second.key].state == "waiting"
    go(sweep.folder, first.key)
    assert set(wait_for_end(sweep, wait).values()) == {"COMPLETED"}
    assert [begun(sweep.folder, spec.key) for spec in (first, second)] == [1, 1]


def test_jobs_outlive_a_killed_conductor_and_the_next_takes_them_over(sweep: LocalSweep, wait: Wait) -> None:
    first, second = chain(sweep.folder, "drdg", 0, first="follow")
    sweep.submit([first, second])
    wait(lambda: begun(sweep.folder, first.key) == 1, how(sweep))
    wait(lambda: sweep.states()[first.key].state == "running", how(sweep))
    kill_conductor(sweep)
    states = sweep.states()
    assert states[first.key].state == "running"
    assert states[second.key].state == "ended"
    assert states[second.key].reason.startswith("KILLED: the process that was to begin it has ended")
    sweep.submit([first, second])
    assert sweep.states()[second.key].state == "waiting"
    go(sweep.folder, first.key)
    assert set(wait_for_end(sweep, wait).values()) == {"COMPLETED"}
    assert [begun(sweep.folder, spec.key) for spec in (first, second)] == [1, 1]


def test_a_conductor_killed_before_it_could_say_what_it_has_begun(sweep: LocalSweep, wait: Wait) -> None:
    spec = job(sweep.folder, "a_to_b/seed0/drdg/gan", "follow")
    sweep.submit([spec])
    wait(lambda: begun(sweep.folder, spec.key) == 1, how(sweep))
    wait(lambda: sweep.states()[spec.key].state == "running", how(sweep))
    kill_conductor(sweep)
    orders = json.loads((sweep.folder / "orders.json").read_text())
    orders["orders"][0] |= {"state": "waiting", "job_id": "", "pid": 0, "began": 0.0, "on_cores": []}
    (sweep.folder / "orders.json").write_text(json.dumps(orders))
    sweep.submit([spec])
    wait(lambda: sweep.states()[spec.key].state == "running", how(sweep))
    go(sweep.folder, spec.key)
    assert wait_for_end(sweep, wait) == {spec.key: "COMPLETED"}
    assert begun(sweep.folder, spec.key) == 1


def test_a_killed_job(sweep: LocalSweep, wait: Wait) -> None:
    dying, following = chain(sweep.folder, "drdg", 0, first="die")
    sweep.submit([dying, following])
    assert wait_for_end(sweep, wait) == {
        dying.key: "KILLED",
        following.key: f"BLOCKED: needs {dying.key}, which has not succeeded",
    }
    note = read_note(dying.place)
    assert note is not None
    assert note.said == "running"
    # The process that watches over a job is killed, and not the one that does the work.
    training = job(sweep.folder, dying.key, "follow")
    sweep.submit([training])
    wait(lambda: begun(sweep.folder, dying.key) == 2, how(sweep))
    wait(lambda: sweep.states()[dying.key].state == "running", how(sweep))
    psutil.Process(int(sweep.states()[dying.key].job_id)).kill()
    sweep.submit([training])
    go(sweep.folder, dying.key)
    assert wait_for_end(sweep, wait)[dying.key] == "COMPLETED"
    assert begun(sweep.folder, dying.key) == 2


def test_cancelled_and_continued(sweep: LocalSweep, wait: Wait) -> None:
    training, following = chain(sweep.folder, "drdg", 0, first="train")
    sweep.submit([training, following])
    wait(lambda: begun(sweep.folder, training.key) == 1, how(sweep))
    assert sweep.cancel([training.key, following.key]) == 2
    assert wait_for_end(sweep, wait) == {training.key: "CANCELLED", following.key: "CANCELLED"}
    assert [line["what"] for line in told(sweep.folder)] == ["begins", "saves"]
    note = read_note(training.place)
    assert note is not None
    assert note.said == "again"
    assert sweep.cancel([training.key, following.key]) == 0
    wait(lambda: not of_sweep(sweep.folder), lambda: of_sweep(sweep.folder))
    # Again, and it is somebody else who ends it: then it goes on by itself.
    sweep.submit([training, following])
    wait(lambda: begun(sweep.folder, training.key) == 2, how(sweep))
    os.kill(told(sweep.folder)[-1]["pid"], signal.SIGTERM)
    wait(lambda: begun(sweep.folder, training.key) == 3, how(sweep))
    os.kill(told(sweep.folder)[-1]["pid"], signal.SIGUSR2)
    wait(lambda: begun(sweep.folder, training.key) == 4, how(sweep))
    go(sweep.folder, training.key)
    assert set(wait_for_end(sweep, wait).values()) == {"COMPLETED"}


def test_handed_in_again_while_it_is_asked_to_end(sweep: LocalSweep, wait: Wait) -> None:
    # It is held up, so that it goes on until it is let.
    training, following = chain(sweep.folder, "drdg", 0, first="train")
    sweep.submit([training, following])
    wait(lambda: begun(sweep.folder, training.key) == 1, how(sweep))
    process = psutil.Process(told(sweep.folder)[0]["pid"])
    process.suspend()
    assert sweep.cancel([training.key, following.key]) == 2
    state = sweep.states()[training.key]
    assert (state.state, state.reason) == ("running", "CANCELLED: asked to end")
    assert sweep.cancel([training.key]) == 0
    sweep.submit([training, following])
    assert sweep.states()[training.key].state == "waiting"
    wait(lambda: sweep.states()[training.key].reason == "an earlier start of it is ending", how(sweep))
    process.resume()
    wait(lambda: begun(sweep.folder, training.key) == 2, how(sweep))
    go(sweep.folder, training.key)
    assert set(wait_for_end(sweep, wait).values()) == {"COMPLETED"}


def test_a_job_with_a_gpu_has_its_share_of_the_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drdg.cluster.local.cores", lambda: list(range(16)))
    jobs = [job(tmp_path, f"a_to_b/{name}") for name in ("shards", "seed0/drdg/gan", "seed0/drdg/segment")]

    def shares(gpus: int, **settings: int) -> list[int]:
        monkeypatch.setattr("drdg.cluster.local.gpus", lambda: list(range(gpus)))
        plan = LocalSweep(tmp_path, SweepConfig(**settings), RUN).describe(jobs)
        return [int(line.split(": ")[1].split()[0]) for line in plan.splitlines()[1:]]

    assert shares(0) == [1, 1, 1]
    assert shares(2) == [1, 8, 8]
    assert shares(2, local_cores=6) == [1, 3, 3]
    assert shares(99) == [1, 1, 1]
    assert shares(2, local_cores_per_job=2) == [2, 2, 2]


def test_a_changed_job_takes_the_place_of_the_one_that_runs(
    sweep: LocalSweep, wait: Wait, capsys: pytest.CaptureFixture[str]
) -> None:
    old = chain(sweep.folder, "drdg", 0, first="train")
    sweep.submit(old)
    wait(lambda: begun(sweep.folder, old[0].key) == 1, how(sweep))
    new = [job(sweep.folder, old[0].key, digest="b"), job(sweep.folder, old[1].key, "", [old[0].key], "b")]
    sweep.submit(new)
    said = capsys.readouterr().err
    assert f"{old[0].key}: cancelled, as it has changed" in said
    assert f"{old[1].key}: cancelled" in said
    assert set(wait_for_end(sweep, wait).values()) == {"COMPLETED"}
    assert [line["what"] for line in told(sweep.folder, old[0].key)] == ["begins", "saves", "begins", "ends"]
    note = read_note(new[0].place)
    assert note is not None
    assert note.is_done(new[0].digest)


def test_a_conductor_loads_no_torch() -> None:
    code = "import sys, drdg.cluster.conductor, drdg.cluster.local, drdg.cluster.slurm; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


def test_no_conductor_can_be_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = LocalSweep(tmp_path / "a sweep", SweepConfig(local_cores=1, local_cores_per_job=1), RUN)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-none")
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    with pytest.raises(OSError, match=r"conductor.log: no jobs can be begun: .*CUDA_VISIBLE_DEVICES=GPU-none"):
        sweep.submit([job(sweep.folder, "a_to_b/seed0/drdg/gan")])
