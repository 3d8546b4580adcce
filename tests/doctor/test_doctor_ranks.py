"""Several ranks of the doctor as real processes on this machine, well and ill."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from patients import FAST_CLOCK, Ranks

from drdg.config import Config, to_yaml


@pytest.fixture
def ranks(small: Callable[..., Config], tmp_path: Path) -> Iterator[Callable[..., Ranks]]:
    """Ranks of the doctor with a small configuration, which are ended with the test."""
    started: list[Ranks] = []

    def make(world_size: int, *arguments: str, port: int | None = None) -> Ranks:
        (tmp_path / "config.yaml").write_text(to_yaml(small(f"gan.batch_size={world_size}")))
        standard = ["--config", str(tmp_path / "config.yaml"), "--json"]
        started.append(Ranks(tmp_path, world_size, *standard, *arguments, port=port))
        return started[-1]

    yield make
    for each in started:
        each.end()


def test_two_healthy_ranks_have_nothing_bad(ranks: Callable[..., Ranks], tmp_path: Path) -> None:
    pair = ranks(2)
    pair.start(1)
    pair.start(0)
    page = pair.page(status=0)
    assert pair.processes[1].wait(30) == 0
    assert page["ranks"][0]["figures"] == {"ranks": 2, "nodes": 1}
    assert page["port"][0]["level"] == "ok"
    assert abs(page["clocks"][0]["figures"]["offset_s"]) < 1
    assert page["shared folder"][0]["measured"].startswith("run.root: ")
    assert "keep out other ranks" in page["locks"][0]["measured"]
    assert page["all-reduce"][0]["figures"]["bytes_per_s"] > 0
    assert page["shards"][0]["level"] == "warning"  # not built
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


def test_every_fault_of_an_ill_pair_is_named(ranks: Callable[..., Ranks], tmp_path: Path) -> None:
    """The master's port is taken; rank 1 has a fast clock, another folder, SIGUSR2 ignored and no such interface."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with socket.create_server(("", 0)) as taken:
        pair = ranks(2, "--timeout=4", port=taken.getsockname()[1])
        pair.start(
            1,
            f"run.root={elsewhere}",
            before=("-c", FAST_CLOCK, "5"),
            prepare=lambda: signal.signal(signal.SIGUSR2, signal.SIG_IGN),
            GLOO_SOCKET_IFNAME="nosuch0",
        )
        pair.start(0)
        page = pair.page(status=1)
    said = {check: " ".join(finding["measured"] for finding in found) for check, found in page.items()}
    assert f"{pair.port} cannot be listened at by rank 0 (Address already in use)" in said["port"]
    assert f"has run.root={elsewhere} instead of {tmp_path}" in said["configuration"]
    assert "GLOO_SOCKET_IFNAME=nosuch0: there is no such interface for rank 1" in said["interface"]
    assert 4.5 < page["clocks"][0]["figures"]["offset_s"] < 5.5
    assert page["clocks"][0]["level"] == "warning"
    assert "SIGUSR2 ignored by what started rank 1" in said["signals"]
    assert f"and looks in {elsewhere}" in said["shared folder"]
    assert page["locks"][0]["level"] == "ok"
    assert "nosuch0" in said["all-reduce"]
    levels = {check: found[0]["level"] for check, found in page.items()}
    assert {check for check, level in levels.items() if level == "bad"} == {
        "port", "configuration", "interface", "shared folder", "all-reduce"
    }  # fmt: skip
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["config.yaml", "elsewhere"]


def test_a_rank_that_never_comes_and_one_that_freezes_are_named(ranks: Callable[..., Ranks], tmp_path: Path) -> None:
    three = ranks(3, "--timeout=3")
    frozen = three.start(1)
    three.start(0)
    stream = three.processes[0].stderr
    assert stream is not None
    assert any(line.startswith("2 of 3 ranks are here") for line in stream)
    os.kill(frozen.pid, signal.SIGSTOP)
    page = three.page(status=1)
    os.kill(frozen.pid, signal.SIGCONT)
    said = [finding["measured"] for found in page.values() for finding in found if finding["level"] == "bad"]
    host = socket.gethostname()
    assert f"rank 2, of {host}, never came; waited 9 s for 3 ranks" in said
    assert f"rank 1 on {host}: does not answer any more" in said
    assert page["signals"][0]["level"] == "ok"  # of rank 0, whose examination went on
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


def test_a_rank_without_rank_0_ends_with_a_sentence(ranks: Callable[..., Ranks], tmp_path: Path) -> None:
    pair = ranks(2, "--timeout=1")
    lost = pair.start(1)
    out, err = lost.communicate(timeout=60)
    assert (lost.returncode, out) == (1, "")
    (line,) = err.splitlines()
    assert line.startswith(f"error: rank 1 on {socket.gethostname()} cannot reach rank 0 at 127.0.0.1:{pair.port} (")
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]
