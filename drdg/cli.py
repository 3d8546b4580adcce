"""Station 6, commands: what all of them share, their arguments, and how they end on bad input.

Whatever takes long to import is imported after the arguments are parsed, so that ``--help`` is immediate.
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, Protocol, TypeVar

if TYPE_CHECKING:
    from drdg.config import Config

T = TypeVar("T")


class Sharing(Protocol):
    """Processes that can give each other values."""

    def shared(self, function: Callable[[], T]) -> T:
        """What ``function`` gives on one of them, on each."""
        ...


C = TypeVar("C", bound=Sharing)


class Damage(ValueError):
    """What a check was to find and has found, in one sentence. It ends the command with status 1: nothing was typed
    wrong.
    """


BAD_INPUT = 2  # argparse's own exit status for bad arguments
FAILED = 1
# The variable by which a process that starts ranks hears why one has ended.
LAST_WORD = "DRDG_LAST_WORD"
INTERRUPTED = 130  # 128 + SIGINT, as shells have it
CURES = {
    errno.ENOSPC: "; make room and start the same command again: what is whole is kept",
    errno.EDQUOT: "; make room in your quota and start the same command again: what is whole is kept",
    errno.EACCES: "; give yourself permission or choose another place",
    errno.EROFS: "; choose a place that can be written",
}


def _forget_own_folder() -> None:
    """Take the folder of the command that runs off the module search path, where Python puts it for a script.

    Commands import nothing from their folder, and ``shards/inspect.py`` has the name of a module of the standard
    library that ``dataclasses``, pydantic and torch import: each command in ``shards/`` would give them that file.
    """
    command = getattr(sys.modules["__main__"], "__file__", None)
    if command and sys.path and sys.path[0] and Path(sys.path[0]).resolve() == Path(command).resolve().parent:
        del sys.path[0]


# At once, as whatever is imported next may import ``inspect``. This is the first module of ours that a command imports,
# and what stands above (argparse, pathlib, typing and so on) does not need it in any Python from 3.10 to 3.14.
_forget_own_folder()


def parser(
    description: str, parents: Sequence[argparse.ArgumentParser] = (), *, overridable: bool = True
) -> argparse.ArgumentParser:
    """A parser with the arguments of its ``parents``, and then those that every command has.

    ``overridable=False``, for a command that is told other things one after another, leaves out the overrides.
    """
    arguments = argparse.ArgumentParser(description=description, parents=parents)
    arguments.add_argument("--config", metavar="FILE", help="YAML file; without it, the paper's recipe")
    arguments.add_argument("--print-config", action="store_true", help="print the resolved configuration and stop")
    arguments.add_argument("--dry-run", action="store_true", help="say what would be done and stop")
    if overridable:
        arguments.add_argument("overrides", nargs="*", metavar="key.sub=value", help="changes to the configuration")
    else:
        arguments.set_defaults(overrides=[])
    return arguments


def add_domain(arguments: argparse.ArgumentParser) -> None:
    """The argument of commands on shards: of which domain; see :func:`domains`."""
    arguments.add_argument("--domain", choices=("source", "target", "both"), default="both", help="default: both")


def domains(options: argparse.Namespace) -> tuple[str, ...]:
    """The sections of the configuration that ``--domain`` asks for."""
    return ("source", "target") if options.domain == "both" else (options.domain,)


def refuse_folder_with_config(options: argparse.Namespace) -> None:
    """Raise ``ValueError`` when folders are named beside a configuration, which would say other ones."""
    if options.folder and (options.config or options.overrides or options.domain != "both"):
        raise ValueError("--folder is read without a configuration; leave out --config, --domain and overrides")


def run(
    arguments: argparse.ArgumentParser,
    action: Callable[[Config, argparse.Namespace], None],
    speaking: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> None:
    """Parse the command line, call ``action``, and end with one sentence and a non-zero status on bad input.

    The context ``speaking()`` sees each error first, to mark those whose sentence another process says.
    """
    options = arguments.parse_intermixed_args()
    with one_sentence(), speaking():
        config = _configure(options)
        if config is not None:
            action(config, options)


def run_together(
    arguments: argparse.ArgumentParser,
    action: Callable[[Config, argparse.Namespace, C], None],
    open_crew: Callable[[], AbstractContextManager[C]],
) -> None:
    """As :func:`run` for a command of several processes: one of them reads the configuration, all call ``action``.

    ``open_crew`` makes them one crew, whose ``shared(function)`` gives all of them what ``function`` gives on one.
    """
    options = arguments.parse_intermixed_args()
    with one_sentence(), open_crew() as crew:
        config = crew.shared(lambda: _configure(options))
        if config is not None:
            action(config, options, crew)


def _configure(options: argparse.Namespace) -> Config | None:
    """The resolved configuration; None when it was to be printed, which it then is."""
    from drdg.config import load_config, to_yaml

    config = load_config(options.config, options.overrides)
    if options.print_config:
        print(to_yaml(config), end="", flush=True)
        return None
    return config


@contextmanager
def one_sentence() -> Iterator[None]:
    """End the command with one sentence and a status of its kind where the block raises what a user can mend.

    An error with the attribute ``said_elsewhere`` ends it without the sentence, which another process prints.
    """
    try:
        yield
    except Damage as error:
        _end(error, str(error), FAILED)
    except (ValueError, FloatingPointError) as error:
        _end(error, str(error), BAD_INPUT)
    except OSError as error:
        if error.errno is None and error.filename is None:  # none of the system's, but a sentence
            _end(error, str(error), getattr(error, "status", FAILED))
        sentence = f"{error.filename or 'a file'}: {error.strerror or error}{CURES.get(error.errno or 0, '')}"
        _end(error, sentence, FAILED)
    except KeyboardInterrupt as error:
        # Work that has stopped by itself, where it could, says what it has saved and has a status for it.
        if (status := getattr(error, "status", None)) is not None:
            _end(error, str(error), status)
        _end(error, "stopped; the same command continues where it was", INTERRUPTED)


def _end(error: BaseException, sentence: str, status: int) -> NoReturn:
    if getattr(error, "said_elsewhere", False):
        raise SystemExit(status)
    stop(sentence, status)


def stop(sentence: str, status: int) -> NoReturn:
    """Say on standard error why the command ends, and to the file that ``LAST_WORD`` names, if any, and end it."""
    # In one piece, newline and all: other processes of a crew may be writing to the same place.
    print(f"error: {sentence}\n", end="", file=sys.stderr, flush=True)
    if path := os.environ.get(LAST_WORD):
        with suppress(OSError):
            Path(path).write_text(sentence, encoding="utf-8")
    raise SystemExit(status)
