from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash

from drdg.shards.writer import (
    MANIFEST,
    finish,
    index_path,
    is_whole,
    read_manifest,
    shard_name,
    write_array,
    write_shard,
)

DOMAIN = {"domain": {"classes": ["a", "b"]}}


def samples(count: int = 3, labels: bool = True) -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng(0)
    for number in range(count):
        sample = {
            "__key__": f"{number:03d}-x",
            "image.npy": rng.integers(0, 256, (8, 6, 3), dtype=np.uint8),
            "dsm.npy": rng.integers(0, 65535, (8, 6), dtype=np.uint16),
            "json": {"top": "1", "number": number, "transform": [0.1, 0.0]},
        }
        if labels:
            sample["label.npy"] = rng.choice(np.array([0, 1, 255], np.uint8), (8, 6))
        yield sample


def test_stock_webdataset_reads_the_same_samples(tmp_path: Path) -> None:
    import webdataset

    path = tmp_path / shard_name(0)
    write_shard(path, samples(), "plan")
    read = list(webdataset.WebDataset([str(path)], shardshuffle=False).decode())
    assert len(read) == 3
    for written, back in zip(samples(), read, strict=True):
        assert back["__key__"] == written["__key__"]
        assert back["json"] == written["json"]
        for name in ("image.npy", "dsm.npy", "label.npy"):
            assert back[name].dtype == written[name].dtype
            assert np.array_equal(back[name], written[name])


def test_writing_again_gives_the_same_bytes(tmp_path: Path) -> None:
    for folder in ("one", "other"):
        (tmp_path / folder).mkdir()
        write_shard(tmp_path / folder / shard_name(0), samples(), "plan")
    for name in (shard_name(0), index_path(Path(shard_name(0))).name):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()
    with tarfile.open(tmp_path / "one" / shard_name(0)) as tar:
        assert {(m.mtime, m.uid, m.gid, m.uname, m.gname) for m in tar} == {(0, 0, 0, "drdg", "drdg")}


def test_the_index_tells_where_arrays_lie(tmp_path: Path) -> None:
    path = tmp_path / shard_name(0)
    write_shard(path, samples(), "plan")
    index = json.loads(index_path(path).read_bytes())
    data = path.read_bytes()
    assert index["bytes"] == len(data)
    assert index["xxh128"] == xxhash.xxh3_128_hexdigest(data)
    pixels = np.zeros(256, int)
    for written, entry in zip(samples(), index["samples"], strict=True):
        for name in ("image.npy", "dsm.npy", "label.npy"):
            place = entry["members"][name]
            array = np.frombuffer(data, place["dtype"], np.prod(place["shape"]), place["data"]).reshape(place["shape"])
            assert np.array_equal(array, written[name])
            assert place["data"] % 64 == 0  # aligned for vector loads
        place = entry["members"]["json"]
        assert json.loads(data[place["offset"] : place["offset"] + place["size"]]) == written["json"]
        pixels += np.bincount(written["label.npy"].ravel(), minlength=256)
    assert index["label_pixels"] == {str(value): count for value, count in enumerate(pixels.tolist()) if count}


def test_what_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    def failing() -> Iterator[dict[str, Any]]:
        yield from samples(2)
        raise ValueError("no third")

    with pytest.raises(ValueError, match="no third"):
        write_shard(tmp_path / shard_name(0), failing(), "plan")
    assert list(tmp_path.iterdir()) == []


def test_an_array_is_written_whole(tmp_path: Path) -> None:
    write_array(tmp_path / "a.npy", np.arange(3))
    assert np.load(tmp_path / "a.npy").tolist() == [0, 1, 2]
    assert [path.name for path in tmp_path.iterdir()] == ["a.npy"]


def test_a_shard_is_whole_only_with_its_index_and_all_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / shard_name(0)
    assert not is_whole(path, "plan")
    write_shard(path, samples(), "plan")
    assert is_whole(path, "plan")
    assert not is_whole(path, "another plan")
    index = index_path(path).read_bytes()
    for damaged in (b"", b"{", b"[]", b"{}", index[:-20]):
        index_path(path).write_bytes(damaged)
        assert not is_whole(path, "plan")
    index_path(path).unlink()
    assert not is_whole(path, "plan")
    index_path(path).write_bytes(index)
    path.write_bytes(path.read_bytes()[:-1])
    assert not is_whole(path, "plan")
    path.unlink()
    assert not is_whole(path, "plan")


def test_the_manifest_sums_the_shards_up(tmp_path: Path) -> None:
    names = [shard_name(number) for number in range(2)]
    for count, name in zip((3, 2), names, strict=True):
        write_shard(tmp_path / name, samples(count), "plan")
    left = tmp_path / ".shard-000001.tar.host-1.tmp"
    left.write_bytes(b"by a killed build")
    os.utime(left, (1, 1))
    finish(tmp_path, names, "plan", DOMAIN | {"extra": 1})
    manifest = read_manifest(tmp_path)
    assert manifest is not None
    assert (manifest["samples"], manifest["plan"], manifest["extra"]) == (5, "plan", 1)
    labels = np.concatenate([sample["label.npy"].ravel() for count in (3, 2) for sample in samples(count)])
    assert manifest["class_pixels"] == {"a": int((labels == 0).sum()), "b": int((labels == 1).sum())}
    assert manifest["void_pixels"] == int((labels == 255).sum())
    for entry in manifest["shards"]:
        shard = tmp_path / entry["file"]
        assert entry["xxh128"] == xxhash.xxh3_128_hexdigest(shard.read_bytes())
        assert entry["index_xxh128"] == xxhash.xxh3_128_hexdigest(index_path(shard).read_bytes())
    assert not list(tmp_path.glob(".*"))


def test_shards_without_labels_have_no_pixels(tmp_path: Path) -> None:
    write_shard(tmp_path / shard_name(0), samples(labels=False), "plan")
    finish(tmp_path, [shard_name(0)], "plan", DOMAIN)
    manifest = read_manifest(tmp_path)
    assert manifest is not None
    assert (manifest["class_pixels"], manifest["void_pixels"]) == ({"a": 0, "b": 0}, 0)


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b'{"plan": "x", "domain": {}, "shards": []}'])
def test_a_damaged_manifest_is_named(tmp_path: Path, text: bytes) -> None:
    (tmp_path / MANIFEST).write_bytes(text)
    with pytest.raises(ValueError, match=rf"{MANIFEST}: is .*; remove it and build again"):
        read_manifest(tmp_path)
