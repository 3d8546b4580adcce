from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drdg.config import DsmConfig
from drdg.shards import store as store_module
from drdg.shards.build import build_shards
from drdg.shards.codec import zst_filter
from drdg.shards.location import Location
from drdg.shards.store import ShardStore
from drdg.shards.writer import index_path


@pytest.fixture(scope="module")
def built(shared_town: Any) -> Path:
    return build_shards(shared_town.domain(), shared_town.shards(), need_label=True)


@pytest.fixture
def folder(built: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return shutil.copytree(built, tmp_path / built.name)


def same(one: Any, other: Any) -> bool:
    arrays = ("image", "dsm_steps", "ground_steps", "label", "dsm_m", "ground_m")
    return (one.key, one.meta) == (other.key, other.meta) and all(
        np.array_equal(getattr(one, name), getattr(other, name)) for name in arrays
    )


def key_of(store: ShardStore, index: int) -> str:
    return store[index].key


def test_any_sample_is_read_by_its_number(built: Path) -> None:
    store = ShardStore(built)
    assert len(store) == 24
    keys = [store[index].key for index in range(24)]
    assert [int(key.split("-")[0]) for key in keys] == list(range(24))
    for index in (23, 0, 5, 4, 20, 19):
        assert store[index].key == keys[index]
    for index in (-1, 24):
        with pytest.raises(IndexError):
            store[index]


def test_arrays_are_views_of_the_shard(built: Path) -> None:
    sample = ShardStore(built)[3]
    for array in (sample.image, sample.dsm_steps, sample.ground_steps, sample.label):
        assert array is not None
        assert not array.flags.owndata
        assert not array.flags.writeable
    assert (sample.image.dtype, sample.image.shape) == (np.uint8, (128, 128, 3))
    assert (sample.dsm_m.dtype, sample.dsm_m.shape) == (np.float32, (128, 128))
    assert (sample.ground_m.dtype, sample.ground_m.shape) == (np.float32, (128, 128))
    assert (sample.label.dtype, sample.label.shape) == (np.uint8, (128, 128))


def test_views_outlive_what_is_closed(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "OPEN_SHARDS", 1)
    store = ShardStore(built)
    first = store[0]
    copy = first.image.copy()
    assert all(same(store[index], ShardStore(built)[index]) for index in range(24))
    assert len(store._mapped) == 1
    assert np.array_equal(first.image, copy)


def test_an_index_is_read_once_however_often_its_shard_is_opened(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "OPEN_SHARDS", 1)
    store = ShardStore(folder)
    keys = [store[index].key for index in (0, 23)]
    for index in folder.glob("*.index.json"):
        index.unlink()
    assert [store[index].key for index in (0, 23, 0, 23)] == keys * 2


def test_what_is_known_of_a_sample_is_read_once(built: Path) -> None:
    store = ShardStore(built)
    assert store[3].meta is store[3].meta


def test_many_threads_read_what_one_reads(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "OPEN_SHARDS", 2)  # of five, so that they close each other's
    alone = ShardStore(built)
    wanted = {index: alone[index] for index in range(24)}
    store = ShardStore(built)
    with ThreadPoolExecutor(8) as pool:
        indices = [(7 * number) % 24 for number in range(24 * 40)]
        assert all(pool.map(lambda index: same(store[index], wanted[index]), indices))


@pytest.mark.parametrize("codec", ["raw", "zstd"])
def test_an_array_is_written_straight_into_its_place(shared_town: Any, codec: str) -> None:
    store = ShardStore(build_shards(shared_town.domain(), shared_town.shards(codec=codec), need_label=True))
    names = {"image.npy": "image", "dsm.npy": "dsm_steps", "label.npy": "label", "ground.npy": "ground_steps"}
    for index in (0, 7, 23):
        for name, attribute in names.items():
            wanted = getattr(store[index], attribute)
            batch = np.zeros((2, *wanted.shape), wanted.dtype)
            store[index].read_into(name, batch[1])
            assert np.array_equal(batch[1], wanted)
            assert not batch[0].any()
            copy = store[index].copy(name, batch[0])
            assert not batch[0].any()
            copy()
            assert np.array_equal(batch[0], wanted)
    with pytest.raises(ValueError, match=rf"shard-000000\.tar: image\.npy of sample {store[0].key} cannot be read"):
        store[0].read_into("image.npy", np.zeros((64, 64, 3), np.uint8))


@pytest.mark.parametrize("codec", ["raw", "zstd"])
def test_stock_webdataset_reads_the_same_samples(shared_town: Any, codec: str) -> None:
    import webdataset

    folder = build_shards(shared_town.domain(), shared_town.shards(codec=codec), need_label=True)
    urls = sorted(str(path) for path in folder.glob("*.tar"))
    decoders = [zst_filter] if codec == "zstd" else []
    read = list(webdataset.WebDataset(urls, shardshuffle=False).decode(*decoders))
    store = ShardStore(folder)
    assert len(read) == len(store)
    end = ".zst" if codec == "zstd" else ""
    for index, stock in enumerate(read):
        ours = store[index]
        assert (stock["__key__"], stock["json"]) == (ours.key, ours.meta)
        for name, array in ((f"image.npy{end}", ours.image), (f"dsm.npy{end}", ours.dsm_steps)):
            assert stock[name].dtype == array.dtype
            assert np.array_equal(stock[name], array)
        assert np.array_equal(stock[f"label.npy{end}"], ours.label)
        assert np.array_equal(stock["ground.npy"], ours.ground_steps)


def test_compressed_shards_hold_the_same_samples(built: Path, shared_town: Any) -> None:
    packed = ShardStore(build_shards(shared_town.domain(), shared_town.shards(codec="zstd"), need_label=True))
    assert len(packed) == 24
    assert all(same(packed[index], ShardStore(built)[index]) for index in range(24))
    assert not packed[0].image.flags.writeable


def test_a_store_is_pickled_and_forked(built: Path) -> None:
    store = ShardStore(Location(built))
    first = store[0]
    assert same(pickle.loads(pickle.dumps(store))[0], first)
    with ProcessPoolExecutor(2, mp_context=get_context("fork")) as pool:
        assert list(pool.map(key_of, [store] * 24, range(24))) == [store[index].key for index in range(24)]


@pytest.mark.parametrize("rule", ["dataset", "top", "height_above_ground"])
@pytest.mark.parametrize("kind", ["unit", "symmetric"])
def test_heights_are_normalised_by_every_rule(shared_town: Any, built: Path, rule: str, kind: str) -> None:
    store = ShardStore(built)
    config = DsmConfig(rule=rule, range=kind, ceiling_m=5)
    store.require_rule(config)
    everything = np.stack(list(shared_town.heights.values()))
    for index in range(len(store)):
        sample = store[index]
        top = shared_town.heights[sample.meta["top"]]
        row, col, height, width = sample.meta["window"]
        heights = top[row : row + height, col : col + width].astype(np.float64)
        low, extent = {
            "dataset": (everything.min(), np.ptp(everything)),
            "top": (top.min(), np.ptp(top)),
            "height_above_ground": (sample.ground_m, 5),
        }[rule]
        wanted = np.clip((heights - low) / extent, 0, 1) * (2 if kind == "symmetric" else 1) - (kind == "symmetric")
        found = store.normalised_dsm(sample, config)
        assert found.dtype == np.float32
        assert np.abs(found - wanted).max() < 0.006 / 5 * 2 + 1e-5


def test_what_cannot_be_normalised_is_refused(shared_town: Any, make_town: Callable[..., Any]) -> None:
    flat = ShardStore(build_shards(shared_town.domain(archive={"dsm": None}), shared_town.shards(), need_label=False))
    with pytest.raises(ValueError, match=r"archive town has no DSM .* loss\.depth_supervised=0"):
        flat.require_rule(DsmConfig())
    town = make_town(transform=None)
    placeless = ShardStore(build_shards(town.domain(), town.shards(), need_label=False))
    placeless.require_rule(DsmConfig())
    with pytest.raises(ValueError, match=r"archive town has no georeference, .* dsm\.rule=dataset"):
        placeless.require_rule(DsmConfig(rule="height_above_ground"))


# ------------------------------------------------------------------------------------------------------------ damage


def test_an_unfinished_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "manifest.json").unlink()
    for unfinished in (folder, tmp_path / "nothing"):
        with pytest.raises(ValueError, match=r"is not a finished folder of shards; run shards/build\.py"):
            ShardStore(unfinished)


@pytest.mark.parametrize(("share", "words"), [(0.5, "bytes instead of"), (None, "is missing")])
def test_a_damaged_shard_is_named_at_once(folder: Path, share: float | None, words: str) -> None:
    shard = folder / "shard-000001.tar"
    data = shard.read_bytes()
    shard.unlink()
    if share:
        shard.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ValueError, match=rf"shard-000001\.tar: it .*{words}.*; .* again"):
        ShardStore(folder)


def test_a_shard_damaged_later_is_named_when_read(folder: Path) -> None:
    store = ShardStore(folder)
    store[0]
    shard = folder / "shard-000001.tar"
    shard.write_bytes(shard.read_bytes()[:-512])
    store[4]
    with pytest.raises(ValueError, match=r"shard-000001\.tar: it has"):
        store[5]


def test_a_shard_damaged_while_it_was_closed_is_named_when_it_is_opened_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "OPEN_SHARDS", 1)
    store = ShardStore(folder)
    assert [store[index].key for index in (5, 0)]
    shard = folder / "shard-000001.tar"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-512])
    with pytest.raises(ValueError, match=r"shard-000001\.tar: it has"):
        store[5]
    shard.unlink()
    with pytest.raises(ValueError, match=r"shard-000001\.tar: it is missing"):
        store[5]
    shard.write_bytes(whole)
    assert same(store[5], ShardStore(folder)[5])


def test_a_damaged_frame_is_named_with_its_sample(shared_town: Any, tmp_path: Path) -> None:
    built = build_shards(shared_town.domain(), shared_town.shards(codec="zstd"), need_label=True)
    folder = shutil.copytree(built, tmp_path / built.name)
    index = json.loads(index_path(folder / "shard-000000.tar").read_text())
    place = index["samples"][2]["members"]["dsm.npy"]
    with (folder / "shard-000000.tar").open("r+b") as file:
        file.seek(place["offset"] + place["size"] // 2)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 255]))
    store = ShardStore(folder)
    assert store[2].image.any()
    key = index["samples"][2]["key"]
    with pytest.raises(ValueError, match=rf"shard-000000\.tar: dsm\.npy of sample {key} cannot be read .*run the same"):
        _ = store[2].dsm_steps


@pytest.mark.parametrize("remove", [True, False])
def test_a_changed_index_is_named(folder: Path, remove: bool) -> None:
    index = index_path(folder / "shard-000000.tar")
    if remove:
        index.unlink()
    else:
        index.write_text(index.read_text().replace("128", "129"))
    with pytest.raises(ValueError, match=r"shard-000000\.index\.json: its checksum is not the manifest's"):
        ShardStore(folder)[0]


def test_a_damaged_manifest_is_named(folder: Path) -> None:
    (folder / "manifest.json").write_text(json.dumps({"shards": []}))
    with pytest.raises(ValueError, match=r"manifest\.json: is no manifest"):
        ShardStore(folder)
