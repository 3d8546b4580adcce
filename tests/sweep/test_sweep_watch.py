"""How a running sweep looks: nothing of its table is broken at 80 columns, and every trouble is named."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from fleet import Fleet, note_of, planned
from rich.console import Console

from drdg.comparison.table import TABLES
from drdg.sweep.estimate import duration, seconds_left
from drdg.sweep.notes import Progress
from drdg.sweep.plan import Sweep
from drdg.sweep.spec import REPORT
from drdg.sweep.states import JobState, State
from drdg.sweep.view import View
from drdg.sweep.watch import conclusion, watch

NOW = 2_000_000.0
ROWS = ",".join(dict.fromkeys(["baseline_rescaled", *TABLES["main"], *TABLES["ablation"]]))


def drawn(
    sweep: Sweep, states: dict[str, JobState], width: int = 80, height: int = 100, encoding: str = "utf-8"
) -> str:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    console = Console(file=file, width=width, height=height, force_terminal=True, color_system=None)
    console.print(View(sweep, states, NOW))
    file.flush()
    return file.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]


def waiting(sweep: Sweep) -> dict[str, JobState]:
    return {key: JobState(State.WAITING, True, "Dependency") for key in sweep.jobs}


@pytest.fixture
def table(tmp_path: Path) -> tuple[Sweep, dict[str, JobState]]:
    """Nine rows and three seeds, in every state that there is."""
    sweep = planned(tmp_path, rows=ROWS, seeds="0,1,2")
    states = waiting(sweep)
    prefix = sweep.directions[0].name
    for key, job in sweep.jobs.items():
        if "seed0" in key or key.endswith("shards"):
            states[key] = JobState(State.DONE, False, note=note_of(job, "done", began=NOW - 7200, at=NOW - 3600))
    for row in ("rdg", "drdg_wo_dsl"):
        states[f"{prefix}/seed1/{row}/gan"] = JobState(
            State.RUNNING,
            True,
            note=note_of(sweep.jobs[f"{prefix}/seed1/{row}/gan"], "running", began=NOW - 600, at=NOW),
            progress=Progress(42, 100, 190_000.0, at=NOW),
        )
    failed = f"{prefix}/seed2/drdg/gan"
    states[failed] = JobState(
        State.FAILED, False, "gan/critic/loss is nan " + "and more of it " * 8, "/logs/1_0_log.out"
    )
    for stage in ("translate", "segment", "evaluate"):
        states[f"{prefix}/seed2/drdg/{stage}"] = JobState(State.BLOCKED, False, f"{failed} failed")
    states[f"{prefix}/seed2/rdg/segment"] = JobState(State.LOST, False, "its process ended (NODE_FAIL)", "/logs/2.out")
    states[f"{prefix}/seed2/rdg/evaluate"] = JobState(State.CANCELLED, False, "CANCELLED")
    states[f"{prefix}/seed2/benjdira/gan"] = JobState(State.WAITING, True, "Resources")
    return sweep, states


@pytest.mark.parametrize("width", [80, 120])
def test_each_cell_has_a_line_that_is_not_broken(width: int, table: tuple[Sweep, dict[str, JobState]]) -> None:
    sweep, states = table
    lines = drawn(sweep, states, width).splitlines()
    assert all(len(line) <= width for line in lines)
    for cell in sweep.cells:
        (line,) = [line for line in lines if line.split()[:2] == [cell.row, str(cell.seed)]]
        assert "…" not in line
        words = [states[key].state for key in cell.own_jobs]
        for state in words:
            assert state.value in line or (state is State.RUNNING and "42% 2d04h" in line), line
    text = "\n".join(lines)
    assert f"{len(sweep.jobs)} jobs done" in text
    assert "1 waits: Resources" in text
    assert "✗ stage gan of row drdg, seed 2 failed: gan/critic/loss is nan" in text
    assert "/logs/1_0_log.out" in text
    assert "! stage segment of row rdg, seed 2 is lost: its process ended (NODE_FAIL)" in text
    assert "report: · waiting" in text


def test_a_low_terminal_shows_what_is_at_work_and_counts_the_rest(table: tuple[Sweep, dict[str, JobState]]) -> None:
    sweep, states = table
    lines = drawn(sweep, states, height=26).splitlines()
    assert len(lines) <= 25
    rows = [line.split()[:2] for line in lines]
    for shown in (["drdg", "2"], ["rdg", "2"], ["rdg", "1"], ["drdg_wo_dsl", "1"]):
        assert shown in rows
    assert ["baseline", "0"] not in rows
    assert any(line.startswith("and 10 done: ") for line in lines)
    assert any(" not begun: " in line for line in lines)


def test_a_terminal_without_unicode_gets_none(table: tuple[Sweep, dict[str, JobState]]) -> None:
    text = drawn(*table, encoding="ascii")
    assert "x failed" in text
    assert "+ done" in text


def test_several_directions_have_a_heading_each(tmp_path: Path) -> None:
    from fleet import DEMO, places

    from drdg.sweep.asked import Asked
    from drdg.sweep.plan import make_sweep

    turned = tmp_path / "turned.yaml"
    turned.write_text(f"base: {DEMO}\nsource: {{archive: {{labels: no_boundary, bands: rgb}}}}\n")
    sweep = make_sweep(Asked(directions=f"demo,{turned}", rows="rdg", seeds="0", overrides=places(tmp_path)))
    text = drawn(sweep, waiting(sweep))
    for direction in sweep.directions:
        assert f"\n{direction.name}" in text
        assert f"shards of {direction.name}: · waiting" in text


def test_time_left_is_told_once_every_kind_of_job_has_told_its_own(tmp_path: Path) -> None:
    sweep = planned(tmp_path, rows="baseline", seeds="0,1")
    states = waiting(sweep)
    prefix = sweep.directions[0].name
    states[f"{prefix}/shards"] = JobState(State.DONE, False)

    def done(name: str, seconds: float) -> None:
        key = f"{prefix}/{name}"
        note = note_of(sweep.jobs[key], "done", began=NOW - 10_000, at=NOW - 10_000 + seconds)
        states[key] = JobState(State.DONE, False, note=note)

    done("seed0/segment" if f"{prefix}/seed0/segment" in sweep.jobs else "seed0/baseline/segment", 1000)
    assert seconds_left(sweep, states, NOW) is None
    done("seed0/baseline/evaluate", 100)
    assert seconds_left(sweep, states, NOW) == 1100
    states[f"{prefix}/seed1/baseline/segment"] = JobState(
        State.RUNNING,
        True,
        note=note_of(sweep.jobs[f"{prefix}/seed1/baseline/segment"], "running", began=NOW - 10, at=NOW),
        progress=Progress(1, 2, 70.0, at=NOW - 20),
    )
    assert seconds_left(sweep, states, NOW) == 150


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "1s"), (59, "59s"), (61, "1m"), (3599, "59m"), (3900, "1h05m"), (86400, "1d00h"), (190_000, "2d04h")],
)
def test_a_duration_has_its_two_largest_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_off_a_terminal_every_change_is_a_line_and_the_end_comes(tmp_path: Path) -> None:
    sweep = planned(tmp_path, rows="rdg,baseline", seeds="0")
    bad = f"{sweep.directions[0].name}/seed0/rdg/translate"
    fleet = Fleet(fate=lambda job: "failed" if job.key == bad else "done")
    sweep.folder.mkdir(parents=True)
    fleet.submit(list(sweep.jobs.values()))
    file = io.StringIO()
    states = watch(sweep, fleet, Console(file=file, width=80), sleep=lambda seconds: None)
    assert states is not None
    lines = file.getvalue().splitlines()
    assert "stage gan of row rdg, seed 0: done" in lines
    assert any(line.startswith("stage translate of row rdg, seed 0 failed: out of paint (log: ") for line in lines)
    assert lines[-1] == f"{len(sweep.jobs) - 3} of {len(sweep.jobs)} jobs done, 1 failed, 2 blocked"
    assert states[REPORT].state is State.DONE
    said = conclusion(sweep, states)
    assert said[0] == "stage translate of row rdg, seed 0 failed: out of paint; log: /logs/12_0_log.out"
    assert said[-1] == f"without scores: {sweep.directions[0].name}/seed0/rdg"


def test_a_table_is_drawn_until_all_has_ended(tmp_path: Path) -> None:
    sweep = planned(tmp_path, rows="rdg", seeds="0")
    sweep.folder.mkdir(parents=True)
    fleet = Fleet()
    fleet.submit(list(sweep.jobs.values()))
    file = io.StringIO()
    console = Console(file=file, width=80, height=40, force_terminal=True)
    states = watch(sweep, fleet, console, sleep=lambda seconds: None)
    assert states is not None
    assert all(now.state is State.DONE for now in states.values())
    assert f"{len(sweep.jobs)} of {len(sweep.jobs)} jobs done" in file.getvalue()


@pytest.mark.parametrize("terminal", [True, False])
def test_ctrl_c_detaches(terminal: bool, tmp_path: Path) -> None:
    sweep = planned(tmp_path, rows="rdg", seeds="0")
    sweep.folder.mkdir(parents=True)
    fleet = Fleet(frozen=True)
    fleet.submit(list(sweep.jobs.values()))

    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    file = io.StringIO()
    assert watch(sweep, fleet, Console(file=file, width=80, force_terminal=terminal), sleep=interrupted) is None
    assert "the jobs go on; the same command attaches again" in file.getvalue().replace("\n", " ")
    assert fleet.ended == []
