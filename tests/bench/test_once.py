"""A build in processes of its own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tiny_bench import TINY

from drdg.bench import once
from drdg.bench.sheets import domain_of
from drdg.config import ShardsConfig
from drdg.shards.build import build_shards


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("ranks", [0, 1, 2])
def test_it_builds_what_this_process_would(ranks: int, sheets: Path, tmp_path: Path) -> None:
    domain = domain_of(sheets / "all", TINY.tile, TINY.stride)
    shards = ShardsConfig(root=tmp_path / "there", samples_per_shard=10)
    answer = once.build_in_child(domain, shards, ranks)
    assert answer.keys() == {"seconds", "peak_mb"}
    assert answer["seconds"] > 0
    assert 20 < answer["peak_mb"] < 4000
    build_shards(domain, shards.model_copy(update={"root": tmp_path / "here"}), need_label=True)
    assert bytes_of(tmp_path / "there") == bytes_of(tmp_path / "here")


@pytest.mark.parametrize("ranks", [0, 2])
def test_a_build_that_fails_is_an_error_with_its_last_words(ranks: int, tmp_path: Path) -> None:
    domain = domain_of(tmp_path / "nowhere", TINY.tile, TINY.stride)
    with pytest.raises(ValueError, match=r"the build .* ended with status \d+: .*nowhere.*"):
        once.build_in_child(domain, ShardsConfig(root=tmp_path), ranks)


def test_a_machine_without_mpi_is_told_the_cure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match=r"mpiexec: not found; pip install 'drdg\[mpi\]', or leave the ranks out"):
        once.mpiexec()
    launcher = tmp_path / "bin" / "mpiexec"
    launcher.parent.mkdir()
    launcher.write_text("")
    assert once.mpiexec() == str(launcher)
