"""The command from start to end with a scheduler that does what it is told: nothing twice, nothing lost."""

from __future__ import annotations

import argparse
import fcntl
import io
import itertools
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from fleet import DEMO, Fleet, Known, places
from rich.console import Console

import drdg.tracking
from drdg import cli
from drdg.sweep.command import Surroundings, act
from drdg.sweep.options import add_arguments
from drdg.sweep.plan import Sweep
from drdg.sweep.spec import REPORT, JobSpec

DIRECTION = "synthetic_potsdam_irrg_to_synthetic_vaihingen"
Command = Callable[..., str]


class Runs:
    """An MLflow store in memory."""

    def __init__(self) -> None:
        self.runs: dict[tuple[str, str | None], dict[str, Any]] = {}
        self.texts: dict[tuple[str, str], str] = {}
        self.away = ""

    def has_run(self, run_id: str) -> bool:
        return False

    def open(self, uri: str, experiment: str, directory: Path) -> Runs:
        if self.away:
            raise ValueError(self.away)
        self.uri, self.shown = uri, uri.replace("secret", "***")
        return self

    def place(self, name: str, parent: str | None, tags: Mapping[str, object], params: Mapping[str, Any]) -> str:
        run = self.runs.setdefault((name, parent), {"id": f"run{len(self.runs)}"})
        run |= {"tags": {key: str(value) for key, value in tags.items()}, "params": params}
        return str(run["id"])

    def join(self, run_id: str) -> Joined:
        assert run_id in [run["id"] for run in self.runs.values()]
        return Joined(self, run_id)


class Joined:
    def __init__(self, store: Runs, run_id: str) -> None:
        self.store, self.run_id = store, run_id

    def tags(self, values: Mapping[str, object]) -> None:
        (run,) = [run for run in self.store.runs.values() if run["id"] == self.run_id]
        run["tags"] |= {key: str(value) for key, value in values.items()}

    def text(self, content: str, name: str) -> None:
        self.store.texts[self.run_id, name] = content


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Runs:
    runs = Runs()
    monkeypatch.setattr(drdg.tracking, "Tracking", runs.open)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return runs


@pytest.fixture
def settled() -> list[str]:
    return []


@pytest.fixture
def command(tmp_path: Path, store: Runs, settled: list[str]) -> Command:
    """The command over ``fleet``; its options are those typed, and by default two rows with two seeds."""

    def run(fleet: Fleet, *typed: str, rows: str = "rdg,drdg", seeds: str = "0,1", look_s: float | None = 0.0) -> str:
        arguments = cli.parser("")
        add_arguments(arguments)
        which = ["--config", DEMO, "--rows", rows, "--seeds", seeds]
        options: argparse.Namespace = arguments.parse_intermixed_args([*which, *typed, *places(tmp_path)])
        around = Surroundings(
            lambda kind, folder, settings: fleet,
            lambda folder: "local",
            lambda sweep: settled.append(sweep["name"]),
            Console(file=io.StringIO(), width=80),
            look_s=look_s,
        )
        return act(options, around)

    return run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "demo-sweep"


def key(name: str) -> str:
    return f"{DIRECTION}/{name}"


def short(keys: list[str]) -> list[str]:
    return [name.removeprefix(f"{DIRECTION}/") for name in keys]


def cell(name: str) -> list[str]:
    return [key(f"{name}/{stage}") for stage in ("gan", "translate", "segment", "evaluate")]


def test_a_sweep_runs_to_its_end_and_is_not_run_again(command: Command, folder: Path, store: Runs) -> None:
    fleet = Fleet()
    assert command(fleet) == ""
    assert len(fleet.handed_in) == len(set(fleet.handed_in)) == 1 + 2 * 2 * 4 + 1
    record = json.loads((folder / "sweep.json").read_text())
    assert record["folder"] == str(folder)
    assert record["rows"] == ["rdg", "drdg"]
    assert record["seeds"] == [0, 1]
    assert [one["key"] for one in record["cells"]] == [
        key(f"seed{seed}/{row}") for seed in (0, 1) for row in ("rdg", "drdg")
    ]
    by_key = {run["id"]: name for (name, _), run in store.runs.items()}
    for one in record["cells"]:
        assert by_key[one["run_id"]] == one["key"]
        assert one["digest"] == record["jobs"][one["evaluate"]]["digest"] == fleet.jobs[one["evaluate"]].digest
        assert [key("shards"), *cell(f"seed{one['seed']}/{one['row']}")] == one["jobs"]
        for name in cell(f"seed{one['seed']}/{one['row']}"):
            assert fleet.jobs[name].parent_run_id == one["run_id"]
    assert fleet.jobs[key("shards")].parent_run_id == fleet.jobs[REPORT].parent_run_id == record["run_id"]
    assert fleet.jobs[REPORT].sweep == record
    assert json.loads(store.texts[record["run_id"], "sweep.json"]) == record
    # Again: nothing to do, and the store is not even asked.
    store.away = "the store is away"
    assert command(fleet) == ""
    assert len(fleet.handed_in) == 18


def test_what_each_run_is_found_by(command: Command, store: Runs) -> None:
    command(Fleet(), rows="mucss")
    sweep = next(run for (name, parent), run in store.runs.items() if parent is None)
    assert sweep["tags"]["drdg.kind"] == "sweep"
    assert (sweep["tags"]["drdg.row"], sweep["tags"]["drdg.seed"]) == ("mucss", "0,1")
    children = {name: run for (name, parent), run in store.runs.items() if parent == sweep["id"]}
    assert set(children) == {
        key(f"seed{seed}/{row}") for seed in (0, 1) for row in ("mucss", "dualgan", "baseline_rescaled")
    }
    one = children[key("seed1/mucss")]
    tags = one["tags"]
    assert (tags["drdg.kind"], tags["drdg.row"], tags["drdg.seed"]) == ("cell", "mucss", "1")
    assert (tags["drdg.direction"], tags["drdg.preset"]) == (DIRECTION, "paper")
    assert "drdg.git_commit" in tags
    # Its own settings, not the run's: this row's rates do not fall.
    assert one["params"]["segmentation"]["schedule"]["kind"] == "constant"
    assert one["params"]["run"]["seed"] == 1


def test_a_failed_job_is_named_and_tried_again_only_when_asked(
    command: Command, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = key("seed1/drdg/translate")
    fleet = Fleet(fate=lambda job: "failed" if job.key == bad else "done")
    missing = command(fleet)
    assert missing == f"{folder}: 3 of 18 jobs are not done; --retry-failed starts what failed again"
    said = capsys.readouterr().out
    assert "stage translate of row drdg, seed 1 failed: out of paint; log: " in said
    assert f"without scores: {key('seed1/drdg')}" in said
    fleet.fate = lambda job: "done"
    assert command(fleet) == missing
    assert len(fleet.handed_in) == 18
    first_report = fleet.jobs[REPORT].digest
    assert command(fleet, "--retry-failed") == ""
    assert fleet.handed_in[18:] == [*cell("seed1/drdg")[1:], REPORT]
    assert fleet.jobs[REPORT].digest != first_report


def test_a_lost_job_is_started_again_by_the_same_command(command: Command) -> None:
    bad = key("seed0/rdg/gan")
    fleet = Fleet(fate=lambda job: "NODE_FAIL" if job.key == bad else "done")
    assert "the same command starts the rest" in command(fleet)
    fleet.fate = lambda job: "done"
    assert command(fleet) == ""
    assert fleet.handed_in[18:] == [*cell("seed0/rdg"), REPORT]


def interrupted() -> None:
    raise KeyboardInterrupt


def test_the_same_command_attaches_and_hands_in_nothing(command: Command) -> None:
    fleet = Fleet(frozen=True)
    assert command(fleet, "--detach") == ""
    assert len(fleet.handed_in) == 18
    looks = itertools.count()
    fleet.on_look = lambda: interrupted() if next(looks) > 3 else None
    assert command(fleet) == ""
    assert len(fleet.handed_in) == 18
    assert fleet.ended == []
    fleet.on_look, fleet.frozen = lambda: None, False
    assert command(fleet) == ""
    assert len(fleet.handed_in) == 18


def test_cancel_ends_all_that_is_alive_and_the_same_command_goes_on(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet = Fleet(fate=lambda job: "waits" if job.stage == "segment" else "done")
    command(fleet, "--detach")
    for _ in range(5):
        fleet.states()
    command(fleet, "--cancel", "--dry-run", seeds="0")
    assert "would end 9 jobs" in capsys.readouterr().out
    assert fleet.ended == []
    assert command(fleet, "--cancel", seeds="0") == ""
    assert len(fleet.ended) == 4 * 2 + 1
    assert "9 jobs of" in (said := capsys.readouterr().out)
    assert "are asked to end" in said
    fleet.fate = lambda job: "done"
    assert command(fleet) == ""
    again = fleet.handed_in[18:]
    assert again == [name for name in fleet.jobs if name.endswith(("segment", "evaluate", REPORT))]


def test_what_runs_is_not_forgotten_by_asking_for_less(command: Command) -> None:
    fleet = Fleet(frozen=True)
    command(fleet, "--detach")
    for less in ({"seeds": "1"}, {"rows": "rdg"}):
        with pytest.raises(ValueError, match="ask for their rows and seeds as well, end them with --cancel, or take"):
            command(fleet, **less)
    assert command(fleet, "--detach", seeds="0,1,2") == ""
    assert [name for name in fleet.handed_in[18:] if "seed2" not in name] == [REPORT]
    fleet.frozen = False
    assert command(fleet, seeds="0,1,2") == ""
    assert command(fleet, seeds="1") == ""


def test_a_changed_knob_starts_what_it_decides_and_nothing_else(command: Command) -> None:
    fleet = Fleet()
    command(fleet)
    assert command(fleet, "evaluation.overlap=0.25") == ""
    assert short(fleet.handed_in[18:]) == [
        *(f"seed{seed}/{row}/evaluate" for seed in (0, 1) for row in ("rdg", "drdg")),
        REPORT,
    ]
    count = len(fleet.handed_in)
    assert command(fleet, "--set", "row_settings={drdg: {loss: {cycle: 3}}}", "evaluation.overlap=0.25") == ""
    assert fleet.handed_in[count:] == [*cell("seed0/drdg"), *cell("seed1/drdg"), REPORT]


def test_a_change_while_it_runs_replaces_what_runs(command: Command) -> None:
    fleet = Fleet(frozen=True)
    command(fleet, "--detach")
    old = fleet.jobs[key("seed0/rdg/gan")].digest
    assert command(fleet, "--detach", "gan.iterations=7") == ""
    assert fleet.jobs[key("seed0/rdg/gan")].digest != old
    assert key("shards") not in fleet.handed_in[18:]


def test_a_change_that_is_taken_back_ends_what_it_has_started(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet = Fleet()
    command(fleet)
    scores = [name for name in fleet.jobs if name.endswith("evaluate")]
    fleet.frozen = True
    command(fleet, "--detach", "evaluation.overlap=0.25")
    assert command(fleet, "--detach") == ""
    assert fleet.ended == scores
    assert f"4 jobs of other settings are asked to end, such as {scores[0]}" in capsys.readouterr().out
    fleet.frozen = False
    assert command(fleet) == ""
    assert fleet.handed_in[18:] == [*scores, REPORT, REPORT]


def test_what_would_overwrite_is_ended_where_nothing_else_is_to_do(command: Command, store: Runs) -> None:
    fleet = Fleet()
    command(fleet)
    score = key("seed0/rdg/evaluate")
    fleet.known[score] = Known("waiting", digest="0" * 16)
    fleet.frozen = True
    store.away = "the store is away"
    assert command(fleet) == ""
    assert fleet.ended == [score]
    assert len(fleet.handed_in) == 18


def test_what_another_start_has_handed_in_meanwhile_is_not_forgotten(command: Command, folder: Path) -> None:
    fleet = Fleet()
    looks = itertools.count()

    def another_start() -> None:
        if next(looks) == 1:
            fleet.known[key("seed9/drdg/gan")] = Known("running")

    fleet.on_look = another_start
    folder.mkdir()
    (folder / "orders.json").write_text("{}")
    with pytest.raises(ValueError, match="1 jobs of an earlier start are alive that this one does not ask for"):
        command(fleet)
    assert fleet.handed_in == []


def test_slurm_is_not_asked_as_often_as_this_machine(
    command: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    looks: list[float] = []

    def watched(sweep: Sweep, executor: Fleet, console: Console, look_s: float) -> None:
        looks.append(look_s)

    monkeypatch.setattr("drdg.sweep.command.watch", watched)
    for kind in ("local", "slurm"):
        command(Fleet(frozen=True), "--executor", kind, "--name", kind, look_s=None)
        assert f"by executor {kind}\n" in capsys.readouterr().out
    assert looks == [3.0, 15.0]


def test_a_lost_report_is_made_again(command: Command, folder: Path) -> None:
    fleet = Fleet(fate=lambda job: "KILLED" if job.key == REPORT else "done")
    assert command(fleet).endswith("1 of 18 jobs are not done; the same command starts the rest")
    fleet.fate = lambda job: "done"
    assert command(fleet) == ""
    assert fleet.handed_in[18:] == [REPORT]
    # And when nobody can tell any more what it was made of.
    (folder / "sweep.json").unlink()
    assert command(fleet) == ""
    assert fleet.handed_in[19:] == [REPORT]


def test_fewer_rows_have_a_report_of_their_own(command: Command) -> None:
    fleet = Fleet()
    command(fleet)
    assert command(fleet, rows="drdg") == ""
    assert fleet.handed_in[18:] == [REPORT]
    assert [cell["row"] for cell in fleet.jobs[REPORT].sweep["cells"]] == ["drdg", "drdg"]
    assert command(fleet, rows="drdg") == ""
    assert len(fleet.handed_in) == 19


def test_a_store_that_is_away_starts_nothing(command: Command, folder: Path, store: Runs) -> None:
    store.away = "no MLflow server answers at http://127.0.0.1:9"
    fleet = Fleet()
    with pytest.raises(ValueError, match="no MLflow server answers"):
        command(fleet)
    assert fleet.handed_in == []
    assert not (folder / "sweep.json").exists()
    store.away = ""
    assert command(fleet) == ""


def test_a_store_that_goes_away_hides_nothing_that_runs(
    command: Command, store: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet = Fleet(frozen=True)
    command(fleet, "--detach")
    store.away = "no MLflow server answers"
    fleet.frozen = False
    assert command(fleet, seeds="0,1,2").endswith("the same command starts the rest")
    assert "nothing is started, what runs is only shown: no MLflow server answers" in capsys.readouterr().out
    assert len(fleet.handed_in) == 18


def test_a_start_that_was_killed_before_it_handed_in_is_taken_up(command: Command, store: Runs) -> None:
    fleet = Fleet()
    submit = fleet.submit

    def killed(jobs: list[JobSpec]) -> None:
        submit(jobs[:3])
        raise OSError("killed")

    fleet.submit = killed  # type: ignore[assignment,method-assign]
    fleet.frozen = True
    with pytest.raises(OSError, match="killed"):
        command(fleet)
    runs = dict(store.runs)
    fleet.submit, fleet.frozen = submit, False  # type: ignore[method-assign]
    assert command(fleet) == ""
    assert len(fleet.handed_in) == len(set(fleet.handed_in)) == 18
    assert list(store.runs) == list(runs)


def test_two_starts_at_once_do_not_mix(command: Command, folder: Path) -> None:
    folder.mkdir()
    fleet = Fleet()
    with (folder / "sweep.lock").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match=r"another launch/sweep\.py is just starting"):
            command(fleet)
    assert fleet.handed_in == []
    assert command(fleet) == ""


def test_a_dry_run_writes_nothing_and_says_all(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet = Fleet()
    assert command(fleet, "--dry-run", "--executor", "slurm", "sweep.gan.minutes=77") == ""
    assert list(tmp_path.iterdir()) == []
    said = capsys.readouterr().out
    assert "18 of 18 jobs would start" in said
    assert "#SBATCH of 18 jobs" in said
    (line,) = [line for line in said.splitlines() if line.strip().startswith("seed1/drdg/gan ")]
    assert "new, would start" in line
    assert "77 min" in line
    assert line.endswith("after shards")
    command(fleet)
    command(fleet, "--dry-run", "evaluation.overlap=0.25", "--executor", "slurm")
    said = capsys.readouterr().out
    assert "5 of 18 jobs would start" in said
    assert "#SBATCH of 5 jobs" in said


def test_a_folder_of_something_else_is_refused(command: Command, folder: Path, tmp_path: Path) -> None:
    fleet = Fleet()
    command(fleet)
    moved = tmp_path / "moved"
    folder.rename(moved)
    with pytest.raises(ValueError, match=r"holds the sweep demo-sweep of .*demo-sweep, whose results"):
        command(fleet, "--name", "moved")
    (tmp_path / "pipe").mkdir()
    (tmp_path / "pipe/report.json").write_text("{}")
    with pytest.raises(ValueError, match=r"holds a run of launch/pipeline\.py"):
        command(fleet, "--name", "pipe")
    (moved / "sweep.json").write_text("{")
    with pytest.raises(ValueError, match=r"sweep\.json: is no record of a sweep"):
        command(fleet, "--name", "moved")


def test_sync_takes_in_the_spool_and_settles_when_nothing_runs(
    command: Command,
    folder: Path,
    settled: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    taken: list[Path] = []
    monkeypatch.setattr(drdg.tracking, "sync", lambda spool, tracking: taken.append(spool) or 3)
    fleet = Fleet(frozen=True)
    with pytest.raises(ValueError, match="holds no sweep"):
        command(fleet, "--sync")
    command(fleet, "--detach")
    command(fleet, "--sync")
    assert taken == [folder / "spool"]
    assert settled == []
    fleet.frozen = False
    command(fleet)
    command(fleet, "--sync")
    assert settled == ["demo-sweep"]
    assert "3 runs" in capsys.readouterr().out


def test_a_password_stays_out_of_what_others_read(command: Command, folder: Path, store: Runs) -> None:
    command(Fleet(), "tracking.uri=postgresql://me:secret@host/runs")
    assert not any("secret" in text for text in store.texts.values())
    assert not any("secret" in str(run) for run in store.runs.values())


def test_a_sweep_keeps_its_runs_in_one_store(command: Command) -> None:
    fleet = Fleet()
    command(fleet, "tracking.uri=postgresql://me:secret@host/runs")
    with pytest.raises(ValueError, match=r"tracking\.uri=postgresql://me:\*\*\*@host/runs; set that again") as caught:
        command(fleet, "gan.iterations=7")
    assert "secret" not in str(caught.value)
    with pytest.raises(ValueError, match=r"tracking\.experiment=drdg; set that again"):
        command(fleet, "gan.iterations=7", "tracking.uri=postgresql://me:secret@host/runs", "tracking.experiment=other")
    assert len(fleet.handed_in) == 18
    # To look at what is done takes no store.
    assert command(fleet) == ""


def test_the_configurations_are_printed(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    fleet = Fleet()
    assert command(fleet, "--print-config", "--smoke") == ""
    said = capsys.readouterr().out
    assert said.startswith(f"# {DIRECTION}\npreset: paper")
    assert "iterations: 2" in said
    assert fleet.handed_in == []


def test_a_dry_run_loads_nothing_that_takes_long(tmp_path: Path) -> None:
    heavy = "{'torch', 'mlflow', 'matplotlib'}"
    look = f"import atexit, sys; atexit.register(lambda: print('heavy:', sorted({heavy} & set(sys.modules))))"
    typed = ["x", "--config", DEMO, "--ablation", "--dry-run", "--executor", "slurm", *places(tmp_path)]
    code = f"{look}; sys.argv = {typed}; import runpy; runpy.run_path('launch/sweep.py', run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, cwd=Path(DEMO).parents[1]
    )
    assert done.returncode == 0, done.stderr
    assert "50 of 50 jobs would start" in done.stdout
    assert "#SBATCH --dependency" in done.stdout
    assert done.stdout.splitlines()[-1] == "heavy: []"
    assert list(tmp_path.iterdir()) == []
