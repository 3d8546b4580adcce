"""Station 6, commands: what all of them share, their arguments, and how they end on bad input.

Whatever takes long to import is imported after the arguments are parsed, so that ``--help`` is immediate.
"""

from __future__ import annotations

import argparse
import errno
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from drdg.config import Config

BAD_INPUT = 2  # argparse's own exit status for bad arguments
FAILED = 1
INTERRUPTED = 130  # 128 + SIGINT, as shells have it
CURES = {
    errno.ENOSPC: "; make room and start the same command again: what is whole is kept",
    errno.EDQUOT: "; make room in your quota and start the same command again: what is whole is kept",
    errno.EACCES: "; give yourself permission or choose another place",
    errno.EROFS: "; choose a place that can be written",
}


def parser(description: str) -> argparse.ArgumentParser:
    """A parser with the arguments that every command has."""
    arguments = argparse.ArgumentParser(description=description)
    arguments.add_argument("--config", metavar="FILE", help="YAML file; without it, the paper's recipe")
    arguments.add_argument("--print-config", action="store_true", help="print the resolved configuration and stop")
    arguments.add_argument("--dry-run", action="store_true", help="say what would be done and stop")
    arguments.add_argument("overrides", nargs="*", metavar="key.sub=value", help="changes to the configuration")
    return arguments


def run(arguments: argparse.ArgumentParser, action: Callable[[Config, argparse.Namespace], None]) -> None:
    """Parse the command line, call ``action``, and end with one sentence and a non-zero status on bad input."""
    options = arguments.parse_intermixed_args()
    from drdg.config import load_config, to_yaml

    try:
        config = load_config(options.config, options.overrides)
        if options.print_config:
            print(to_yaml(config), end="")
        else:
            action(config, options)
    except (ValueError, FloatingPointError) as error:
        stop(str(error), BAD_INPUT)
    except OSError as error:
        stop(f"{error.filename or 'a file'}: {error.strerror or error}{CURES.get(error.errno or 0, '')}", FAILED)
    except KeyboardInterrupt:
        stop("stopped; the same command continues where it was", INTERRUPTED)


def stop(sentence: str, status: int) -> NoReturn:
    """Say on standard error why the command ends, and end it."""
    print(f"error: {sentence}", file=sys.stderr, flush=True)
    raise SystemExit(status)
