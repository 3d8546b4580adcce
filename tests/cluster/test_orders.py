"""What is handed in is written down, so that a command killed at any moment hands nothing in twice."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import fake_slurm
import pytest
from cheap_jobs import HERE, RUN, job

from drdg.cluster import asking
from drdg.cluster.locks import try_hold
from drdg.cluster.orders import LOCK, ORDERS, locked_orders, read_orders
from drdg.cluster.slurm import SlurmSweep
from drdg.config.sweep import SweepConfig
from drdg.sweep.notes import NOTE, Note
from drdg.sweep.spec import JobSpec

Wait = Callable[[Callable[[], bool], Callable[[], object]], None]


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "slurm"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{fake_slurm.install(tmp_path / 'tools')}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SLURM", str(folder))
    return folder


@pytest.fixture
def sweep_on_slurm(slurm: Path, tmp_path: Path) -> SlurmSweep:
    return SlurmSweep(tmp_path / "a sweep", SweepConfig(), RUN)


def two_rows(folder: Path) -> list[JobSpec]:
    gans = [job(folder, f"a_to_b/seed{seed}/drdg/gan") for seed in (0, 1)]
    return [*gans, *(job(folder, f"a_to_b/seed{seed}/drdg/translate", needs=[gans[seed].key]) for seed in (0, 1))]


def test_handed_in_once(sweep_on_slurm: SlurmSweep, slurm: Path) -> None:
    jobs = two_rows(sweep_on_slurm.folder)
    sweep_on_slurm.submit(jobs)
    sweep_on_slurm.submit(jobs)
    SlurmSweep(sweep_on_slurm.folder, SweepConfig(), RUN).submit(jobs)
    gan, translate = fake_slurm.jobs(slurm)
    assert (gan["array"], translate["array"]) == ("0-1%2", "0-1%2")
    assert (gan["waits"], translate["waits"]) == ("", "aftercorr:100")
    states = sweep_on_slurm.states()
    assert [states[spec.key].job_id for spec in jobs] == ["100_0", "100_1", "101_0", "101_1"]
    assert {(state.state, state.digest.split()[0]) for state in states.values()} == {("waiting", "a")}
    logs = sweep_on_slurm.folder / "logs"
    assert states[jobs[1].key].log == str(logs / gan["name"] / "100_1_0_log.out")
    assert (logs / gan["name"] / "100_1_submitted.pkl").exists()


def test_what_has_ended_is_waited_for_no_more_and_handed_in_again(sweep_on_slurm: SlurmSweep, slurm: Path) -> None:
    jobs = two_rows(sweep_on_slurm.folder)
    sweep_on_slurm.submit(jobs)
    fake_slurm.put(slurm, "100", state="COMPLETED", forgotten="yes")  # by the controller, not by the accounting
    fake_slurm.put(slurm, "101", state="TIMEOUT")
    states = sweep_on_slurm.states()
    assert [states[spec.key].reason for spec in jobs] == ["COMPLETED", "COMPLETED", "TIMEOUT", "TIMEOUT"]
    sweep_on_slurm.submit(jobs[2:])
    assert [found["waits"] for found in fake_slurm.jobs(slurm)] == ["", "aftercorr:100", ""]
    assert sweep_on_slurm.states()[jobs[2].key].job_id == "102_0"
    # One of them is done; the other waits for what is alive.
    other = job(sweep_on_slurm.folder, "a_to_b/seed1/drdg/segment", needs=[jobs[3].key])
    sweep_on_slurm.submit([other])
    assert fake_slurm.jobs(slurm)[-1]["waits"] == "afterok:102_1"


@pytest.mark.parametrize("state", ["NODE_FAIL", "PREEMPTED", "BOOT_FAIL"])
def test_what_only_the_accounting_knows_is_not_begun_again(sweep_on_slurm: SlurmSweep, slurm: Path, state: str) -> None:
    jobs = two_rows(sweep_on_slurm.folder)
    sweep_on_slurm.submit(jobs)
    fake_slurm.put(slurm, "100", state=state)
    assert sweep_on_slurm.states()[jobs[0].key].state == "waiting"
    fake_slurm.put(slurm, "100", forgotten="yes")
    fake_slurm.put(slurm, "101", state="RUNNING", forgotten="yes")
    states = sweep_on_slurm.states()
    assert [(states[spec.key].state, states[spec.key].reason) for spec in jobs] == [
        *[("ended", state)] * 2,
        *[("ended", "FORGOTTEN")] * 2,
    ]


def test_an_outcome_may_be_seen_later_than_the_end(sweep_on_slurm: SlurmSweep, slurm: Path) -> None:
    sweep_on_slurm.ending_s = math.inf
    jobs = two_rows(sweep_on_slurm.folder)[:2]
    sweep_on_slurm.submit(jobs)
    fake_slurm.put(slurm, "100", state="COMPLETED")
    assert {state.state for state in sweep_on_slurm.states().values()} == {"running"}
    sweep_on_slurm.submit(jobs)  # is alive
    assert len(fake_slurm.jobs(slurm)) == 1
    note = Note("done", jobs[0].digest, result=str(jobs[0].place), began=1.0, at=2.0)
    (jobs[0].place / NOTE).write_text(json.dumps(asdict(note)))
    states = sweep_on_slurm.states()
    assert [states[spec.key].state for spec in jobs] == ["ended", "running"]
    sweep_on_slurm.ending_s = 0.0
    assert sweep_on_slurm.states()[jobs[1].key].reason == "COMPLETED"
    assert sweep_on_slurm.states()[jobs[1].key].state == "ended"


def test_the_report_waits_for_what_is_handed_in_again(sweep_on_slurm: SlurmSweep, slurm: Path) -> None:
    gans = two_rows(sweep_on_slurm.folder)[:2]
    report = job(sweep_on_slurm.folder, "report", needs=[spec.key for spec in gans])
    sweep_on_slurm.submit([*gans, report])
    assert fake_slurm.jobs(slurm)[1]["waits"] == "afterany:100"
    fake_slurm.put(slurm, "100", state="FAILED")
    sweep_on_slurm.submit([gans[0], report])
    first, waiting, again, instead = fake_slurm.jobs(slurm)
    assert (first["state"], waiting["state"], again["state"]) == ("FAILED", "CANCELLED", "PENDING")
    assert instead["waits"] == "afterany:102"


CRASHING = """
import os, signal, sys
from pathlib import Path
from cheap_jobs import RUN, job
from drdg.cluster import orders, slurm
from drdg.config.sweep import SweepConfig
from test_orders import two_rows

left = int(sys.argv[2])
def another_moment():
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
def killed_around(owner, name):
    before = getattr(owner, name)
    def counted(*arguments, **named):
        another_moment()
        done = before(*arguments, **named)
        another_moment()
        return done
    setattr(owner, name, counted)
killed_around(orders.Orders, "add")
killed_around(slurm.SlurmExecutor, "_submit_command")
killed_around(orders.Orders, "record")
sweep = slurm.SlurmSweep(Path(sys.argv[1]), SweepConfig(), RUN)
sweep.submit(two_rows(sweep.folder))
"""


def test_killed_at_any_moment(sweep_on_slurm: SlurmSweep, slurm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At each of the moments of one command, and then again at the same of those that follow."""
    monkeypatch.setenv("PYTHONPATH", f"{HERE}:{os.environ.get('PYTHONPATH', '')}")
    jobs = two_rows(sweep_on_slurm.folder)
    moment, status = 0, -9
    while status == -9:
        moment += 1
        for path in (*slurm.iterdir(), sweep_on_slurm.folder / ORDERS):
            path.unlink(missing_ok=True)
        command = [sys.executable, "-c", CRASHING, str(sweep_on_slurm.folder), str(moment)]
        status = subprocess.run(command, check=False).returncode
        # Whoever looks finds what was handed in, and nothing that was not.
        looked = SlurmSweep(sweep_on_slurm.folder, SweepConfig(), RUN).states()
        assert {state.job_id.partition("_")[0] for state in looked.values()} == {
            found["number"] for found in fake_slurm.jobs(slurm)
        }
        sweep_on_slurm.submit([spec for spec in jobs if spec.key not in looked])
        handed_in = fake_slurm.jobs(slurm)
        assert [(found["array"], found["waits"]) for found in handed_in] == [
            ("0-1%2", ""),
            ("0-1%2", "aftercorr:100"),
        ], moment
        states = sweep_on_slurm.states()
        assert [states[spec.key].job_id for spec in jobs] == ["100_0", "100_1", "101_0", "101_1"], moment
        for spec in jobs:
            state = states[spec.key]
            pickle = Path(state.log).with_name(f"{state.job_id}_submitted.pkl")
            assert pickle.exists(), moment
    assert (status, moment) == (0, 2 * 3 * 2 + 1)


def test_sbatch_that_takes_a_job_and_cannot_say_so(sweep_on_slurm: SlurmSweep, slurm: Path) -> None:
    (slurm / "slow-to-say").touch()
    jobs = two_rows(sweep_on_slurm.folder)
    sweep_on_slurm.submit(jobs)
    assert len(fake_slurm.jobs(slurm)) == 2
    assert sweep_on_slurm.states()[jobs[3].key].job_id == "101_1"


def test_slurm_that_does_not_answer(sweep_on_slurm: SlurmSweep, slurm: Path) -> None:
    jobs = two_rows(sweep_on_slurm.folder)
    sweep_on_slurm.submit(jobs)
    fake_slurm.put(slurm, "100", state="RUNNING")
    before = sweep_on_slurm.states()
    assert before[jobs[0].key].state == "running"
    (slurm / "away").touch()
    assert sweep_on_slurm.states() == before
    fresh = SlurmSweep(sweep_on_slurm.folder, SweepConfig(), RUN)
    assert {(state.state, state.reason) for state in fresh.states().values()} == {("waiting", "Slurm does not answer")}
    for act in (lambda: fresh.submit(jobs), lambda: fresh.cancel([jobs[0].key])):
        with pytest.raises(OSError, match="squeue has ended with status 1: squeue: error: Unable to contact"):
            act()
    (slurm / "away").unlink()
    assert fresh.cancel([spec.key for spec in jobs]) == 4
    assert {state.reason for state in fresh.states().values()} == {"CANCELLED"}


def test_a_second_command_waits_and_says_for_whom(
    sweep_on_slurm: SlurmSweep, wait: Wait, capfd: pytest.CaptureFixture[str]
) -> None:
    held = try_hold(sweep_on_slurm.folder / LOCK)
    assert held is not None
    said = ""

    def has_said() -> bool:
        nonlocal said
        said += capfd.readouterr().err
        return "waits for" in said

    second = threading.Thread(target=sweep_on_slurm.submit, args=(two_rows(sweep_on_slurm.folder),))
    second.start()
    wait(has_said, lambda: said)
    assert f"waits for process {os.getpid()} on " in said
    assert sweep_on_slurm.states() == {}
    held.release()
    second.join()
    assert len(sweep_on_slurm.states()) == 4


def test_no_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match=r"no Slurm here.*--executor local"):
        SlurmSweep(tmp_path, SweepConfig(), RUN).submit(two_rows(tmp_path))


@pytest.mark.parametrize(
    ("text", "said"), [('{"version": 2}', "is of version 2, not 1"), ("{", "cannot be read"), ("[]", "cannot be read")]
)
def test_orders_that_cannot_be_read(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / ORDERS).write_text(text)
    with pytest.raises(ValueError, match=rf"orders.json: {said}"), locked_orders(tmp_path):
        pass
    with pytest.raises(ValueError, match=said):
        read_orders(tmp_path)


def test_numbers_of_arrays() -> None:
    assert asking.expanded("12") == ["12"]
    assert asking.expanded("12_3") == ["12_3"]
    assert asking.expanded("12_[0-2,5%4]") == ["12_0", "12_1", "12_2", "12_5"]
