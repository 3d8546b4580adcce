"""How commands end: what they print, and their exit status."""

from __future__ import annotations

import argparse
import errno
import inspect
import os
import subprocess
import sys
from contextlib import nullcontext
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


def test_found_damage_is_no_bad_input(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_raising(cli.Damage("one is bad; mend it"), monkeypatch) == 1


def test_what_another_process_says_is_not_said_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    error = ValueError("gan.x: wrong")
    error.said_elsewhere = True  # type: ignore[attr-defined]
    assert run_raising(error, monkeypatch) == 2
    assert capsys.readouterr().err == ""


def test_a_crew_acts_on_the_configuration_that_one_of_it_has_read(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[object] = []
    other = load_config(None, ["run.seed=9"])

    class Other:
        """A process that is given what another has read."""

        def shared(self, function: object) -> Config:
            return other

    def command(*arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", ["command", *arguments])
        cli.run_together(
            cli.parser("A command."), lambda config, options, crew: seen.append(config), lambda: nullcontext(crew)
        )

    crew = Other()
    command("run.seed=3")
    assert seen == [other]
    crew.shared = lambda function: function()  # type: ignore[method-assign]
    command("run.seed=3", "--print-config")
    assert len(seen) == 1
    assert "seed: 3" in capsys.readouterr().out


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


# Python imports a module of this name at its start. At its end this one asks for the module that one of the commands
# has the name of.
LOOK = """
import atexit

def look():
    import inspect
    print("inspect is", inspect.__file__)

atexit.register(look)
"""


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_stands_in_for_a_module_of_the_standard_library(command: str, tmp_path: Path) -> None:
    """``shards/inspect.py`` lies where Python looks first when it runs any command of that folder."""
    (tmp_path / "sitecustomize.py").write_text(LOOK)
    variables = os.environ | {"PYTHONPATH": str(tmp_path)}
    for folder, name in ((tmp_path, REPOSITORY / command), (REPOSITORY, Path(command))):
        done = subprocess.run(
            [sys.executable, name, "--help"], capture_output=True, text=True, timeout=60, cwd=folder, env=variables
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == f"inspect is {inspect.__file__}"


def test_only_the_commands_own_folder_is_not_searched(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("print('found')")
    (tmp_path / "elsewhere.py").write_text("print('lost')")
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools/command.py").write_text(
        f"import sys; sys.path.append({str(tmp_path)!r}); from drdg import cli; import beside; import elsewhere"
    )
    (tmp_path / "tools/elsewhere.py").write_text("print('never')")
    done = subprocess.run(
        [sys.executable, tmp_path / "tools/command.py"], capture_output=True, text=True, timeout=60, cwd=tmp_path
    )
    assert done.stdout.split() == ["found", "lost"], done.stderr
