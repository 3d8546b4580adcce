"""Station 2, remote: a file behind a URL or a command, block by block, through webdataset's openers.

webdataset opens the source and knows its schemes. Here are the words for what went wrong, the end of a source that says
nothing any more, and the tries.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import sys
import time
from collections.abc import Callable, Generator
from typing import Any, TypeVar

from drdg.files import READ_BYTES

T = TypeVar("T")

# Before the second, third and fourth try: a moment's trouble passes, a server that starts again needs longer.
PAUSES_S = (1.0, 4.0, 15.0)
# curl and the clouds' tools try again themselves for a while without a word; a source that is silent for longer hangs.
SILENT_S = 120.0
# Two letters at least: ``C:`` is no scheme.
SCHEME = re.compile(r"[a-z][a-z0-9+.-]+:")
# What curl's exit statuses mean (curl's manual, "EXIT CODES"), for the ones that a user can do something about.
CURL = {
    6: "the host is not known",
    7: "the host does not answer there",
    18: "the connection broke off",
    22: "the server answers with an error, such as 404 for a file that is not there",
    28: "the host did not answer in time",
    35: "no secure connection could be made",
    56: "the connection broke off",
    60: "the server's certificate cannot be trusted",
}


class Failed(Exception):
    """A try to read a source that did not succeed: in words, as what the source did, with the cure."""

    def __init__(self, words: str, cure: str) -> None:
        super().__init__(words)
        self.cure = cure


def is_remote(place: str) -> bool:
    """Whether a place is a URL or a ``pipe:`` rather than a path."""
    return SCHEME.match(place) is not None


def check_place(place: str) -> None:
    """Raise ``ValueError`` when a command does not say where the file's name goes."""
    if place.startswith("pipe:") and "{}" not in place:
        raise ValueError(f"{place}: does not say which file; put {{}} where its name goes, as in 'pipe:cat /data/{{}}'")


def url_of(place: str, name: str) -> str:
    """Where the file ``name`` of a remote place is: ``{}`` stands for it, and without one it comes at the end."""
    return place.replace("{}", name) if "{}" in place else f"{place.rstrip('/')}/{name}"


def retried(url: str, attempt: Callable[[], T]) -> T:
    """What ``attempt()`` returns, which is tried again after each of ``PAUSES_S`` while it raises ``Failed``.

    Raises ``ValueError`` after the last.
    """
    for pause in PAUSES_S:
        try:
            return attempt()
        except Failed as failure:
            print(f"{url}: {failure}; trying again in {pause:g} s", file=sys.stderr, flush=True)
        time.sleep(pause)
    try:
        return attempt()
    except Failed as failure:
        raise ValueError(f"{url}: {failure}, {len(PAUSES_S) + 1} times in a row; {failure.cure}") from failure


def blocks(url: str) -> Generator[bytes, None, None]:
    """The content of ``url``. A reader that stops early must close the generator, which ends the command behind it.

    Raises ``Failed`` when the source cannot be opened, breaks off, is silent or its command ends with an error, and
    ``ValueError`` when webdataset does not open such a URL at all.
    """
    source = _open(url)
    # The descriptor itself: a buffer between could hold bytes that polling does not see.
    descriptor = getattr(source, "stream", source).fileno()
    waiting = select.poll()
    waiting.register(descriptor, select.POLLIN)
    ended = False
    try:
        while waiting.poll(SILENT_S * 1000):
            block = os.read(descriptor, READ_BYTES)
            if not block:
                ended = True
                break
            yield block
        else:
            raise _unreadable(f"nothing came for {SILENT_S:g} s")
    except OSError as error:
        raise _unreadable(error.strerror or str(error)) from error
    finally:
        if not ended and (command := getattr(source, "proc", None)) is not None:
            command.kill()  # closing waits for it to end, which a silent one does not
        with contextlib.suppress(OSError):  # webdataset's word for the status that is told below
            source.close()
    status = getattr(source, "status", 0)
    if status not in getattr(source, "ignore_status", [0]):
        curl = re.match(r"https?:", url) is not None
        meaning = f": {CURL[status]}" if curl and status in CURL else ""
        raise _unreadable(f"{'curl' if curl else 'its command'} ended with status {status}{meaning}")


def _open(url: str) -> Any:
    from webdataset.gopen import gopen  # imports torch, which a folder of this machine need not wait for

    try:
        return gopen(url, "rb")
    except OSError as error:
        # A missing program of webdataset's (gsutil, say) is an OSError with its name.
        name = f": {error.filename}" if error.filename else ""
        raise _unreadable(f"{error.strerror or error}{name}") from error
    except ValueError as error:
        secure = os.environ.get("WDS_SECURE", "0") != "0"
        cure = (
            "unset WDS_SECURE to allow it, or name a folder or a web address"
            if secure
            else "give 'pipe:COMMAND' with a command that prints the file {}, as in 'pipe:aws s3 cp s3://bucket/{} -'"
        )
        raise ValueError(f"{url}: webdataset opens no such source ({error}); {cure}") from error


def _unreadable(why: str) -> Failed:
    return Failed(f"cannot be read ({why})", "correct the place of the shards or mend the way to it")
