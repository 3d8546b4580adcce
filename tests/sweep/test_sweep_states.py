"""What has become of a job, whatever it and the scheduler say, and which jobs a start of the command hands in."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from fleet import Known, leave, planned
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from drdg.sweep.plan import Sweep, ancestors
from drdg.sweep.scheduler import is_alive
from drdg.sweep.spec import REPORT, SHARDS
from drdg.sweep.states import JobState, State, forgotten, is_at_rest, is_complete, state_of, to_end, to_submit

OLD = "0" * 16
notes = st.sampled_from(
    ["none", "running", "again", "done", "failed", "old done", "old failed", "old running", "done and gone"]
)
schedulers = st.sampled_from(
    ["none"]
    + [f"{age}{state}" for age in ("", "old ") for state in ("waiting", "running", "COMPLETED", "FAILED", "CANCELLED")]
    + ["TIMEOUT", "NODE_FAIL", "KILLED", "BLOCKED: needs x", ""]
)


def write(sweep: Sweep, said: dict[str, str]) -> None:
    for key, word in said.items():
        job = sweep.jobs[key]
        digest = OLD if word.startswith("old ") else job.digest
        if word == "done and gone":
            leave(job, "done", result=f"{job.place}/gone")
        elif word != "none":
            leave(job, word.removeprefix("old "), digest=digest, **({"error": "no"} if word.endswith("failed") else {}))


def scheduled(sweep: Sweep, words: dict[str, str]) -> dict[str, Known]:
    found = {}
    for key, word in words.items():
        if word != "none":
            digest = OLD if word.startswith("old ") else sweep.jobs[key].digest
            word = word.removeprefix("old ")
            state, reason = (word, "Priority") if word in ("waiting", "running") else ("ended", word)
            found[key] = Known(state, reason, digest=digest)
    return found


@pytest.fixture(scope="module")
def two_rows(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """One that each example clears away."""
    return planned(tmp_path_factory.mktemp("sweep"), rows="mucss,rdg", seeds="0")


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return planned(tmp_path)


def key_of(sweep: Sweep, name: str) -> str:
    return name if name == REPORT else f"{sweep.directions[0].name}/{name}"


@examples(max_examples=60)
@given(data=st.data())
def test_whatever_is_said_a_job_has_one_state_and_none_is_started_twice(two_rows: Sweep, data: st.DataObject) -> None:
    sweep = two_rows
    try:
        said = {key: data.draw(notes, f"note of {key}") for key in sweep.jobs}
        knows = {key: data.draw(schedulers, f"scheduler on {key}") for key in sweep.jobs}
        write(sweep, said)
        known = scheduled(sweep, knows)
        states = state_of(sweep, known)
        assert list(states) == list(sweep.jobs)
        assert all(isinstance(now.state, State) for now in states.values())
        for retry in (False, True):
            chosen = to_submit(sweep, states, retry_failed=retry)
            keys = {job.key for job in chosen}
            assert [job.key for job in chosen] == [key for key in sweep.jobs if key in keys]
            for job in chosen:
                here = known.get(job.key)
                if is_alive(here) and here is not None and here.digest == job.digest and job.key != REPORT:
                    assert any(need in keys for need in job.needs)
                    assert here.state == "waiting"
                # Nothing is started whose needs will not be there.
                if job.key != REPORT:
                    for need in job.needs:
                        assert (
                            need in keys
                            or states[need].state in (State.DONE, State.RUNNING, State.WAITING)
                            or (states[need].alive)
                        ), (job.key, need, states[need])
            if not retry:
                assert not any(states[key].state in (State.FAILED, State.BLOCKED) for key in keys - {REPORT})
            if keys:
                assert REPORT in keys
        for key, now in states.items():
            alive = is_alive(known.get(key))
            assert now.alive == alive
            if now.state in (State.WAITING, State.RUNNING):
                assert alive
                assert known[key].digest == sweep.jobs[key].digest
            if said[key] == "done":
                assert now.state is State.DONE
            if now.state is State.BLOCKED:
                before = ancestors(sweep.jobs, [key])
                assert any(states[other].state is State.FAILED for other in before)
    finally:
        shutil.rmtree(sweep.folder / "jobs", ignore_errors=True)


@pytest.mark.parametrize(
    ("note", "scheduler", "state", "words"),
    [
        ("none", "none", State.NEW, ""),
        ("none", "waiting", State.WAITING, "Priority"),
        ("none", "running", State.RUNNING, "starts"),
        ("running", "running", State.RUNNING, ""),
        ("again", "waiting", State.WAITING, "was interrupted and continues (Priority)"),
        ("done", "running", State.DONE, ""),
        ("done", "none", State.DONE, ""),
        ("old done", "none", State.NEW, ""),
        ("done and gone", "none", State.NEW, "is gone"),
        ("failed", "FAILED", State.FAILED, "no"),
        ("failed", "none", State.FAILED, "no"),
        ("failed", "waiting", State.WAITING, "Priority"),
        ("old failed", "old FAILED", State.NEW, ""),
        ("running", "NODE_FAIL", State.LOST, "NODE_FAIL"),
        ("running", "TIMEOUT", State.LOST, "TIMEOUT"),
        ("none", "KILLED", State.LOST, "KILLED"),
        ("running", "none", State.LOST, "on node1 ended without a word"),
        ("running", "CANCELLED", State.CANCELLED, "CANCELLED"),
        ("none", "BLOCKED: needs x", State.NEW, "a job before it"),
        ("old running", "old running", State.NEW, "other settings"),
    ],
)
def test_a_job_is_what_it_and_the_scheduler_say_together(
    note: str, scheduler: str, state: State, words: str, sweep: Sweep
) -> None:
    key = key_of(sweep, SHARDS)
    write(sweep, {key: note})
    now = state_of(sweep, scheduled(sweep, {key: scheduler}))[key]
    assert now.state is state
    assert words in now.about


def test_what_needs_a_failed_job_is_blocked_and_nothing_else(sweep: Sweep) -> None:
    gan = key_of(sweep, "seed0/drdg/gan")
    write(sweep, {key_of(sweep, SHARDS): "done", gan: "failed"})
    states = state_of(sweep, scheduled(sweep, {key_of(sweep, "seed0/drdg/translate"): "CANCELLED"}))
    blocked = {key for key, now in states.items() if now.state is State.BLOCKED}
    assert blocked == {key_of(sweep, f"seed0/drdg/{stage}") for stage in ("translate", "segment", "evaluate")}
    started = {job.key for job in to_submit(sweep, states, retry_failed=False)}
    assert started == set(sweep.jobs) - blocked - {gan, key_of(sweep, SHARDS)}
    started = {job.key for job in to_submit(sweep, states, retry_failed=True)}
    assert started == set(sweep.jobs) - {key_of(sweep, SHARDS)}


def test_what_waits_for_a_start_that_was_lost_is_handed_in_again_with_it(sweep: Sweep) -> None:
    cell = [key_of(sweep, f"seed0/rdg/{stage}") for stage in ("gan", "translate", "segment", "evaluate")]
    write(sweep, dict.fromkeys(sweep.jobs, "done") | dict.fromkeys(cell, "none") | {cell[0]: "running"})
    known = scheduled(sweep, {cell[0]: "NODE_FAIL", **dict.fromkeys((*cell[1:], REPORT), "waiting")})
    states = state_of(sweep, known)
    assert states[cell[0]].state is State.LOST
    assert [job.key for job in to_submit(sweep, states, retry_failed=False)] == [*cell, REPORT]


def test_what_led_to_scores_may_be_removed(sweep: Sweep) -> None:
    write(sweep, dict.fromkeys(sweep.jobs, "done"))
    for key in sweep.jobs:
        if not key.endswith(("evaluate", REPORT)):
            shutil.rmtree(sweep.jobs[key].place)
    states = state_of(sweep, {})
    assert is_complete(states)
    assert to_submit(sweep, states, retry_failed=False) == []
    shutil.rmtree(sweep.jobs[key_of(sweep, "seed1/rdg/evaluate")].place)
    cell = [key_of(sweep, f"seed1/rdg/{stage}") for stage in ("gan", "translate", "segment", "evaluate")]
    started = [job.key for job in to_submit(sweep, state_of(sweep, {}), retry_failed=False)]
    assert started == [key_of(sweep, SHARDS), *cell, REPORT]


def test_nothing_blocks_the_report(sweep: Sweep) -> None:
    write(sweep, dict.fromkeys(sweep.jobs, "failed") | {REPORT: "none"})
    states = state_of(sweep, scheduled(sweep, {REPORT: "waiting"}))
    assert states[REPORT].state is State.WAITING
    write(sweep, {REPORT: "done"})
    assert state_of(sweep, {})[REPORT].state is State.DONE


def test_a_failed_report_is_made_again_when_there_is_something_new(sweep: Sweep) -> None:
    write(sweep, dict.fromkeys(sweep.jobs, "done") | {REPORT: "failed"})
    states = state_of(sweep, {})
    assert states[REPORT].state is State.FAILED
    assert to_submit(sweep, states, retry_failed=False) == []
    assert [job.key for job in to_submit(sweep, states, retry_failed=True)] == [REPORT]


def test_what_would_overwrite_an_outcome_is_to_end(sweep: Sweep) -> None:
    write(sweep, dict.fromkeys(sweep.jobs, "done"))
    other, same = key_of(sweep, "seed0/rdg/evaluate"), key_of(sweep, "seed1/rdg/evaluate")
    unneeded = key_of(sweep, "seed1/rdg/gan")
    write(sweep, {unneeded: "old running"})
    known = scheduled(sweep, {unneeded: "old running", other: "old waiting", same: "running"})
    states = state_of(sweep, known)
    assert {states[key].state for key in (unneeded, other, same)} == {State.DONE}
    assert to_submit(sweep, states, retry_failed=False) == []
    assert to_end(states, []) == [other, unneeded]
    # What is handed in takes its place anyway.
    assert to_end(states, [sweep.jobs[other]]) == [unneeded]


def test_what_is_asked_to_end_is_handed_in_again_at_once(sweep: Sweep) -> None:
    gan, *after = [key_of(sweep, f"seed0/rdg/{stage}") for stage in ("gan", "translate", "segment", "evaluate")]
    write(sweep, dict.fromkeys(sweep.jobs, "done") | {gan: "running"} | dict.fromkeys(after, "none"))
    known = {gan: Known("running", "CANCELLED: asked to end", digest=sweep.jobs[gan].digest)}
    states = state_of(sweep, known)
    assert (states[gan].state, states[gan].alive) == (State.CANCELLED, True)
    assert [job.key for job in to_submit(sweep, states, retry_failed=False)] == [gan, *after, REPORT]


def test_jobs_that_the_plan_does_not_have_are_seen(sweep: Sweep) -> None:
    known = {"elsewhere/seed9/drdg/gan": Known("waiting"), "elsewhere/seed8/drdg/gan": Known("ended", "FAILED")}
    assert forgotten(sweep, known) == ["elsewhere/seed9/drdg/gan"]


def test_time_left_falls_while_nothing_is_written() -> None:
    from drdg.sweep.notes import Progress

    now = JobState(State.RUNNING, True, progress=Progress(1, 2, 100.0, at=50.0))
    assert now.left_s(now=60.0) == 90.0
    assert now.left_s(now=500.0) == 0.0
    assert not is_at_rest({"x": now})
