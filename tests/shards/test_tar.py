from __future__ import annotations

import json
import os
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from drdg.shards import tar as tar_module
from drdg.shards.codec import Codec, read_array, zst_filter
from drdg.shards.tar import ShardFile, count_values, encode


def sample(number: int, side: int = 40) -> dict[str, Any]:
    rng = np.random.default_rng(number)
    whole = rng.integers(0, 9, (2 * side, 3 * side, 3), dtype=np.uint8)
    return {
        "__key__": f"{number:07d}-town-0-0",
        "json": {"top": "ä", "transform": [0.5, 0.0]},
        "image.npy": whole[side:, :side],  # a window, not contiguous
        "dsm.npy": rng.integers(0, 65535, (side, side), dtype=np.uint16),
        "ground.npy": rng.integers(0, 65535, (3, 4), dtype=np.uint16),
        "label.npy": rng.choice(np.array([0, 1, 255], np.uint8), (side, side)),
    }


@pytest.fixture(params=["raw", "zstd"])
def codec(request: pytest.FixtureRequest) -> Codec:
    return Codec(request.param, 3)


def write(path: Path, codec: Codec, count: int = 5) -> ShardFile:
    with path.open("wb") as file:
        shard = ShardFile(file)
        for number in range(count):
            shard.add(encode(sample(number), codec))
        shard.close()
    return shard


def test_it_knows_what_it_wrote(tmp_path: Path, codec: Codec) -> None:
    shard = write(tmp_path / "a.tar", codec)
    data = (tmp_path / "a.tar").read_bytes()
    assert shard.bytes == len(data)
    assert shard.hash.hexdigest() == xxhash.xxh3_128_hexdigest(data)
    labels = np.concatenate([sample(number)["label.npy"].ravel() for number in range(5)])
    assert shard.label_pixels.tolist() == np.bincount(labels, minlength=256).tolist()
    for number, entry in enumerate(shard.samples):
        written = sample(number)
        assert entry["key"] == written["__key__"]
        assert list(entry["members"]) == list(written)[1:]
        for name, place in entry["members"].items():
            if name == "json":
                assert json.loads(data[place["offset"] : place["offset"] + place["size"]]) == written["json"]
            else:
                assert np.array_equal(read_array(data, place), written[name])
                assert read_array(data, place).dtype == written[name].dtype


def test_the_standard_library_and_tar_read_it(tmp_path: Path, codec: Codec) -> None:
    shard = write(tmp_path / "a.tar", codec)
    ending = ".zst" if codec.name == "zstd" else ""
    with tarfile.open(tmp_path / "a.tar") as tar:
        names = [member.name for member in tar]
        offsets = {member.name: (member.offset_data, member.size) for member in tar}
    assert names[:3] == [f"0000000-town-0-0.{name}" for name in ("json", f"image.npy{ending}", f"dsm.npy{ending}")]
    for entry in shard.samples:
        for name, place in entry["members"].items():
            written = f"{entry['key']}.{name}" + (ending if "codec" in place else "")
            assert offsets[written] == (place["offset"], place["size"])
    listed = subprocess.run(["tar", "-tf", tmp_path / "a.tar"], capture_output=True, text=True, check=True)
    assert listed.stdout.split() == names
    assert (tmp_path / "a.tar").stat().st_size % tarfile.RECORDSIZE == 0


def test_stock_webdataset_decodes_it(tmp_path: Path, codec: Codec) -> None:
    import webdataset

    write(tmp_path / "a.tar", codec)
    filters = [zst_filter] if codec.name == "zstd" else []
    read = list(webdataset.WebDataset([str(tmp_path / "a.tar")], shardshuffle=False).decode(*filters))
    assert len(read) == 5
    for number, back in enumerate(read):
        written = sample(number)
        assert back["json"] == written["json"]
        for name in ("image.npy", "dsm.npy", "ground.npy", "label.npy"):
            ending = ".zst" if codec.name == "zstd" and name != "ground.npy" else ""
            assert np.array_equal(back[name + ending], written[name])


def test_flushing_on_the_way_changes_nothing(tmp_path: Path, codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a.tar", codec)
    monkeypatch.setattr(tar_module, "FLUSH_BYTES", 1)
    write(tmp_path / "b.tar", codec)
    monkeypatch.delattr(os, "posix_fadvise")
    write(tmp_path / "c.tar", codec)
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes() == (tmp_path / "c.tar").read_bytes()


def test_what_has_no_encoding_is_our_mistake() -> None:
    with pytest.raises(AssertionError, match="no encoding for txt"):
        encode({"__key__": "a", "txt": "b"}, Codec())


@given(arrays.arrays(np.uint8, (4, 5), elements=st.sampled_from([0, 1, 5, 6, 7, 100, 254, 255])))
def test_values_are_counted(label: np.ndarray) -> None:
    assert count_values(label).tolist() == np.bincount(label.ravel(), minlength=256).tolist()
