"""How commands end: what they print, and their exit status."""

from __future__ import annotations

import argparse
import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from drdg import cli
from drdg.config import Config, load_config

REPOSITORY = Path(__file__).parents[1]
ROOMS = ("launch", "shards")
COMMANDS = sorted(f"{room}/{path.name}" for room in ROOMS for path in (REPOSITORY / room).glob("*.py"))


def run_raising(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> int:
    def action(config: Config, options: argparse.Namespace) -> None:
        raise error

    monkeypatch.setattr(sys, "argv", ["command"])
    with pytest.raises(SystemExit) as ended:
        cli.run(cli.parser("A command."), action)
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (ValueError("gan.x: wrong; set it right"), 2, "gan.x: wrong; set it right"),
        (FloatingPointError("gan/critic/loss is nan"), 2, "gan/critic/loss is nan"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/big"), 1, "/big: No space left on device; make room"),
        (PermissionError(errno.EACCES, "Permission denied", "/theirs"), 1, "/theirs: Permission denied; give yourself"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "/gone"), 1, "/gone: No such file or directory"),
        (KeyboardInterrupt(), 130, "the same command continues"),
    ],
)
def test_an_error_is_one_sentence_and_a_status(
    error: BaseException,
    status: int,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_raising(error, monkeypatch) == status
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert words in said
    assert len(said.strip().splitlines()) == 1


def test_our_own_mistakes_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AssertionError):
        run_raising(AssertionError("ours"), monkeypatch)


def test_overrides_may_stand_before_and_after_options(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Config] = []
    monkeypatch.setattr(sys, "argv", ["command", "run.seed=3", "--dry-run", "gan.n_critic=2"])
    cli.run(cli.parser("A command."), lambda config, options: seen.append(config))
    assert seen == [load_config(None, ["run.seed=3", "gan.n_critic=2"])]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_imports_nothing_that_takes_long(command: str) -> None:
    heavy = "{'torch', 'mlflow', 'numpy', 'rasterio', 'pydantic', 'matplotlib'}"
    look = f"import atexit, sys; atexit.register(lambda: print('heavy:', sorted({heavy} & set(sys.modules))))"
    code = f"{look}; sys.argv = ['x', '--help']; import runpy; runpy.run_path({command!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    assert "--config" in done.stdout
    assert "heavy: []" in done.stdout
