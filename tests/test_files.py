"""Outputs are whole or not there."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from drdg.files import clear_abandoned, is_sealed, json_text, seal, sha256, whole_file, write_json, write_text


def test_the_file_appears_when_it_is_whole(tmp_path):
    path = tmp_path / "new" / "a.bin"
    with whole_file(path) as file:
        file.write(b"1")
        assert not path.exists()
    assert path.read_bytes() == b"1"
    assert list(path.parent.iterdir()) == [path]


def test_an_error_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.bin"
    path.write_text("before")

    def write_half():
        with whole_file(path) as file:
            file.write(b"ha")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_text_and_values_are_read_back(tmp_path):
    write_text(tmp_path / "a.txt", "Straße\n")
    assert (tmp_path / "a.txt").read_bytes() == "Straße\n".encode()
    write_json(tmp_path / "a.json", {"b": [1, 2.5], "a": None})
    assert list(json.loads((tmp_path / "a.json").read_text()).items()) == [("b", [1, 2.5]), ("a", None)]


def test_what_json_has_no_word_for_is_refused(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"miou": float("nan")})
    assert not list(tmp_path.iterdir())


def test_the_checksum_is_of_the_content(tmp_path):
    content = bytes(range(256)) * 9000
    (tmp_path / "a").write_bytes(content)
    assert sha256(tmp_path / "a") == hashlib.sha256(content).hexdigest()


def test_sealed_values_vouch_for_every_byte_of_their_file(tmp_path):
    values = {"name": "Straße", "numbers": [1, 2.5, 1e-9], "none": None}
    write_json(tmp_path / "a.json", seal(values))
    text = (tmp_path / "a.json").read_bytes()
    assert json.loads(text).items() > values.items()
    assert is_sealed(text)
    for place in range(len(text)):
        for mask in (1, 4, 32, 128, 255):
            changed = bytearray(text)
            changed[place] ^= mask
            assert not is_sealed(bytes(changed)), (place, mask)
    for other in (b"", b"[]", b"{}", b"\xff", b"[" * 100_000, text[:-1], text + b" ", json_text(values).encode()):
        assert not is_sealed(other)


def test_only_what_nobody_writes_any_more_is_cleared_away(tmp_path: Path) -> None:
    host = socket.gethostname()
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    names = {
        "dead": f".a.tar.{host}-{ended.pid}.tmp",
        "own": f".b.tar.{host}-{os.getpid()}.tmp",
        "elsewhere": ".c.tar.another-host-7.tmp",
        "elsewhere, long ago": ".d.tar.another-host-7.tmp",
        "no such name": ".e.tmp",
    }
    for name in names.values():
        (tmp_path / "x").mkdir(exist_ok=True)
        (tmp_path / "x" / name).write_text("")
    os.utime(tmp_path / "x" / names["elsewhere, long ago"], (1, 1))
    (tmp_path / "a.tar").write_text("")
    clear_abandoned(tmp_path)
    left = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"a.tar", names["own"], names["elsewhere"], names["no such name"]}
