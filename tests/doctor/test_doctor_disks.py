"""What ranks share by disk: the run's folder, locks, MLflow's store, shards."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from patients import answers_of, said

from drdg.config import Config
from drdg.doctor import files, locks, store, tiles
from drdg.doctor.context import Context, nearest
from drdg.doctor.networks import Networks
from drdg.shards.store import ShardStore
from drdg.tracking import Tracking

Contexts = Callable[..., Context]
TOKEN = "0123abcd"
NETWORKS = Networks("drdg", 100_000_000, 10_000_000, n_critic=5, weight_bytes=4, kept_bytes=4)
BEGUN = {"place": "/runs", "kind": "nfs4", "error": ""}


def contents(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


# ----------------------------------------------------------------------------------------------------- a shared folder


def test_ranks_that_share_a_folder_see_each_other_and_leave_nothing(context: Contexts, tmp_path: Path) -> None:
    first, second = context(), context(rank=1, world_size=2)
    begun = files.probe_begin(first, "run", TOKEN)
    look = files.probe_look(second, "run", TOKEN)
    gathered = files.probe_gather(first, "run", TOKEN, [1])
    speed = files.probe_speed(first, "run", TOKEN)
    files.probe_clear(first, "run", TOKEN)
    assert contents(tmp_path) == []
    answers = answers_of(begun, look, gathered, speed)
    shared = files.judge_shared("run", answers[0], answers[1:2], answers[2])
    assert said(shared)[0].startswith(f"ok shared folder: run.root: {tmp_path} (")
    assert [finding.level for finding in files.judge_speed(answers[0], answers[3], None, 2)] == ["ok"]


def test_a_rank_that_looks_elsewhere_sees_nothing(context: Contexts, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    first, second = context(), context(f"run.root={elsewhere}/runs", timeout=0.5, rank=1, world_size=2)
    begun = files.probe_begin(first, "run", TOKEN)
    look = files.probe_look(second, "run", TOKEN)
    files.probe_clear(first, "run", TOKEN)
    (line,) = said(files.judge_shared("run", *answers_of(begun), answers_of({}, look)[1:], None))
    assert line.startswith("bad shared folder: run.root: rank 1 on node2 sees nothing of what rank 0 wrote to ")
    assert f"and looks in {elsewhere}" in line
    assert contents(tmp_path) == ["elsewhere"]


def test_a_file_of_another_start_is_no_answer(context: Contexts) -> None:
    first = context(timeout=0.4)
    files.probe_begin(first, "run", TOKEN)
    (files.folder(first, "run", TOKEN) / "1").write_text("other")
    found = files.probe_gather(first, "run", TOKEN, [1])
    files.probe_clear(first, "run", TOKEN)
    assert found == {"seconds": None, "unseen": [1]}
    (line,) = said(files.judge_shared("run", *answers_of(BEGUN), answers_of({}, _look())[1:], *answers_of(found)))
    assert line == "bad shared folder: run.root: rank 0 does not see what rank 1 on node2 wrote to /runs"


def _look(seconds: float = 0.01, error: str = "") -> dict[str, Any]:
    return {"place": "/runs", "kind": "nfs4", "error": error, "seconds": seconds}


def test_a_folder_that_is_late_or_read_only_for_some_is_found() -> None:
    gathered = answers_of({"seconds": 4.0, "unseen": []})[0]
    (late,) = files.judge_shared("run", *answers_of(BEGUN), answers_of({}, _look())[1:], gathered)
    assert said([late]) == ["warning shared folder: run.root: /runs (nfs4) seen by all, a new file after 4.0 s"]
    refused = answers_of({}, _look(error="Read-only file system"))[1:]
    assert said(files.judge_shared("run", *answers_of(BEGUN), refused, gathered)) == [
        "bad shared folder: run.root: rank 1 on node2 cannot write to /runs (Read-only file system)"
    ]


def test_a_folder_that_rank_0_cannot_write_is_bad(context: Contexts) -> None:
    begun = files.probe_begin(context("run.root=/proc/self/runs"), "run", TOKEN)
    assert begun["kind"] == "proc"
    (line,) = said(files.judge_begin("run", *answers_of(begun)))
    assert line.startswith("bad shared folder: run.root: rank 0 on node1 cannot write to /proc/")


def test_no_token_leads_out_of_the_folder(context: Contexts) -> None:
    with pytest.raises(ValueError, match="no token"):
        files.folder(context(), "run", "../../etc")


def test_the_nearest_folder_that_is_there_is_taken(tmp_path: Path) -> None:
    assert nearest(tmp_path / "a/b/c") == tmp_path
    (tmp_path / "a").write_text("a file")
    assert nearest(tmp_path / "a/b") == tmp_path


@pytest.mark.parametrize(
    ("changed", "level", "words"),
    [
        ({}, "ok", "500 MB/s, small file synced in 5 ms, 100 GB free; a checkpoint is 1.28 GB, 2.6 s"),
        ({"free_bytes": 3e9}, "bad", "3 GB free in /runs, but 3 checkpoints are 3.84 GB"),
        ({"error": "Disk quota exceeded"}, "bad", "/runs cannot be written (Disk quota exceeded)"),
        ({"bytes_per_s": 1e7}, "warning", "10 MB/s"),
        ({"sync_s": 0.8}, "warning", "small file synced in 800 ms"),
    ],
)
def test_checkpoints_need_room_and_speed(changed: dict[str, Any], level: str, words: str) -> None:
    speed = {"free_bytes": 100e9, "sync_s": 0.005, "bytes_per_s": 5e8, "error": "", **changed}
    (found,) = files.judge_speed(*answers_of(BEGUN), *answers_of(speed), NETWORKS, keep=2)
    assert (found.level, words in found.measured) == (level, True), found


@pytest.fixture
def tiny_disk() -> Iterator[Path]:
    """A file system of 64 KiB."""
    with tempfile.TemporaryDirectory() as name:
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", name], capture_output=True, check=False
        )
        if mounted.returncode:
            pytest.skip("no file system can be mounted here")
        try:
            yield Path(name)
        finally:
            subprocess.run(["umount", name], check=True)


def test_a_full_disk_is_said_and_left_as_it_was(context: Contexts, tiny_disk: Path) -> None:
    filler = tiny_disk / "filler"
    filler.write_bytes(bytes(os.statvfs(tiny_disk).f_bavail * 4096))
    sick = context(f"run.root={tiny_disk}/runs")
    begun = files.probe_begin(sick, "run", TOKEN)
    speed = files.probe_speed(sick, "run", TOKEN) if not begun["error"] else None
    files.probe_clear(sick, "run", TOKEN)
    assert contents(tiny_disk) == ["filler"]
    found = files.judge_begin("run", *answers_of(begun))
    if speed is not None:
        found += files.judge_speed(*answers_of(begun), *answers_of(speed), NETWORKS, keep=2)
    assert {finding.level for finding in found} == {"bad"}
    assert any("No space left on device" in finding.measured for finding in found)


# --------------------------------------------------------------------------------------------------------------- locks

TRY = """
import json, sys
from types import SimpleNamespace
from drdg.config import load_config
from drdg.doctor import locks
context = SimpleNamespace(config=load_config(None, [sys.argv[1]]))
print(json.dumps(locks.probe_try(context, sys.argv[2])))
"""


def test_a_lock_keeps_another_process_out_until_it_is_dropped(context: Contexts, tmp_path: Path) -> None:
    def other() -> dict[str, str]:
        command = [sys.executable, "-c", TRY, f"run.root={tmp_path / 'runs'}", TOKEN]
        return json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout)

    first = context()
    files.probe_begin(first, "run", TOKEN)
    taken = locks.probe_take(first, TOKEN)
    during = other()
    locks.probe_drop(first, TOKEN)
    after = other()
    files.probe_clear(first, "run", TOKEN)
    assert taken == after == dict.fromkeys(locks.KINDS, locks.GRANTED)
    assert during == dict.fromkeys(locks.KINDS, locks.HELD)
    assert said(locks.judge(*answers_of(taken), answers_of({}, during)[1:], answers_of({}, after)[1:])) == [
        "ok locks: lockf and flock work in run.root, and keep out 1 other node"
    ]


G, H = locks.GRANTED, locks.HELD


@pytest.mark.parametrize(
    ("taken", "during", "after", "line"),
    [
        ("No locks available", H, G, "bad locks: lockf in run.root: No locks available"),
        (G, G, G, "bad locks: lockf in run.root: rank 1 on node2 got the lock that rank 0 held"),
        (G, H, H, "bad locks: lockf in run.root: still held for rank 1 on node2 after rank 0 let go"),
        (
            G,
            "Function not implemented",
            G,
            "bad locks: lockf in run.root: Function not implemented for rank 1 on node2",
        ),
    ],
)
def test_locks_that_do_not_lock_are_bad(taken: str, during: str, after: str, line: str) -> None:
    holder, intruder, later = ({"lockf": one, "flock": well} for one, well in ((taken, G), (during, H), (after, G)))
    found = locks.judge(*answers_of(holder), answers_of({}, intruder)[1:], answers_of({}, later)[1:])
    assert said(found) == [line]


def test_flock_alone_is_a_warning() -> None:
    both = {"lockf": G, "flock": "Function not implemented"}
    assert [finding.level for finding in locks.judge(*answers_of(both), [], [])] == ["warning"]


# ------------------------------------------------------------------------------------------------------------ tracking


def test_a_store_that_is_not_there_is_not_made(context: Contexts, tmp_path: Path) -> None:
    found = store.probe(context())
    assert (found["error"], found["is_there"]) == ("", False)
    assert contents(tmp_path) == []
    assert "mlflow.db will be made by the first run" in said(store.judge(*answers_of(found), False))[0]


def test_a_store_that_is_there_is_opened_and_left_as_it_is(context: Contexts, tmp_path: Path) -> None:
    sick = context()
    folder = sick.config.run.directory
    Tracking(None, "drdg", folder)
    before, names = (folder / "mlflow.db").read_bytes(), contents(tmp_path)
    found = store.probe(sick)
    assert (found["error"], found["is_there"]) == ("", True)
    assert ((folder / "mlflow.db").read_bytes(), contents(tmp_path)) == (before, names)
    # Elsewhere, as MLflow remembers in a process which stores it has looked at.
    other = context("run.name=other")
    other.config.run.directory.mkdir()
    copy = shutil.copy(folder / "mlflow.db", other.config.run.directory)
    with closing(sqlite3.connect(copy, isolation_level=None)) as database:
        database.execute("UPDATE alembic_version SET version_num = 'of another'")
    (line,) = said(store.judge(*answers_of(store.probe(other)), False))
    assert line.startswith("bad tracking: cannot open the MLflow store sqlite:///")
    assert "its schema is of another MLflow" in line


def test_a_store_that_another_holds_is_bad(context: Contexts, monkeypatch: pytest.MonkeyPatch) -> None:
    sick = context()
    database = sick.config.run.directory / "mlflow.db"
    database.parent.mkdir(parents=True)
    monkeypatch.setattr("drdg.tracking.store.REACH_SECONDS", 0.2)
    holder = sqlite3.connect(database, isolation_level=None)
    holder.execute("CREATE TABLE t (n)")
    holder.execute("BEGIN EXCLUSIVE")
    (line,) = said(store.judge(*answers_of(store.probe(sick)), False))
    holder.close()
    assert "cannot be written (database is locked)" in line


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("file:///runs", "is not a store MLflow keeps runs in"),
        ("http://127.0.0.1:1", "no MLflow server answers at http://127.0.0.1:1"),
        ("postgresql://me:secret@127.0.0.1:1/db", "cannot open the MLflow store postgresql://me:***@127.0.0.1:1/db"),
    ],
)
def test_a_store_that_cannot_be_reached_is_bad(context: Contexts, uri: str, words: str) -> None:
    (found,) = store.judge(*answers_of(store.probe(context(f"tracking.uri={uri}"))), False)
    assert found.level == "bad"
    assert words in found.measured
    assert "secret" not in found.measured


def test_sqlite_far_away_is_a_warning() -> None:
    far = {"error": "", "shown": "sqlite:////runs/mlflow.db", "is_there": True, "kind": "nfs4", "seconds": 0.5}
    assert store.judge(*answers_of(far), True)[0].level == "warning"
    assert store.judge(*answers_of(far | {"kind": "tmpfs"}), True)[0].level == "warning"
    assert store.judge(*answers_of(far | {"kind": "ext4"}), True)[0].level == "ok"


# -------------------------------------------------------------------------------------------------------------- shards


@pytest.fixture
def given(
    small: Callable[..., Config], two_domains: tuple[ShardStore, ShardStore], context: Contexts
) -> Callable[..., Context]:
    """A rank that is given the shards of two small domains."""

    def make(**place: Any) -> Context:
        shards = [f"source.shards={two_domains[0].name}", f"target.shards={two_domains[1].name}"]
        return Context(small(*shards), context(**place).topology, 5.0)

    return make


def test_tiles_are_read_and_are_the_same_for_all(given: Callable[..., Context]) -> None:
    found = [tiles.probe(given(rank=rank, world_size=2)) for rank in range(2)]
    for value in found:
        assert all(domain["tiles_per_s"] > 0 for domain in value["domains"].values())
        # On a busy machine one rank may be much slower, of which it would warn.
        value["domains"]["source"]["tiles_per_s"] = value["domains"]["target"]["tiles_per_s"] = 100.0
    (finding,) = tiles.judge(answers_of(*found), "")
    assert finding.level == "ok"
    assert finding.measured.startswith("source: 12 tiles, read at 100 tiles/s")
    other = json.loads(json.dumps(found[1]))
    other["domains"]["target"]["common"] = "of another day"
    assert said(tiles.judge(answers_of(found[0], found[0], other), "")) == [
        "bad shards: target: rank 2 on node3 read other tiles than the rest"
    ]


def test_shards_that_are_not_built_name_the_command_that_builds_them(small: Callable[..., Config]) -> None:
    from drdg.distributed.topology import Topology

    found = tiles.probe(Context(small(), Topology(), 5.0))
    (finding,) = tiles.judge(answers_of(found, found), "--config my.yaml run.name=x")
    assert finding.level == "warning"
    assert "these shards are not built" in finding.measured
    assert "python shards/build.py --config my.yaml run.name=x" in finding.cure


def test_shards_that_one_rank_does_not_see_or_that_are_damaged_are_bad(
    given: Callable[..., Context], small: Callable[..., Config], tmp_path: Path
) -> None:
    whole = given()
    found = tiles.probe(whole)
    blind = {"why": "/x: is not a finished folder of shards; run shards/build.py to the end", "domains": {}}
    assert said(tiles.judge(answers_of(found, blind), "")) == [
        "bad shards: rank 1 on node2: /x: is not a finished folder of shards"
    ]
    assert whole.config.source.shards is not None
    copy = Path(shutil.copytree(whole.config.source.shards, tmp_path / "copy"))
    for tar in copy.glob("*.tar"):
        tar.write_bytes(tar.read_bytes()[:-512])
    sick = small(f"source.shards={copy}", f"target.shards={whole.config.target.shards}")
    damaged = tiles.probe(Context(sick, whole.topology, 5.0))
    (line,) = said(tiles.judge(answers_of(damaged), ""))
    assert line.startswith("bad shards: source: ")
    assert "bytes instead of" in line


def test_a_rank_that_reads_slowly_is_a_warning() -> None:
    def reading(rate: float) -> dict[str, Any]:
        domain = {"tiles": 9, "common": "a", "tiles_per_s": rate, "error": ""}
        return {"why": "", "domains": dict.fromkeys(tiles.DOMAINS, domain)}

    lines = said(tiles.judge(answers_of(reading(100), reading(90), reading(5)), ""))
    assert lines[0] == "warning shards: source: rank 2 on node3 reads 5 tiles/s, half of all 90"
