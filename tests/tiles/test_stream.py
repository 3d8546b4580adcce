from __future__ import annotations

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
from drdg.tiles.build import build_shards
from drdg.tiles.store import ShardStore
from drdg.tiles.stream import LabelledStream, PositionStream, UnpairedStream

WORLDS = [(1, 0), (1, 2), (2, 1), (3, 2)]


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


def joined(stream: PositionStream, ranks: int, workers: int, per_step: int, steps: range) -> list[dict[str, Any]]:
    """All ranks' items of the steps, in the global order."""
    size = per_step // ranks
    loaders = [
        stream.batches(steps.start, steps.stop, rank=rank, world_size=ranks, batch_size=size, workers=workers)
        for rank in range(ranks)
    ]
    items = []
    for batches in zip(*loaders, strict=True):
        for batch in batches:
            items += [{name: value[i] for name, value in batch.items()} for i in range(size)]
    return items


def equal(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> bool:
    return len(one) == len(other) and all(
        a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
        for a, b in zip(one, other, strict=True)
    )


def test_items_are_the_stores_samples(
    unpaired: Callable[..., UnpairedStream], source: ShardStore, target: ShardStore
) -> None:
    stream = unpaired()
    item = stream[7]
    assert {name: (value.dtype, tuple(value.shape)) for name, value in item.items()} == {
        "position": (torch.int64, ()),
        "source_image": (torch.uint8, (3, 128, 128)),
        "source_dsm": (torch.float32, (1, 128, 128)),
        "target_image": (torch.uint8, (3, 128, 128)),
        "target_dsm": (torch.float32, (1, 128, 128)),
    }
    assert item["position"] == 7
    for name, store in (("source", source), ("target", target)):
        sample = store[tile_of(store, item[f"{name}_image"])]
        assert np.array_equal(item[f"{name}_dsm"][0].numpy(), store.normalised_dsm(sample, DsmConfig()))
    assert unpaired(need_dsm=False)[7].keys() == {"position", "source_image", "target_image"}
    assert stream.epoch_size == max(len(source), len(target)) == 36


@pytest.mark.parametrize("order", ["permutation", "replacement"])
@pytest.mark.parametrize(("ranks", "workers"), WORLDS)
def test_the_order_is_the_same_for_any_ranks_and_workers(
    unpaired: Callable[..., UnpairedStream], order: str, ranks: int, workers: int
) -> None:
    stream = unpaired(order=order)
    wanted = [stream[position] for position in range(2 * 6, 9 * 6)]
    assert equal(joined(stream, ranks, workers, 6, range(2, 9)), wanted)


def test_a_resumed_run_goes_on_where_it_was(unpaired: Callable[..., UnpairedStream]) -> None:
    whole = joined(unpaired(), 1, 0, 2, range(0, 20))
    for stop in (1, 7, 19):
        before = joined(unpaired(), 2, 1, 2, range(0, stop))
        after = joined(unpaired(), 1, 2, 2, range(stop, 20))
        assert equal(before + after, whole)
    late = 10**12  # as immediate as any other
    assert unpaired().batches(late, late + 1, rank=0, world_size=1, batch_size=2, workers=0).__next__()[
        "position"
    ].tolist() == [2 * late, 2 * late + 1]


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


@pytest.mark.parametrize("workers", [0, 1])
def test_the_random_state_of_the_process_is_left_alone(unpaired: Callable[..., UnpairedStream], workers: int) -> None:
    before = torch.get_rng_state()
    list(unpaired().batches(0, 3, rank=0, world_size=1, batch_size=1, workers=workers))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_domain_without_heights_is_refused_where_they_are_needed(shared_town: Any, source: ShardStore) -> None:
    flat = ShardStore(build_shards(shared_town.domain(archive={"dsm": None}), shared_town.shards(), need_label=False))
    with pytest.raises(ValueError, match="archive town has no DSM"):
        UnpairedStream(source, flat, seed=0, need_dsm=True, dsm=DsmConfig())
    assert "target_image" in UnpairedStream(source, flat, seed=0, need_dsm=False, dsm=DsmConfig())[0]


# ---------------------------------------------------------------------------------------------------------- labelled


def test_without_augmentation_tiles_come_as_they_are(source: ShardStore) -> None:
    stream = LabelledStream(source, seed=1, crop=128)
    seen = []
    for position in range(stream.epoch_size):
        item = stream[position]
        seen.append(tile_of(source, item["image"]))
        assert np.array_equal(item["label"].numpy(), source[seen[-1]].label)
        assert (item["image"].dtype, item["label"].dtype, item["position"]) == (torch.uint8, torch.uint8, position)
    assert sorted(seen) == list(range(len(source)))


@pytest.mark.parametrize(("ranks", "workers"), WORLDS)
def test_augmentation_is_the_same_for_any_ranks_and_workers(source: ShardStore, ranks: int, workers: int) -> None:
    stream = LabelledStream(source, seed=1, crop=96, flip=0.5, quarter_turn=0.5)
    wanted = [stream[position] for position in range(12, 36)]
    assert equal(joined(stream, ranks, workers, 6, range(2, 6)), wanted)


def test_image_and_label_are_augmented_alike(source: ShardStore) -> None:
    """Every crop is found in its tile again by undoing one of eight symmetries, and all eight occur."""
    stream = LabelledStream(source, seed=2, crop=64, flip=0.5, quarter_turn=0.5)
    plain = LabelledStream(source, seed=2, crop=128)
    symmetries: Counter[tuple[int, bool]] = Counter()
    corners = set()
    for position in range(96):
        tile, item = source[tile_of(source, plain[position]["image"])], stream[position]
        image, label = item["image"].permute(1, 2, 0).numpy(), item["label"].numpy()
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
    assert sum(not torch.equal(stream[p]["image"], plain[p]["image"]) for p in range(24)) == changed


def test_what_cannot_be_learned_from_is_refused(source: ShardStore, target: ShardStore) -> None:
    with pytest.raises(ValueError, match="these shards have no labels"):
        LabelledStream(target, seed=0, crop=128)
    with pytest.raises(ValueError, match=r"segmentation\.crop=256 is larger than the tiles of .*128 pixels"):
        LabelledStream(source, seed=0, crop=256)


def test_no_path_is_needed_to_be_pickled(source: ShardStore, tmp_path: Path) -> None:
    import pickle

    stream = LabelledStream(source, seed=1, crop=96, flip=0.5, quarter_turn=0.5)
    stream[0]
    again = pickle.loads(pickle.dumps(stream))
    assert all(torch.equal(again[5][name], stream[5][name]) for name in ("image", "label"))
