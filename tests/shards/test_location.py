from __future__ import annotations

import errno
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh3_128_hexdigest

from drdg.files import SEAL, seal, write_json, xxh128
from drdg.shards import cache as cache_module
from drdg.shards import remote
from drdg.shards.build import build_shards
from drdg.shards.cache import bring
from drdg.shards.location import Location
from drdg.shards.store import ShardStore

Spoil = Callable[[bytes, int], bytes]
SHARD = "shard-000001.tar"
READ_ALL = """
import sys
from pathlib import Path
from drdg.shards.location import Location
place = Location(sys.argv[1], Path(sys.argv[2]))
print("ready", flush=True)
sys.stdin.readline()
for entry in place.manifest()["shards"]:
    place.fetch(entry)
"""


@pytest.fixture(scope="module")
def built(shared_town: Any) -> Path:
    return build_shards(shared_town.domain(), shared_town.shards(), need_label=True)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "PAUSES_S", (0.0, 0.01, 0.02))
    monkeypatch.setenv("no_proxy", "127.0.0.1")


class Server(ThreadingHTTPServer):
    """Serves a folder on the loopback interface, counts what is asked for, and spoils what a test wants spoilt."""

    def __init__(self, folder: Path) -> None:
        self.asked: Counter[str] = Counter()
        self.spoil: dict[str, Spoil] = {}
        """File name to what is sent, of its bytes and the number of times it was asked for."""
        self.hold: dict[str, threading.Event] = {}
        """File name to what its second half waits for."""
        super().__init__(("127.0.0.1", 0), partial(Handler, directory=str(folder)))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(SimpleHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        name = path.name
        self.server.asked[name] += 1
        if not path.is_file():
            return self.send_error(404)
        data = path.read_bytes()
        spoil = self.server.spoil.get(name, lambda data, asked: data)
        sent = spoil(data, self.server.asked[name])
        self.send_response(200)
        self.send_header("Content-Length", str(max(len(data), len(sent))))
        self.end_headers()
        self.wfile.write(sent[: len(sent) // 2])
        if name in self.server.hold:
            self.wfile.flush()
            self.server.hold[name].wait()
        self.wfile.write(sent[len(sent) // 2 :])
        return None

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server(built: Path) -> Iterator[Server]:
    with serving(built) as server:
        yield server


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    server = Server(folder)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        for event in server.hold.values():
            event.set()
        server.shutdown()
        server.server_close()
        thread.join()


def fetch_all(place: Location) -> list[Path]:
    return [place.fetch(entry)[0] for entry in place.manifest()["shards"]]


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    write_json(folder / "manifest.json", seal({name: value for name, value in manifest.items() if name != SEAL}))


def whole_copies(cache: Path) -> set[str]:
    return {path.name for path in cache.rglob("shard-*")}


def same_samples(one: ShardStore, other: ShardStore) -> bool:
    return len(one) == len(other) and all(
        one[index].key == other[index].key
        and one[index].meta == other[index].meta
        and all(
            np.array_equal(getattr(one[index], name), getattr(other[index], name))
            for name in ("image", "dsm_steps", "ground_steps", "label")
        )
        for index in range(len(one))
    )


# ------------------------------------------------------------------------------------------------------------ a folder


def test_a_path_is_a_folder_whatever_its_name(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("http:").symlink_to(built)
    assert Location(Path("http:")).manifest() == Location("./http:").manifest() == Location(built).manifest()


def test_a_folder_is_read_in_place(built: Path) -> None:
    for folder in (built, str(built)):
        place = Location(folder)
        assert place.name == str(place) == str(built)
        assert place.manifest() == json.loads((built / "manifest.json").read_bytes())
        for entry in place.manifest()["shards"]:
            place.check(entry)
            path, index = place.fetch(entry)
            assert path == built / entry["file"]
            assert index["xxh128"] == entry["xxh128"] == xxh128(path)


# ------------------------------------------------------------------------------------------------ what lies elsewhere


@pytest.mark.parametrize("kind", ["http", "http with {}", "pipe", "file"])
def test_shards_elsewhere_are_those_here(built: Path, server: Server, tmp_path: Path, kind: str) -> None:
    place = {
        "http": f"{server.url}/",
        "http with {}": f"{server.url}/{{}}?token=1",
        "pipe": f"pipe:cat {built}/{{}}",
        "file": built.absolute().as_uri(),
    }[kind]
    location = Location(place, tmp_path / "cache")
    assert location.manifest() == Location(built).manifest()
    assert not (tmp_path / "cache").exists()
    assert same_samples(ShardStore(location), ShardStore(built))
    for path in fetch_all(location):
        assert path.is_relative_to(tmp_path / "cache")
        assert path.read_bytes() == (built / path.name).read_bytes()
    assert not list((tmp_path / "cache").rglob("*.tmp"))


def test_a_copy_is_brought_once_and_survives_pickling(server: Server, tmp_path: Path) -> None:
    location = Location(server.url, tmp_path)
    paths = fetch_all(location)
    asked = dict(server.asked)
    assert set(asked.values()) == {1}
    again = pickle.loads(pickle.dumps(location))
    assert again.name == location.name
    assert fetch_all(again) == fetch_all(location) == paths
    assert dict(server.asked) == asked
    assert fetch_all(Location(server.url, tmp_path)) == paths
    assert dict(server.asked) == asked | {"manifest.json": 2}


def test_the_cache_is_in_the_temporary_folder_unless_it_is_given(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module.tempfile, "gettempdir", lambda: str(tmp_path))
    location = Location(f"pipe:cat {built}/{{}}")
    own = tmp_path / f"drdg-shards-{os.getuid()}"
    assert fetch_all(location)[0].is_relative_to(own)
    assert own.stat().st_mode & 0o077 == 0
    monkeypatch.setattr(cache_module.os, "getuid", lambda: own.stat().st_uid + 1)
    (tmp_path / f"drdg-shards-{own.stat().st_uid + 1}").mkdir()
    with pytest.raises(ValueError, match=r"belongs to another user; set shards\.cache"):
        fetch_all(location)


def test_shards_of_one_plan_with_other_bytes_are_not_mixed_up(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    manifest = Location(built).manifest()
    for entry in manifest["shards"]:
        data = bytearray((built / entry["file"]).read_bytes())
        data[-600] ^= 1
        (other / entry["file"]).write_bytes(data)
        index = Path(entry["file"]).with_suffix(".index.json").name
        (other / index).write_bytes((built / index).read_bytes())
        entry["xxh128"] = xxh128(other / entry["file"])
    write_manifest(other, manifest)
    for folder in (built, other):
        for path in fetch_all(Location(folder.as_uri(), tmp_path / "cache")):
            assert path.read_bytes() == (folder / path.name).read_bytes()


# ------------------------------------------------------------------------------------------------- what comes damaged


def cut(data: bytes, asked: int) -> bytes:
    return data[: len(data) // 3]


def flip(data: bytes, asked: int) -> bytes:
    place = len(data) // 2
    return data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :]


def lengthen(data: bytes, asked: int) -> bytes:
    return data + b"more"


@pytest.mark.parametrize("file", [SHARD, "shard-000001.index.json", "manifest.json"])
@pytest.mark.parametrize("damage", [cut, flip, lengthen])
def test_what_comes_damaged_is_brought_again(
    built: Path, server: Server, tmp_path: Path, file: str, damage: Spoil, capsys: pytest.CaptureFixture[str]
) -> None:
    server.spoil[file] = lambda data, asked: damage(data, asked) if asked <= 2 else data
    paths = fetch_all(Location(server.url, tmp_path))
    assert server.asked[file] == 3
    assert all(path.read_bytes() == (built / path.name).read_bytes() for path in paths)
    said = capsys.readouterr().err
    assert f"{server.url}/{file}: " in said
    assert "trying again in 0.01 s" in said


@given(data=st.binary(max_size=300), cut=st.tuples(st.integers(0, 300), st.integers(0, 300)), put=st.binary(max_size=3))
def test_no_other_bytes_pass_for_the_right_ones(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, cut: tuple[int, int], put: bytes
) -> None:
    folder = tmp_path_factory.mktemp("any")
    came = data[: min(cut)] + put + data[max(cut) :]
    (folder / "there").write_bytes(came)
    for size in (len(data), None):
        here = folder / f"here-{size}"
        expected = nullcontext() if came == data else pytest.raises(ValueError, match="4 times in a row")
        with expected:
            bring((folder / "there").as_uri(), here, xxh3_128_hexdigest(data), size)
        assert (here.read_bytes() == data) if came == data else not here.exists()


@pytest.mark.parametrize(
    ("file", "damage", "words"),
    [
        (SHARD, cut, "broke off"),
        (SHARD, flip, "is damaged: its checksum is not the manifest's"),
        (SHARD, lengthen, "has more than the"),
        ("shard-000001.index.json", flip, "is damaged"),
        ("manifest.json", cut, "the connection broke off"),
        ("manifest.json", lambda data, asked: data.replace(b'"tile": 128', b'"tile": 129'), "is damaged: its checksum"),
        ("manifest.json", lambda data, asked: b"x" * len(data), "is not JSON"),
        ("manifest.json", lambda data, asked: b"[]" + b" " * (len(data) - 2), "is no manifest of shards"),
    ],
)
def test_what_stays_damaged_is_named(server: Server, tmp_path: Path, file: str, damage: Spoil, words: str) -> None:
    server.spoil[file] = damage
    with pytest.raises(ValueError, match=words) as error:
        fetch_all(Location(server.url, tmp_path))
    sentence = str(error.value)
    assert sentence.startswith(f"{server.url}/{file}: ")
    assert "4 times in a row; " in sentence
    assert "\n" not in sentence
    assert server.asked[file] == 4
    assert file not in whole_copies(tmp_path)
    assert not list(tmp_path.rglob("*.tmp"))
    server.spoil.clear()
    assert len(fetch_all(Location(server.url, tmp_path))) == 5


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ("shard*json", r"000000\.index\.json .*: is damaged"),
        ("*.tar", r"000000\.tar .*: broke off after 700 of \d+ bytes"),
    ],
)
def test_a_pipe_that_hides_its_error_is_seen_by_its_bytes(built: Path, tmp_path: Path, files: str, words: str) -> None:
    command = f"case {{}} in {files}) cat {built}/{{}} | head -c 700;; *) cat {built}/{{}};; esac"
    with pytest.raises(ValueError, match=words):
        fetch_all(Location(f"pipe:{command}", tmp_path))


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("http://127.0.0.1:9/shards", "curl ended with status 7: the host does not answer there"),
        ("{server}/nowhere", "curl ended with status 22: the server answers with an error, such as 404"),
        ("pipe:exit 5; echo {}", "its command ended with status 5"),
        ("pipe:no-such-program {} 2>&-", "its command ended with status 127"),
        ("file:///nowhere/shards", r"No such file or directory: /nowhere/shards/manifest\.json"),
        ("s3://bucket/shards", r"opens no such source .*no gopen handler.*pipe:aws s3 cp s3://bucket/\{\} -"),
        ("pipe:cat /data", r"does not say which file; put \{\} where its name goes"),
    ],
)
def test_a_source_that_cannot_be_read_is_named(server: Server, tmp_path: Path, place: str, words: str) -> None:
    place = place.replace("{server}", server.url)
    with pytest.raises(ValueError, match=words) as error:
        Location(place, tmp_path).manifest()
    assert str(error.value).startswith(place.split("{}")[0])
    assert "; " in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_program_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="No such file or directory: gsutil"):
        Location("gs://bucket/shards", tmp_path).manifest()


@pytest.mark.parametrize("place", ["pipe:cat {folder}/{}", "file://{folder}"])
def test_webdatasets_secure_mode_is_kept(
    built: Path, tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from webdataset import utils

    monkeypatch.setenv("WDS_SECURE", "1")
    monkeypatch.setattr(utils, "enforce_security", True)  # what webdataset makes of it when it is loaded
    with pytest.raises(ValueError, match="; unset WDS_SECURE to allow it"):
        Location(place.replace("{folder}", str(built)), tmp_path).manifest()
    assert Location(built).manifest()


def test_a_source_that_is_silent_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "SILENT_S", 0.05)
    with pytest.raises(ValueError, match=r"nothing came for 0\.05 s\), 4 times in a row"):
        Location("pipe:exec sleep 1000; {}", tmp_path).manifest()


@pytest.mark.parametrize("name", ["../../escape.tar", "x;touch harm.tar", "shard 1.tar", "shard-000000.zip", 7])
def test_a_manifest_cannot_make_a_command_or_leave_the_cache(built: Path, tmp_path: Path, name: object) -> None:
    manifest = json.loads((built / "manifest.json").read_bytes())
    for where in (manifest["shards"][1], manifest):
        kept = dict(where)
        where["file" if "file" in where else "plan"] = name if "file" in where else "../x"
        write_manifest(tmp_path, manifest)
        with pytest.raises(ValueError, match="which no build gives"):
            Location(f"pipe:cat {tmp_path}/{{}}", tmp_path / "cache").manifest()
        where.update(kept)


def test_an_older_manifest_is_refused(built: Path, tmp_path: Path) -> None:
    manifest = json.loads((built / "manifest.json").read_bytes())
    manifest["shards"][0]["sha256"] = manifest["shards"][0].pop("xxh128")
    write_manifest(tmp_path, manifest)
    for place in (tmp_path, tmp_path.as_uri()):
        with pytest.raises(ValueError, match="written by another version of this suite"):
            Location(place).manifest()


# ---------------------------------------------------------------------------------------------------------- the cache


def test_a_full_disk_ends_in_a_sentence(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def full(path: Path) -> Iterator[IO[bytes]]:
        with open("/dev/full", "wb", buffering=0) as file:  # noqa: PTH123
            yield file

    location = Location(f"pipe:cat {built}/{{}}", tmp_path)
    monkeypatch.setattr(cache_module, "whole_file", full)
    with pytest.raises(ValueError, match=r"cannot be written \(.*\); make room there or set shards\.cache") as error:
        fetch_all(location)
    assert os.strerror(errno.ENOSPC) in str(error.value)
    monkeypatch.undo()
    assert len(fetch_all(location)) == 5


def test_a_cache_that_cannot_be_made_is_named(built: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"cannot be written .* set shards\.cache"):
        fetch_all(Location(built.as_uri(), tmp_path / "file/cache"))


def test_a_copy_of_another_size_is_brought_again(server: Server, built: Path, tmp_path: Path) -> None:
    paths = fetch_all(Location(server.url, tmp_path))
    for path in paths[:2]:
        path.write_bytes(path.read_bytes()[:-1])
    index = paths[2].with_suffix(".index.json")
    index.write_bytes(flip(index.read_bytes(), 1))
    fetch_all(Location(server.url, tmp_path))
    assert [server.asked[path.name] for path in paths] == [2, 2, 1, 1, 1]
    assert server.asked[index.name] == 2
    assert all(path.read_bytes() == (built / path.name).read_bytes() for path in paths)


def test_threads_bring_different_shards_at_once_and_each_once(server: Server, tmp_path: Path) -> None:
    location = Location(server.url, tmp_path)
    entries = location.manifest()["shards"]
    for entry in entries:
        server.hold[entry["file"]] = threading.Event()
    threads = [threading.Thread(target=location.fetch, args=(entry,)) for entry in entries * 3]
    for thread in threads:
        thread.start()
    while any(server.asked[entry["file"]] == 0 for entry in entries):  # each is asked for while none has come whole
        time.sleep(0.01)
    for event in server.hold.values():
        event.set()
    for thread in threads:
        thread.join()
    assert {server.asked[entry["file"]] for entry in entries} == {1}
    assert {entry["file"] for entry in entries} <= whole_copies(tmp_path)


def start_reader(url: str, cache: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", READ_ALL, url, str(cache)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def let_go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def test_two_processes_bring_each_shard_once(server: Server, built: Path, tmp_path: Path) -> None:
    processes = [start_reader(server.url, tmp_path) for _ in range(2)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        let_go(process)
    for process in processes:
        process.communicate()
        assert process.returncode == 0
    assert server.asked.pop("manifest.json") == 2
    assert set(server.asked.values()) == {1}
    assert len(server.asked) == 2 * len(list(built.glob("*.tar")))


def test_a_reader_killed_in_a_download_leaves_nothing_that_counts(server: Server, built: Path, tmp_path: Path) -> None:
    server.hold[SHARD] = threading.Event()
    process = start_reader(server.url, tmp_path)
    let_go(process)
    while server.asked[SHARD] == 0 or not list(tmp_path.rglob(f".{SHARD}.*.tmp")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert list(tmp_path.rglob(f".{SHARD}.*.tmp"))
    assert SHARD not in whole_copies(tmp_path)
    server.hold.pop(SHARD).set()
    paths = fetch_all(Location(server.url, tmp_path))
    assert server.asked[SHARD] == 2
    assert server.asked["shard-000000.tar"] == 1
    assert all(path.read_bytes() == (built / path.name).read_bytes() for path in paths)
    assert not list(tmp_path.rglob("*.tmp"))
