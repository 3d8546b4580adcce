"""What a job's processes do: the note that is left however it ends, the lock, and the one way to begin again."""

from __future__ import annotations

import os
import pickle
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cheap_jobs import RUN, begun, go, job, told

from drdg.cluster import requeue
from drdg.cluster.locks import try_hold
from drdg.cluster.requeue import Start
from drdg.cluster.work import LOCK, Work, is_again, sentence
from drdg.sweep.notes import Note, read_note, read_progress, write_note
from drdg.sweep.spec import JobSpec
from drdg.training.preemption import Stopped

KEY = "a_to_b/seed0/drdg/gan"
Wait = Callable[[Callable[[], bool], Callable[[], object]], None]


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in requeue.ASKING}
    folder = Path.cwd()
    yield
    os.chdir(folder)
    for number, handler in before.items():
        signal.signal(number, handler)


def note_of(spec: JobSpec) -> Note:
    note = read_note(spec.place)
    assert note is not None
    return note


def run(spec: JobSpec, start: Start | None = None, function: str = RUN) -> None:
    Work(function).run(spec, start or Start("debug", "7", log="the log"))


def test_done_once(tmp_path: Path) -> None:
    spec = job(tmp_path, KEY)
    work = pickle.loads(pickle.dumps(Work(RUN)))
    work.run(spec, Start("debug", "7", log="the log"))
    note = note_of(spec)
    assert note.is_done(spec.digest)
    assert (note.stage_digest, note.job_id, note.log) == (f"digest of {KEY}", "7", "the log")
    run(spec)
    assert begun(tmp_path, KEY) == 1
    # What it made is gone, or it is another job now.
    Path(note.result).rmdir()
    run(spec)
    run(job(tmp_path, KEY, digest="b"))
    assert begun(tmp_path, KEY) == 3


@pytest.mark.parametrize(
    ("do", "error", "said"),
    [
        ("fail", ValueError, "the input is bad"),
        ("crash", RuntimeError, "RuntimeError: it broke"),
        ("exit", SystemExit, "SystemExit: 3"),
    ],
)
def test_a_failure_is_noted_and_passed_on(tmp_path: Path, do: str, error: type[BaseException], said: str) -> None:
    spec = job(tmp_path, KEY, do)
    with pytest.raises(error):
        run(spec)
    assert (note_of(spec).said, note_of(spec).error) == ("failed", said)
    # Begun again, it is a new beginning.
    run(job(tmp_path, KEY))
    assert note_of(spec).said == "done"
    assert note_of(spec).error == ""


def test_what_errors_say() -> None:
    assert sentence(FileNotFoundError(2, "No such file or directory", "/a/b")) == "/a/b: No such file or directory"
    assert sentence(ConnectionError("rank 0 has lost another rank")) == "rank 0 has lost another rank"
    assert sentence(KeyError("a")) == "KeyError: 'a'"
    assert sentence(MemoryError()) == "MemoryError"
    lost = ConnectionError("lost")
    assert not is_again(lost)
    lost.status = 76  # type: ignore[attr-defined]
    assert is_again(lost)


def test_a_second_process_waits_for_the_first_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = job(tmp_path, KEY)
    held = try_hold(spec.place / LOCK)
    assert held is not None
    pauses = []

    def pause(seconds: float) -> None:
        """The first process ends meanwhile, and is done."""
        assert begun(tmp_path, KEY) == 0
        pauses.append(seconds)
        if len(pauses) == 5:
            spec.place.joinpath("result").mkdir()
            write_note(spec.place, Note("done", spec.digest, 1.0, 2.0, result=str(spec.place / "result")))
            held.release()

    monkeypatch.setattr("drdg.cluster.locks.time.sleep", pause)
    run(spec)
    assert begun(tmp_path, KEY) == 0
    said = capsys.readouterr().out
    assert said.count("waits for process") == 1
    assert f"waits for process {os.getpid()}" in said
    assert f"{KEY} is done already" in said


def test_other_ranks_begin_and_end_with_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = job(tmp_path, KEY)
    running = Note("running", spec.digest, 1.0, 2.0, job_id="7", restarts=0)
    write_note(spec.place, running)
    begun_at = []

    def pause(seconds: float) -> None:
        begun_at.append(begun(tmp_path, KEY))
        if len(begun_at) == 3:
            write_note(spec.place, replace(running, restarts=1))
        if len(begun_at) == 6:
            write_note(spec.place, replace(running, restarts=1, said="again"))

    monkeypatch.setattr("drdg.cluster.work.time.sleep", pause)
    run(spec, Start("slurm", "7", rank=1, restarts=1))
    assert begun_at == [0, 0, 0, 1, 1, 1]
    assert note_of(spec).said == "again"  # the first rank's word
    # The first has found it done.
    write_note(spec.place, replace(running, said="done", result=str(spec.place)))
    run(spec, Start("slurm", "7", rank=1, restarts=2))
    # The first has failed before it came to anything.
    write_note(spec.place, replace(running, said="failed", restarts=3))
    with pytest.raises(ChildProcessError, match=r"rank 0 of .* has ended already"):
        run(spec, Start("slurm", "7", rank=1, restarts=3))
    assert begun(tmp_path, KEY) == 1


def stopped_on_rank_1(spec: JobSpec) -> None:
    write_note(spec.place, replace(note_of(spec), said="again"))
    raise Stopped(signal.SIGUSR2, "an iteration", is_first=False)


def test_another_rank_that_has_stopped_ends_well(tmp_path: Path) -> None:
    spec = job(tmp_path, KEY)
    write_note(spec.place, Note("running", spec.digest, 1.0, 2.0, job_id="7"))
    run(spec, Start("slurm", "7", rank=1), f"{__name__}:stopped_on_rank_1")


def stopped(spec: JobSpec) -> None:
    raise Stopped(signal.SIGUSR2, "an iteration")


def lost(spec: JobSpec) -> None:
    error = ConnectionError("rank 0 has lost another rank")
    error.status = 76  # type: ignore[attr-defined]
    raise error


def lost_at_once(spec: JobSpec) -> None:
    error = ConnectionError("rank 0 has lost another rank")
    error.status = 1  # type: ignore[attr-defined]
    raise error


def told_by(number: signal.Signals) -> Callable[[JobSpec], None]:
    def ask(spec: JobSpec) -> None:
        os.kill(os.getpid(), number)
        raise AssertionError("a signal was not answered")

    return ask


told_usr1 = told_by(signal.SIGUSR1)
told_usr2 = told_by(signal.SIGUSR2)
told_term = told_by(signal.SIGTERM)


class Submitits:
    """submitit's answer to USR2: it requeues and ends the process."""

    def __init__(self, errors: int = 0) -> None:
        self.errors = errors
        self.asked: list[Any] = []

    def __call__(self, number: int, frame: object) -> None:
        self.asked.append((number, signal.getsignal(signal.SIGTERM)))
        if len(self.asked) <= self.errors:
            raise subprocess.CalledProcessError(1, "scontrol")
        raise SystemExit(-1)


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Make ``scontrol show job`` say this."""
    tools = tmp_path / "tools"
    tools.mkdir()
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.setattr(requeue, "PAUSE_S", 0.0)

    def say(words: str) -> None:
        tool = tools / "scontrol"
        tool.write_text(f'#!/bin/sh\necho "$@" >> "{tmp_path}/asked"\necho "{words}"\n')
        tool.chmod(tool.stat().st_mode | stat.S_IXUSR)

    return say


@pytest.mark.parametrize("function", ["stopped", "lost", "told_usr1", "told_usr2", "told_term"])
def test_who_is_asked_to_stop_is_queued_again_by_submitit(
    tmp_path: Path, slurm: Callable[[str], None], function: str
) -> None:
    slurm("JobId=7 JobState=RUNNING Restarts=2 Requeue=1")
    spec, submitits = job(tmp_path, KEY), Submitits(errors=1)
    signal.signal(signal.SIGUSR2, submitits)
    with pytest.raises(SystemExit) as ended:
        run(spec, Start("slurm", "7", restarts=2), f"{__name__}:{function}")
    assert ended.value.code == -1
    assert note_of(spec).said == "again"
    # Twice, as the first time went wrong; and deaf to Slurm's answer, as scontrol, its child, is.
    assert submitits.asked == [(signal.SIGUSR2, signal.SIG_IGN)] * 2
    assert "show job --oneliner 7" in (tmp_path / "asked").read_text()


@pytest.mark.parametrize(
    "said", ["JobState=COMPLETING Restarts=2", "JobState=RUNNING Restarts=3", "JobState=CANCELLED Restarts=2"]
)
@pytest.mark.parametrize(("function", "status"), [("stopped", 75), ("lost", 76), ("told_term", 143)])
def test_what_slurm_ends_or_has_begun_elsewhere_is_left_alone(
    tmp_path: Path, slurm: Callable[[str], None], said: str, function: str, status: int
) -> None:
    slurm(said)
    spec, submitits = job(tmp_path, KEY), Submitits()
    signal.signal(signal.SIGUSR2, submitits)
    with pytest.raises(SystemExit) as ended:
        run(spec, Start("slurm", "7", restarts=2), f"{__name__}:{function}")
    assert ended.value.code == status
    assert submitits.asked == []
    assert note_of(spec).said == "again"


def test_a_job_that_has_lost_a_rank_and_saved_nothing_has_failed(tmp_path: Path, slurm: Callable[[str], None]) -> None:
    slurm("JobState=RUNNING Restarts=0")
    spec, submitits = job(tmp_path, KEY), Submitits()
    signal.signal(signal.SIGUSR2, submitits)
    with pytest.raises(ConnectionError):
        run(spec, Start("slurm", "7"), f"{__name__}:lost_at_once")
    assert (note_of(spec).said, submitits.asked) == ("failed", [])


def test_a_signal_after_the_end_changes_nothing(tmp_path: Path, slurm: Callable[[str], None]) -> None:
    slurm("JobState=RUNNING Restarts=0")
    spec, submitits = job(tmp_path, KEY), Submitits()
    signal.signal(signal.SIGUSR2, submitits)
    run(spec, Start("slurm", "7"))
    os.kill(os.getpid(), signal.SIGUSR2)
    assert (note_of(spec).said, submitits.asked) == ("done", [])


def test_a_killed_job_s_lock_is_free_and_its_progress_gone(tmp_path: Path, wait: Wait) -> None:
    spec = job(tmp_path, KEY, "follow")
    code = (
        "import sys, pickle; from drdg.cluster.work import Work; from drdg.cluster.requeue import Start;"
        "Work('cheap_jobs:run').run(pickle.loads(bytes.fromhex(sys.argv[1])), Start('debug'))"
    )
    first = subprocess.Popen([sys.executable, "-c", code, pickle.dumps(spec).hex()])
    wait(lambda: begun(tmp_path, KEY) == 1, lambda: told(tmp_path))
    assert try_hold(spec.place / LOCK) is None
    (spec.place / "progress.json").write_text('{"done": 1, "total": 2, "left_s": null}')
    first.kill()
    first.wait()
    assert note_of(spec).said == "running"
    began = note_of(spec).began
    go(tmp_path, KEY)
    run(spec)
    assert read_progress(spec.place) is None
    assert (note_of(spec).said, note_of(spec).began) == ("done", began)
