"""Station 6, doctor: messages between two ranks, one line of JSON each, over plain TCP."""

from __future__ import annotations

import json
import os
import socket
import time
from contextlib import suppress
from typing import Any

RECEIVE_BYTES = 1 << 16
# A line that is longer comes from somebody who does not speak this.
LONGEST_BYTES = 1 << 24


class Wire:
    """One end of a connection. ``OSError`` when the other end is gone, ``TimeoutError`` when it says nothing."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        # Small messages that wait for answers; held back to be sent together they would make every clock look late.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._read = b""

    def send(self, message: dict[str, Any], seconds: float) -> None:
        """Send a message of JSON's types."""
        self._socket.settimeout(max(seconds, 0.001))
        self._socket.sendall(json.dumps(message).encode() + b"\n")

    def receive(self, seconds: float) -> dict[str, Any]:
        """The next message; what came of it before a time-out is kept for the next call."""
        end = time.monotonic() + seconds
        while b"\n" not in self._read:
            self._socket.settimeout(max(end - time.monotonic(), 0.001))
            block = self._socket.recv(RECEIVE_BYTES)
            if not block:
                raise ConnectionResetError("the connection was closed")
            self._read += block
            if len(self._read) > LONGEST_BYTES:
                raise ConnectionAbortedError("what came is no message")
        line, _, self._read = self._read.partition(b"\n")
        try:
            message = json.loads(line)
        except ValueError as error:
            raise ConnectionAbortedError("what came is no message") from error
        if not isinstance(message, dict):
            raise ConnectionAbortedError("what came is no message")
        return message

    def close(self) -> None:
        """Hang up."""
        with suppress(OSError):
            self._socket.close()


def words(error: OSError) -> str:
    """Why a connection failed, without numbers."""
    if isinstance(error, TimeoutError):
        return "timed out"
    # Python adds the address to some, and a resolver's errors have numbers of their own, below 0.
    return os.strerror(error.errno) if error.errno and error.errno > 0 else str(error.strerror or error)
