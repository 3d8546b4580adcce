"""The peers of the build do the build's work."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_bench import TINY

from drdg.bench.png import LAYERS, read_list, read_png
from drdg.bench.sheets import domain_of, files_of
from drdg.bench.tiling import open_per_tile, plain_copy, sizes_of, start_afresh
from drdg.config import ShardsConfig
from drdg.datasets import open_archive
from drdg.shards.build import build_shards
from drdg.shards.store import ShardStore


def test_the_fields_way_gives_the_pixels_of_our_shards(sheets: Path, tmp_path: Path) -> None:
    domain = domain_of(sheets / "one", TINY.tile, TINY.stride)
    store = ShardStore(build_shards(domain, ShardsConfig(root=tmp_path / "shards"), need_label=True))
    open_per_tile(domain, tmp_path / "png")
    names = read_list(tmp_path / "png")
    assert len(names) == len(set(names)) == len(store) == 16
    for number in range(len(store)):
        sample = store[number]
        row, col, _, _ = sample.meta["window"]
        expected = (sample.image, sample.dsm_steps, sample.label)
        for layer, pixels in zip(LAYERS, expected, strict=True):
            read = read_png(tmp_path / "png" / layer / f"{sample.meta['top']}-{row}-{col}.png")
            assert pixels is not None
            assert read.dtype == pixels.dtype
            assert np.array_equal(read, pixels), (layer, sample.key)


def test_a_plain_copy_reads_every_byte_and_writes_as_many_as_it_is_told(sheets: Path, tmp_path: Path) -> None:
    inputs = files_of(open_archive(domain_of(sheets / "one", TINY.tile, TINY.stride).archive))
    content = b"".join(path.read_bytes() for path in inputs)
    memory = np.ones(len(content), np.uint8)
    outputs = [1000, 0, len(content) + 7, 3]
    plain_copy(inputs, outputs, tmp_path / "copies", memory)
    assert memory.tobytes() == content
    assert sizes_of(tmp_path / "copies") == outputs
    written = b"".join(path.read_bytes() for path in sorted((tmp_path / "copies").iterdir()))
    assert written == (2 * content)[: len(written)]


@pytest.mark.parametrize("difference", [-1, 1])
def test_a_plain_copy_that_would_not_read_every_byte_once_is_an_error(difference: int, tmp_path: Path) -> None:
    (tmp_path / "input").write_bytes(b"0123456789")
    with pytest.raises(AssertionError):
        plain_copy([tmp_path / "input"], [1], tmp_path / "copies", np.ones(10 + difference, np.uint8))


def test_sizes_are_of_files_at_any_depth(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/c").write_bytes(b"12")
    (tmp_path / "d").write_bytes(b"123")
    assert sizes_of(tmp_path) == [2, 3]


def test_starting_afresh_removes_what_is_there_and_needs_nothing_there(tmp_path: Path) -> None:
    (tmp_path / "out/deep").mkdir(parents=True)
    start_afresh(tmp_path / "out")
    start_afresh(tmp_path / "out")
    assert not (tmp_path / "out").exists()
