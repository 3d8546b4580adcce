"""Which executor there is, the one in this process, and what jobs must not see of this process's own environment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import fake_slurm
import pytest
from cheap_jobs import RUN, begun, chain, job

from drdg.cluster import machine
from drdg.cluster.debug import DebugSweep
from drdg.cluster.executors import default_kind, open_executor
from drdg.cluster.orders import locked_orders, new_orders
from drdg.config.sweep import SweepConfig
from drdg.sweep.notes import read_note


def test_in_this_process(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    good, bad = chain(tmp_path, "drdg", 0), chain(tmp_path, "drdg", 1, first="exit")
    report = job(tmp_path, "report", needs=[good[1].key, bad[1].key])
    sweep = DebugSweep(tmp_path, SweepConfig(), RUN)
    sweep.submit([good[0], bad[0], good[1], bad[1], report])
    assert {key: state.reason for key, state in sweep.states().items()} == {
        good[0].key: "COMPLETED",
        bad[0].key: "FAILED",
        good[1].key: "COMPLETED",
        bad[1].key: f"BLOCKED: needs {bad[0].key}",
        "report": "COMPLETED",
    }
    assert f"{bad[0].key}: SystemExit: 3" in capsys.readouterr().err
    assert os.environ["RANK"] == "0"
    assert begun(tmp_path, bad[1].key) == 0
    assert sweep.cancel([good[0].key]) == 0


def test_not_in_this_process_what_is_alive_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = chain(tmp_path, "drdg", 0)
    with locked_orders(tmp_path) as orders:
        orders.add(new_orders("slurm", "a", jobs[:1]))
        orders.record(orders.orders[0].token, "12")
    monkeypatch.setenv("PATH", str(tmp_path))  # there is no Slurm to say that it has ended
    with pytest.raises(ValueError, match=r"are still in the executor slurm; go on with --executor slurm"):
        DebugSweep(tmp_path, SweepConfig(), RUN).submit(jobs)
    assert begun(tmp_path, jobs[0].key) == 0


def test_ctrl_c_in_this_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(spec: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cheap_jobs.run", interrupted)
    jobs = chain(tmp_path, "drdg", 0)
    sweep = DebugSweep(tmp_path, SweepConfig(), RUN)
    with pytest.raises(KeyboardInterrupt):
        sweep.submit(jobs)
    assert {key: state.reason for key, state in sweep.states().items()} == {jobs[0].key: "CANCELLED"}
    note = read_note(jobs[0].place)
    assert note is not None
    assert note.said == "again"


def test_the_default_is_slurm_where_it_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "slurm"
    folder.mkdir()
    monkeypatch.setenv("FAKE_SLURM", str(folder))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert default_kind() == "local"
    monkeypatch.setenv("PATH", str(fake_slurm.install(tmp_path / "tools")))
    assert default_kind() == "slurm"
    # What has jobs of a sweep keeps them.
    with locked_orders(tmp_path / "a sweep") as orders:
        orders.add(new_orders("local", "a", [job(tmp_path, "a")]))
    assert default_kind(tmp_path / "a sweep") == "local"
    with locked_orders(tmp_path / "a sweep") as orders:
        orders.change(lambda order: True, ended="COMPLETED")
        orders.save()
    assert default_kind(tmp_path / "a sweep") == "slurm"
    # A cluster that does not answer is none the less there.
    (folder / "away").touch()
    with pytest.raises(ValueError, match=r"sinfo ends with status 1, .*; take --executor local\|slurm"):
        default_kind()
    monkeypatch.setattr("drdg.cluster.executors.PATIENCE_S", 0.0)
    with pytest.raises(ValueError, match=r"sinfo cannot be asked \(.*timed out.*\), .*; take --executor local\|slurm"):
        default_kind()


def test_an_executor_that_there_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="--executor moon: there is none; take slurm, local, debug"):
        open_executor("moon", tmp_path, SweepConfig())
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ValueError, match=r"pip install 'drdg\[cluster\]'"):
        open_executor("slurm", tmp_path, SweepConfig())
    assert open_executor("debug", tmp_path, SweepConfig()).kind == "debug"


@pytest.mark.parametrize("kind", ["slurm", "local", "debug"])
def test_a_plan_needs_no_scheduler_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    jobs = chain(tmp_path / "a sweep", "drdg", 0)
    plan = open_executor(kind, tmp_path / "a sweep", SweepConfig()).describe(jobs)
    assert all(spec.key in plan for spec in jobs)
    assert ("#SBATCH --dependency='afterok:<drdg-a_to_b-seed0-drdg-gan-0>'\n" in plan) == (kind == "slurm")
    assert not (tmp_path / "a sweep").exists()


def test_opening_loads_no_torch() -> None:
    code = (
        "import sys; from pathlib import Path; from drdg.config.sweep import SweepConfig;"
        "from drdg.cluster.executors import open_executor;"
        "[open_executor(kind, Path('x'), SweepConfig()).describe([]) for kind in ('slurm', 'local', 'debug')];"
        "print('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


def test_what_jobs_do_not_inherit() -> None:
    said = {
        **dict.fromkeys(("SLURM_JOB_ID", "SLURM_NTASKS", "RANK", "WORLD_SIZE", "PMI_RANK", "MASTER_ADDR"), "1"),
        **dict.fromkeys(("OMPI_COMM_WORLD_RANK", "SUBMITIT_EXECUTOR", "TORCHELASTIC_RUN_ID", "LOCAL_RANK"), "1"),
    }
    kept = {"SLURM_CONF": "/etc/slurm.conf", "PATH": "/bin", "SBATCH_ACCOUNT": "me", "MLFLOW_TRACKING_URI": "a"}
    assert machine.own({**said, **kept}) == kept
    with machine.changed_environment(machine.own({**os.environ, "A": "1"})):
        assert os.environ["A"] == "1"
    assert "A" not in os.environ


def test_pinned_processes() -> None:
    one = machine.cores()[:1]
    code = "import os; print(sorted(os.sched_getaffinity(0)), os.environ['OMP_NUM_THREADS'])"
    before = machine.cores()
    with machine.pinned(one):
        shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert shown == f"{one} 1\n"
    assert machine.cores() == before


LISTED = """\
GPU 0: NVIDIA H200 (UUID: GPU-aaa)
  MIG 1g.18gb     Device  0: (UUID: MIG-bbb)
GPU 1: NVIDIA H200 (UUID: GPU-ccc)
"""


@pytest.mark.parametrize(
    ("visible", "found"), [(None, [0, 1]), ("", []), ("1", [1]), ("1,0", [1, 0]), ("GPU-ccc", [1])]
)
def test_the_gpus_that_this_process_may_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, visible: str | None, found: list[int]
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f'#!/bin/sh\nprintf "%s" "{LISTED}"\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv(machine.GPUS)
    if visible is not None:
        monkeypatch.setenv(machine.GPUS, visible)
    assert machine.gpus() == found
    monkeypatch.setenv(machine.GPUS, "7")
    with pytest.raises(ValueError, match="CUDA_VISIBLE_DEVICES=7 names 7, which nvidia-smi -L does not list"):
        machine.gpus()
