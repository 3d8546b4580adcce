from __future__ import annotations

import pickle
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from drdg.config import DsmConfig
from drdg.shards.build import build_shards
from drdg.shards.store import ShardStore
from drdg.shards.stream import LabelledStream, PositionStream, UnpairedStream
from drdg.tiles.order import uniforms

WORLDS = [(1, 0), (1, 2), (2, 1), (3, 2)]
HERE = torch.device("cpu")
Item = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def source(shared_town: Any) -> ShardStore:
    return ShardStore(build_shards(shared_town.domain(), shared_town.shards(), need_label=True))


@pytest.fixture(scope="module")
def target(shared_town: Any) -> ShardStore:
    domain = shared_town.domain(stride=128, edge="shift")
    return ShardStore(build_shards(domain, shared_town.shards(), need_label=False))


@pytest.fixture
def unpaired(source: ShardStore, target: ShardStore) -> Callable[..., UnpairedStream]:
    def make(**knobs: Any) -> UnpairedStream:
        return UnpairedStream(source, target, **({"seed": 3, "need_dsm": True, "dsm": DsmConfig()} | knobs))

    return make


def tile_of(store: ShardStore, planes: torch.Tensor) -> int:
    """Which sample an image is."""
    (found,) = [i for i in range(len(store)) if np.array_equal(store[i].image, planes.permute(1, 2, 0).numpy())]
    return found


def order_of(stream: UnpairedStream, name: str, positions: range) -> list[int]:
    return [stream._index[name](position) for position in positions]


def joined(stream: PositionStream, ranks: int, workers: int, per_step: int, steps: range) -> list[Item]:
    """All ranks' items of the steps, in the global order, as the networks get them."""
    size = per_step // ranks
    loaders = [
        stream.batches(steps.start, steps.stop, rank=rank, world_size=ranks, batch_size=size, workers=workers)
        for rank in range(ranks)
    ]
    items = []
    for batches in zip(*loaders, strict=True):
        for batch in batches:
            ready = stream.to_device(batch, HERE)
            items += [{name: value[i] for name, value in ready.items()} for i in range(size)]
    return items


def item(stream: PositionStream, position: int) -> Item:
    """The item at one position, alone in its batch."""
    return joined(stream, 1, 0, 1, range(position, position + 1))[0]


def pairs(stream: UnpairedStream, positions: range) -> list[Item]:
    """What the stream is to give: the stores' samples, prepared one by one in NumPy."""
    items = []
    for position in positions:
        wanted = {"position": torch.tensor(position)}
        for name, store in stream.stores.items():
            sample = store[stream._index[name](position)]
            wanted[f"{name}_image"] = torch.from_numpy(sample.image.transpose(2, 0, 1).copy())
            if stream.need_dsm:
                wanted[f"{name}_dsm"] = torch.from_numpy(store.normalised_dsm(sample, stream.dsm)[None])
        items.append(wanted)
    return items


def crops(stream: LabelledStream, positions: range) -> list[Item]:
    """What the stream is to give: crops, flipped and turned by NumPy."""
    items = []
    for position in positions:
        sample = stream.store[stream._index(position)]
        assert sample.label is not None
        down, right, upside, mirror, turn, angle = uniforms(6, "augment", stream.seed, position)
        row, col = (int(share * (128 - stream.crop + 1)) for share in (down, right))
        turns = 1 + int(angle * 3) if turn < stream.quarter_turn else 0
        planes = {}
        for name, array in (("image", sample.image), ("label", sample.label)):
            crop = array[row : row + stream.crop, col : col + stream.crop]
            crop = crop[:: -1 if upside < stream.flip else 1, :: -1 if mirror < stream.flip else 1]
            planes[name] = torch.from_numpy(np.rot90(crop, turns).copy())
        planes["image"] = planes["image"].permute(2, 0, 1)
        items.append(planes | {"position": torch.tensor(position)})
    return items


def equal(one: list[Item], other: list[Item]) -> bool:
    return len(one) == len(other) and all(
        a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
        for a, b in zip(one, other, strict=True)
    )


def test_the_networks_get_the_stores_samples(
    unpaired: Callable[..., UnpairedStream], source: ShardStore, target: ShardStore
) -> None:
    stream = unpaired()
    (batch,) = stream.batches(3, 4, rank=0, world_size=1, batch_size=2, workers=0)
    ready = stream.to_device(batch, HERE)
    assert {name: (value.dtype, tuple(value.shape)) for name, value in ready.items()} == {
        "position": (torch.int64, (2,)),
        "source_image": (torch.uint8, (2, 3, 128, 128)),
        "source_dsm": (torch.float32, (2, 1, 128, 128)),
        "target_image": (torch.uint8, (2, 3, 128, 128)),
        "target_dsm": (torch.float32, (2, 1, 128, 128)),
    }
    assert all(value.is_contiguous() for value in ready.values())
    assert ready["position"].tolist() == [6, 7]
    for name, store in (("source", source), ("target", target)):
        sample = store[tile_of(store, ready[f"{name}_image"][1])]
        assert np.array_equal(ready[f"{name}_dsm"][1, 0].numpy(), store.normalised_dsm(sample, DsmConfig()))
    assert item(unpaired(need_dsm=False), 7).keys() == {"position", "source_image", "target_image"}
    assert stream.epoch_size == max(len(source), len(target)) == 36


def test_on_the_host_is_what_is_stored(unpaired: Callable[..., UnpairedStream], source: ShardStore) -> None:
    """Bytes travel as they are; whoever counts them finds the shards' own."""
    stream = unpaired()
    (batch,) = stream.batches(0, 1, rank=0, world_size=1, batch_size=3, workers=0)
    for place in range(3):
        sample = source[stream._index["source"](place)]
        assert np.array_equal(batch["source_image"][place].numpy(), sample.image)
        assert np.array_equal(batch["source_dsm"][place].numpy(), sample.dsm_steps)


@pytest.mark.parametrize("rule", ["dataset", "top", "height_above_ground"])
@pytest.mark.parametrize("kind", ["unit", "symmetric"])
def test_heights_are_normalised_on_the_device_as_in_numpy(
    unpaired: Callable[..., UnpairedStream], rule: str, kind: str
) -> None:
    stream = unpaired(dsm=DsmConfig(rule=rule, range=kind, ceiling_m=5))
    assert equal(joined(stream, 1, 0, 6, range(6)), pairs(stream, range(36)))


@pytest.mark.parametrize("order", ["permutation", "replacement"])
@pytest.mark.parametrize(("ranks", "workers"), WORLDS)
def test_the_order_is_the_same_for_any_ranks_and_workers(
    unpaired: Callable[..., UnpairedStream], order: str, ranks: int, workers: int
) -> None:
    """Over three epochs of the source's 24 tiles and two of the target's 36, to the last pixel."""
    stream = unpaired(order=order)
    found = joined(stream, ranks, workers, 6, range(12))
    assert equal(found, pairs(stream, range(72)))
    if order == "permutation":
        for name, store in stream.stores.items():
            images = [one[f"{name}_image"].numpy().tobytes() for one in found]
            for start in range(0, 72, len(store)):
                assert len(set(images[start : start + len(store)])) == len(store)


@given(
    seed=st.integers(0, 2**40),
    stops=st.lists(st.integers(0, 14), max_size=3).map(sorted),
    worlds=st.lists(st.sampled_from(WORLDS), min_size=4, max_size=4),
)
@settings(max_examples=15)
def test_however_often_a_run_is_resumed_it_goes_on_where_it_was(
    source: ShardStore, target: ShardStore, seed: int, stops: list[int], worlds: list[tuple[int, int]]
) -> None:
    def stream() -> UnpairedStream:
        return UnpairedStream(source, target, seed=seed, need_dsm=False, dsm=DsmConfig())

    parts: list[Item] = []
    for start, stop, (ranks, workers) in zip([0, *stops], [*stops, 14], worlds, strict=False):
        parts += joined(stream(), ranks, workers, 6, range(start, stop))
    assert equal(parts, pairs(stream(), range(14 * 6)))


def test_a_late_start_is_as_immediate_as_any_other(unpaired: Callable[..., UnpairedStream]) -> None:
    late = 10**12
    batches = unpaired().batches(late, late + 10**12, rank=0, world_size=1, batch_size=2, workers=2)
    assert next(batches)["position"].tolist() == [2 * late, 2 * late + 1]


def test_uneven_shards_end_an_epoch_on_all_ranks_alike(shared_town: Any) -> None:
    """45 tiles in 7 shards, the last of 3, on 3 ranks."""
    domain, shards = shared_town.domain(stride=73), shared_town.shards(samples_per_shard=7)
    store = ShardStore(build_shards(domain, shards, need_label=False))
    assert [entry["samples"] for entry in store.manifest["shards"]] == [7] * 6 + [3]
    stream = UnpairedStream(store, store, seed=5, need_dsm=False, dsm=DsmConfig())
    loaders = [stream.batches(0, 15, rank=rank, world_size=3, batch_size=1, workers=2) for rank in range(3)]
    seen = [[stream.to_device(batch, HERE) for batch in batches] for batches in loaders]
    assert [len(batches) for batches in seen] == [15, 15, 15]
    for name in ("source", "target"):
        tiles = [tile_of(store, batch[f"{name}_image"][0]) for batches in seen for batch in batches]
        assert sorted(tiles) == list(range(45))


@given(
    kept=st.lists(st.booleans(), min_size=24, max_size=24),
    ranks_and_workers=st.sampled_from(WORLDS),
    rule=st.sampled_from(["dataset", "height_above_ground"]),
)
@settings(max_examples=10)
def test_batches_that_are_kept_stay_as_they_were(
    source: ShardStore, target: ShardStore, kept: list[bool], ranks_and_workers: tuple[int, int], rule: Any
) -> None:
    stream = UnpairedStream(source, target, seed=1, need_dsm=True, dsm=DsmConfig(rule=rule))
    ranks, workers = ranks_and_workers
    held = []
    batches = stream.batches(0, 24, rank=ranks - 1, world_size=ranks, batch_size=1, workers=workers)
    for keep, batch in zip(kept, batches, strict=True):
        if keep:
            held.append((batch, {name: value.clone() for name, value in batch.items()}))
    assert all(equal([batch], [copy]) for batch, copy in held)


def test_an_error_in_a_shard_comes_at_its_batch(shared_town: Any, tmp_path: Path) -> None:
    built = build_shards(shared_town.domain(), shared_town.shards(), need_label=True)
    folder = shutil.copytree(built, tmp_path / built.name)
    store = ShardStore(folder)
    stream = UnpairedStream(store, store, seed=3, need_dsm=False, dsm=DsmConfig())
    (folder / "shard-000002.tar").write_bytes(b"")
    bad = [any(10 <= stream._index[name](p) < 15 for name in stream.stores) for p in range(24)].index(True)
    batches = stream.batches(0, 24, rank=0, world_size=1, batch_size=1, workers=2)
    assert [int(next(batches)["position"]) for _ in range(bad)] == list(range(bad))
    with pytest.raises(ValueError, match=r"shard-000002\.tar: it has 0 bytes instead of"):
        next(batches)


@given(seed=st.integers(0, 2**40), epoch=st.integers(0, 10**6))
@settings(max_examples=30)
def test_every_sample_comes_once_per_epoch_of_its_domain(
    source: ShardStore, target: ShardStore, seed: int, epoch: int
) -> None:
    stream = UnpairedStream(source, target, seed=seed, need_dsm=False, dsm=DsmConfig())
    for name, store in (("source", source), ("target", target)):
        length = len(store)
        here = order_of(stream, name, range(epoch * length, (epoch + 1) * length))
        after = order_of(stream, name, range((epoch + 1) * length, (epoch + 2) * length))
        assert sorted(here) == sorted(after) == list(range(length))
        assert here != after


def test_pairs_are_unpaired(source: ShardStore) -> None:
    """A domain against itself: were the two orders one, each sample would meet itself."""
    stream = UnpairedStream(source, source, seed=0, need_dsm=False, dsm=DsmConfig())
    met = Counter(
        a == b
        for a, b in zip(
            order_of(stream, "source", range(24 * 50)), order_of(stream, "target", range(24 * 50)), strict=True
        )
    )
    assert 20 <= met[True] <= 80  # 50 expected, standard deviation 7


def test_replacement_draws_anew(unpaired: Callable[..., UnpairedStream], source: ShardStore) -> None:
    drawn = order_of(unpaired(order="replacement"), "source", range(24 * 100))
    counts = np.bincount(drawn, minlength=24)
    assert len(counts) == 24
    assert 0 < np.abs(counts - 100).max() < 50  # 5 standard deviations
    assert any(sorted(drawn[e * 24 : e * 24 + 24]) != list(range(24)) for e in range(100))


def test_seeds_give_other_orders(unpaired: Callable[..., UnpairedStream]) -> None:
    orders = {tuple(order_of(unpaired(seed=seed), "source", range(24))) for seed in range(20)}
    assert len(orders) == 20


@pytest.mark.parametrize("workers", [0, 2])
def test_the_random_state_of_the_process_is_left_alone(
    unpaired: Callable[..., UnpairedStream], source: ShardStore, workers: int
) -> None:
    def states() -> list[object]:
        return [torch.get_rng_state().numpy().tobytes(), pickle.dumps(np.random.get_state()), repr(random.getstate())]

    before = states()
    joined(unpaired(order="replacement"), 1, workers, 2, range(3))
    joined(LabelledStream(source, seed=1, crop=96, flip=0.5, quarter_turn=0.5), 1, workers, 2, range(3))
    assert states() == before


def test_a_domain_without_heights_is_refused_where_they_are_needed(shared_town: Any, source: ShardStore) -> None:
    flat = ShardStore(build_shards(shared_town.domain(archive={"dsm": None}), shared_town.shards(), need_label=False))
    with pytest.raises(ValueError, match="archive town has no DSM"):
        UnpairedStream(source, flat, seed=0, need_dsm=True, dsm=DsmConfig())
    assert "target_image" in item(UnpairedStream(source, flat, seed=0, need_dsm=False, dsm=DsmConfig()), 0)


# ---------------------------------------------------------------------------------------------------------- labelled


def test_without_augmentation_tiles_come_as_they_are(source: ShardStore) -> None:
    stream = LabelledStream(source, seed=1, crop=128)
    seen = []
    for position in range(stream.epoch_size):
        found = item(stream, position)
        seen.append(tile_of(source, found["image"]))
        assert np.array_equal(found["label"].numpy(), source[seen[-1]].label)
        assert (found["image"].dtype, found["label"].dtype, found["position"]) == (torch.uint8, torch.uint8, position)
    assert sorted(seen) == list(range(len(source)))


@pytest.mark.parametrize(("ranks", "workers"), WORLDS)
def test_augmentation_is_the_same_for_any_ranks_and_workers(source: ShardStore, ranks: int, workers: int) -> None:
    stream = LabelledStream(source, seed=1, crop=96, flip=0.5, quarter_turn=0.5)
    assert equal(joined(stream, ranks, workers, 6, range(2, 10)), crops(stream, range(12, 60)))


@given(
    seed=st.integers(0, 2**40),
    stop=st.integers(0, 12),
    before=st.sampled_from(WORLDS),
    after=st.sampled_from(WORLDS),
    flip=st.sampled_from([0.0, 0.3, 1.0]),
    turn=st.sampled_from([0.0, 0.6, 1.0]),
    crop=st.sampled_from([1, 96, 128]),
)
@settings(max_examples=20)
def test_crops_go_on_where_they_were(
    source: ShardStore,
    seed: int,
    stop: int,
    before: tuple[int, int],
    after: tuple[int, int],
    flip: float,
    turn: float,
    crop: int,
) -> None:
    def stream() -> LabelledStream:
        return LabelledStream(source, seed=seed, crop=crop, flip=flip, quarter_turn=turn)

    parts = joined(stream(), *before, 6, range(stop)) + joined(stream(), *after, 6, range(stop, 12))
    assert equal(parts, crops(stream(), range(12 * 6)))


def test_compressed_shards_give_the_same(shared_town: Any, source: ShardStore, target: ShardStore) -> None:
    def packed(stride: int, edge: str, label: bool) -> ShardStore:
        domain = shared_town.domain(stride=stride, edge=edge)
        return ShardStore(build_shards(domain, shared_town.shards(codec="zstd"), need_label=label))

    dsm = DsmConfig(rule="height_above_ground")
    raw = UnpairedStream(source, target, seed=3, need_dsm=True, dsm=dsm)
    stores = packed(96, "drop", True), packed(128, "shift", False)
    assert [store.domain["codec"] for store in stores] == ["zstd", "zstd"]
    small = UnpairedStream(*stores, seed=3, need_dsm=True, dsm=dsm)
    assert equal(joined(small, 1, 2, 6, range(6)), pairs(raw, range(36)))
    assert equal(
        joined(LabelledStream(stores[0], seed=1, crop=64), 1, 2, 6, range(4)),
        crops(LabelledStream(source, seed=1, crop=64), range(24)),
    )


def test_image_and_label_are_augmented_alike(source: ShardStore) -> None:
    """Every crop is found in its tile again by undoing one of eight symmetries, and all eight occur."""
    stream = LabelledStream(source, seed=2, crop=64, flip=0.5, quarter_turn=0.5)
    plain = LabelledStream(source, seed=2, crop=128)
    symmetries: Counter[tuple[int, bool]] = Counter()
    corners = set()
    for position in range(96):
        tile, crop = source[tile_of(source, item(plain, position)["image"])], item(stream, position)
        image, label = crop["image"].permute(1, 2, 0).numpy(), crop["label"].numpy()
        found = []
        for turns in range(4):
            for mirror in (False, True):
                back_image, back_label = np.rot90(image, -turns), np.rot90(label, -turns)
                if mirror:
                    back_image, back_label = back_image[:, ::-1], back_label[:, ::-1]
                for row, col in np.argwhere(np.all(tile.image[:65, :65] == back_image[0, 0], axis=2)):
                    window = (slice(row, row + 64), slice(col, col + 64))
                    if np.array_equal(tile.image[window], back_image):
                        assert np.array_equal(tile.label[window], back_label)
                        found.append((turns, mirror))
                        corners.add((int(row), int(col)))
        assert len(found) == 1
        symmetries[found[0]] += 1
    assert len(symmetries) == 8
    assert len(corners) > 90


@pytest.mark.parametrize(("flip", "turn", "changed"), [(0.0, 0.0, 0), (1.0, 0.0, 24), (0.0, 1.0, 24)])
def test_probabilities_are_kept_at_their_ends(source: ShardStore, flip: float, turn: float, changed: int) -> None:
    stream = LabelledStream(source, seed=2, crop=128, flip=flip, quarter_turn=turn)
    plain = LabelledStream(source, seed=2, crop=128)
    found, before = (joined(one, 1, 0, 6, range(4)) for one in (stream, plain))
    assert sum(not torch.equal(a["image"], b["image"]) for a, b in zip(found, before, strict=True)) == changed


def test_what_cannot_be_learned_from_is_refused(source: ShardStore, target: ShardStore) -> None:
    with pytest.raises(ValueError, match="these shards have no labels"):
        LabelledStream(target, seed=0, crop=128)
    with pytest.raises(ValueError, match=r"segmentation\.crop=256 is larger than the tiles of .*128 pixels"):
        LabelledStream(source, seed=0, crop=256)


def test_a_stream_may_be_pickled(source: ShardStore) -> None:
    stream = LabelledStream(source, seed=1, crop=96, flip=0.5, quarter_turn=0.5)
    item(stream, 0)
    assert equal([item(pickle.loads(pickle.dumps(stream)), 5)], [item(stream, 5)])
