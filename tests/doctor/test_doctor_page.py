"""The page, the JSON, how the command ends, and a whole examination of one rank."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from patients import ROOT
from rich.console import Console

from drdg.config import Config
from drdg.doctor import timed, visit
from drdg.doctor.finding import bad, ok, warning
from drdg.doctor.page import as_plain_values, print_page

FINDINGS = [
    ok("ranks", "2 ranks"),
    warning("clocks", "2 s apart", "synchronise them"),
    bad("port", "cannot be reached", "open it", connect_s=1.5),
]


@pytest.mark.parametrize("is_terminal", [True, False])
def test_the_page_has_the_worst_first_with_its_cure(is_terminal: bool) -> None:
    out = io.StringIO()
    print_page("heading", FINDINGS, Console(file=out, force_terminal=is_terminal, width=100))
    page = out.getvalue()
    assert ("\x1b[" in page) == is_terminal
    places = [
        page.index(words) for words in ("heading", "cannot be reached", "-> open it", "-> synchronise", "2 ranks")
    ]
    assert places == sorted(places)
    assert "1 bad, 1 warning, 1 ok" in page
    assert is_terminal or all(line == line.rstrip() for line in page.splitlines())


def test_the_json_has_all_of_it() -> None:
    values = json.loads(json.dumps(as_plain_values(FINDINGS)))
    assert [value["level"] for value in values] == ["bad", "warning", "ok"]
    assert values[0] == {
        "check": "port",
        "level": "bad",
        "measured": "cannot be reached",
        "cure": "open it",
        "figures": {"connect_s": 1.5},
    }


# ---------------------------------------------------------------------------------------------------- one rank, in here


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No launcher's variables, and no other test's last resort, which only one can have."""
    for name in ("RANK", "WORLD_SIZE", "SLURM_STEP_ID", "PMI_RANK", "PMI_SIZE"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("alone")
def test_one_rank_is_examined_and_nothing_is_left(
    small: Callable[..., Config], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    visit.visit(small(), ["--config", "my city.yaml"], 10.0, json_wanted=True)
    told = capsys.readouterr()
    found = {value["check"]: value for value in json.loads(told.out)}
    assert "0 bad" in told.err
    assert {value["level"] for value in found.values()} <= {"ok", "warning"}
    assert set(found) >= {"ranks", "software", "signals", "checkpoint disk", "locks", "tracking", "shards", "cores"}
    assert "shards/build.py --config 'my city.yaml'" in found["shards"]["cure"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("alone")
def test_what_is_bad_ends_the_command_with_status_1(
    small: Callable[..., Config], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        visit.visit(small("tracking.uri=file:///x", "run.root=/proc/self/runs"), [], 10.0)
    assert ended.value.code == 1
    told = capsys.readouterr()
    assert "2 bad" in told.out
    assert "error: 2 of " in told.err


@pytest.mark.usefixtures("alone")
def test_ctrl_c_still_gives_a_page(
    small: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(examination: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("drdg.doctor.examination.Examination._software", interrupted)
    before = signal.getsignal(signal.SIGTERM)
    visit.visit(small(), [], 10.0)
    page = capsys.readouterr().out
    assert "before all was looked at" in page
    assert "1 rank on 1 node" in page
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_hung_thread_does_not_hold_up_the_end() -> None:
    code = (
        "import sys, time\nfrom drdg.doctor.timed import leave, within\n"
        "try: within(0.2, lambda: time.sleep(60))\nexcept TimeoutError: print('left')\nleave(3)\nprint('not this')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=50)
    assert (done.returncode, done.stdout) == (3, "left\n")
    timed.leave(3)  # returns where nothing hangs, or this test ends here


def test_a_doctor_that_hangs_says_its_last_words_and_ends() -> None:
    code = (
        "import time\nfrom drdg.doctor.timed import ending_after\n"
        "with ending_after(0.3, lambda: print('last words')): time.sleep(60)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=50)
    assert (done.returncode, done.stdout) == (1, "last words\n")
    with timed.ending_after(60, lambda: None):
        assert threading.active_count() > 1


# ---------------------------------------------------------------------------------------------------------- the command


def command(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "launch/doctor.py", *arguments],
        cwd=ROOT,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_a_dry_run_does_nothing() -> None:
    done = command("--dry-run", "--timeout", "3")
    assert (done.returncode, done.stdout) == (0, "would examine the ranks that start with this, each step within 3 s\n")


@pytest.mark.parametrize("value", ["0", "soon", "nan", "inf"])
def test_a_time_that_is_none_is_refused(value: str) -> None:
    done = command("--timeout", value)
    assert done.returncode == 2
    assert "is no time to wait" in done.stderr


def test_a_half_set_environment_is_refused() -> None:
    done = command(RANK="0", WORLD_SIZE="2")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: torchrun's environment is half set")
