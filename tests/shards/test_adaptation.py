"""What a segmentor adapts by: labelled crops as ever, and beside them the target's and the untranslated ones."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from drdg.config import digest
from drdg.inference.translate import resize, translate_shards
from drdg.shards.adaptation import AdaptationStream
from drdg.shards.store import ShardStore
from drdg.shards.stream import LabelledStream, PositionStream
from drdg.shards.writer import finish, shard_name, write_shard

HERE = torch.device("cpu")
WORLDS = [(1, 0), (1, 2), (2, 1), (4, 2)]
STEPS, PER_STEP = 8, 4
SIDE, CROP = 24, 16
LABELLED, TARGET = (5, 4), (3, 3, 1)  # samples in each shard: 9 and 7, so neither divides a batch or the other
Item = dict[str, torch.Tensor]


def build(folder: Path, counts: tuple[int, ...], side: int, *, label: bool, seed: int, first: int = 0) -> ShardStore:
    """Tiles of noise, so that every crop is found again at one place only."""
    generator = np.random.default_rng(seed)
    folder.mkdir()
    plan = digest([counts, side, label, seed, first])
    place = first
    for number, count in enumerate(counts):
        samples: list[dict[str, Any]] = []
        for _ in range(count):
            arrays = {"image.npy": generator.integers(0, 256, (side, side, 3), dtype=np.uint8)}
            if label:
                arrays["label.npy"] = generator.integers(0, 6, (side, side), dtype=np.uint8)
            samples.append({"__key__": f"t{place:03d}", "json": {"top": "1"}} | arrays)
            place += 1
        write_shard(folder / shard_name(number), samples, plan)
    named = {"archive": folder.name, "classes": list("abcdef")}
    domain = {**named, "tile": side, "dsm": False, "label": label, "gsd_m": None}
    finish(folder, [shard_name(number) for number in range(len(counts))], plan, {"domain": domain})
    return ShardStore(folder)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ShardStore]:
    root = tmp_path_factory.mktemp("stores")
    return {
        "labelled": build(root / "labelled", LABELLED, SIDE, label=True, seed=1),
        "target": build(root / "target", TARGET, 20, label=False, seed=2),
        "original": build(root / "original", LABELLED, SIDE, label=True, seed=3),
    }


def stream_of(stores: dict[str, ShardStore], *names: str, seed: int = 5, **knobs: Any) -> AdaptationStream:
    chosen = {name: stores[name] for name in names}
    knobs = {"crop": CROP, "flip": 0.5, "quarter_turn": 0.5} | knobs
    return AdaptationStream(stores["labelled"], seed=seed, **chosen, **knobs)


def joined(stream: PositionStream, ranks: int, workers: int, steps: range) -> list[Item]:
    """All ranks' items of the steps, in the global order, as the network gets them."""
    size = PER_STEP // ranks
    loaders = [
        stream.batches(steps.start, steps.stop, rank=rank, world_size=ranks, batch_size=size, workers=workers)
        for rank in range(ranks)
    ]
    items = []
    for batches in zip(*loaders, strict=True):
        for batch in batches:
            ready = stream.to_device(batch, HERE)
            items += [{name: value[i].clone() for name, value in ready.items()} for i in range(size)]
    return items


def equal(one: list[Item], other: list[Item]) -> bool:
    return len(one) == len(other) and all(
        a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
        for a, b in zip(one, other, strict=True)
    )


def place_in(store: ShardStore, image: torch.Tensor) -> tuple[int, int, int, int, bool]:
    """Tile, row, column, quarter turns and mirroring of the crop ``image`` (3, C, C)."""
    found = []
    for turns in range(4):
        for mirror in (False, True):
            back = np.rot90(image.permute(1, 2, 0).numpy(), -turns)
            back = back[:, ::-1] if mirror else back
            for number in range(len(store)):
                tile = store[number].image
                last = tile.shape[0] - len(back) + 1
                for row, col in np.argwhere(np.all(tile[:last, :last] == back[0, 0], axis=2)):
                    if np.array_equal(tile[row : row + len(back), col : col + len(back)], back):
                        found.append((number, int(row), int(col), turns, mirror))
    (one,) = found
    return one


def test_batches_hold_what_was_asked_for(stores: dict[str, ShardStore]) -> None:
    stream = stream_of(stores, "target", "original")
    (batch,) = stream.batches(3, 4, rank=1, world_size=2, batch_size=2, workers=0)
    ready = stream.to_device(batch, HERE)
    assert {name: (value.dtype, tuple(value.shape)) for name, value in ready.items()} == {
        "position": (torch.int64, (2,)),
        "image": (torch.uint8, (2, 3, CROP, CROP)),
        "label": (torch.uint8, (2, CROP, CROP)),
        "target_image": (torch.uint8, (2, 3, CROP, CROP)),
        "original_image": (torch.uint8, (2, 3, CROP, CROP)),
    }
    assert all(value.is_contiguous() for value in ready.values())
    assert ready["position"].tolist() == [14, 15]
    assert stream.epoch_size == 9
    assert joined(stream_of(stores), 1, 0, range(1))[0].keys() == {"position", "image", "label"}


@pytest.mark.parametrize("names", [(), ("target",), ("original",), ("target", "original")])
def test_labelled_crops_are_those_of_the_labelled_stream(stores: dict[str, ShardStore], names: tuple[str, ...]) -> None:
    plain = LabelledStream(stores["labelled"], seed=5, crop=CROP, flip=0.5, quarter_turn=0.5)
    wanted = joined(plain, 1, 0, range(STEPS))
    found = joined(stream_of(stores, *names), 1, 0, range(STEPS))
    assert equal([{name: item[name] for name in ("position", "image", "label")} for item in found], wanted)


def test_originals_are_cropped_and_turned_like_their_translation(stores: dict[str, ShardStore]) -> None:
    items = joined(stream_of(stores, "original"), 1, 0, range(STEPS))
    places = [place_in(stores["labelled"], item["image"]) for item in items]
    assert places == [place_in(stores["original"], item["original_image"]) for item in items]
    assert len({place[3:] for place in places}) > 4


def test_target_crops_go_their_own_way(stores: dict[str, ShardStore]) -> None:
    """Tiles in an order of their own, once per epoch of theirs; windows, flips and turns of their own."""
    items = joined(stream_of(stores, "target"), 1, 0, range(21))  # 84 positions: 12 epochs of 7
    target = [place_in(stores["target"], item["target_image"]) for item in items]
    labelled = [place_in(stores["labelled"], item["image"]) for item in items]
    tiles = [place[0] for place in target]
    epochs = [tiles[start : start + 7] for start in range(0, 84, 7)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 9
    alike = sum(one[3:] == other[3:] for one, other in zip(target, labelled, strict=True))
    assert alike < 30  # of 84 with 8 symmetries: about 12
    assert {place[1] for place in target} == {place[2] for place in target} == set(range(5))
    assert len({place[3:] for place in target}) == 8


def test_a_domain_beside_itself_does_not_meet_itself(stores: dict[str, ShardStore]) -> None:
    store = stores["labelled"]
    stream = AdaptationStream(store, target=store, seed=1, crop=SIDE)
    items = joined(stream, 1, 0, range(45))  # 180 positions
    met = sum(torch.equal(item["image"], item["target_image"]) for item in items)
    assert 5 <= met <= 40  # 20 expected, standard deviation about 4


@given(
    seed=st.integers(0, 2**40),
    stops=st.lists(st.integers(0, STEPS), max_size=3).map(sorted),
    worlds=st.lists(st.sampled_from(WORLDS), min_size=4, max_size=4),
    names=st.sets(st.sampled_from(["target", "original"])),
    flip=st.sampled_from([0.0, 0.4]),
)
@settings(max_examples=30)
def test_any_ranks_and_workers_resumed_anywhere_see_the_same(
    stores: dict[str, ShardStore],
    seed: int,
    stops: list[int],
    worlds: list[tuple[int, int]],
    names: set[str],
    flip: float,
) -> None:
    def stream() -> AdaptationStream:
        return stream_of(stores, *names, seed=seed, flip=flip, quarter_turn=flip)

    parts: list[Item] = []
    for start, stop, (ranks, workers) in zip([0, *stops], [*stops, STEPS], worlds, strict=False):
        parts += joined(stream(), ranks, workers, range(start, stop))
    assert equal(parts, joined(stream(), 1, 0, range(STEPS)))


@given(seed=st.integers(0, 2**40), epoch=st.integers(0, 10**6))
@settings(max_examples=20)
def test_every_target_sample_comes_once_in_any_epoch(stores: dict[str, ShardStore], seed: int, epoch: int) -> None:
    stream = AdaptationStream(stores["labelled"], target=stores["target"], seed=seed, crop=20)
    first = epoch * 7
    loader = stream.batches(first, first + 7, rank=0, world_size=1, batch_size=1, workers=0)
    images = [stream.to_device(batch, HERE)["target_image"][0] for batch in loader]
    assert sorted(place_in(stores["target"], image)[0] for image in images) == list(range(7))


def test_batches_that_are_kept_stay_as_they_were(stores: dict[str, ShardStore]) -> None:
    stream = stream_of(stores, "target", "original")
    held = []
    for batch in stream.batches(0, 40, rank=0, world_size=1, batch_size=2, workers=2):
        held.append((batch, {name: value.clone() for name, value in batch.items()}))
        held = held[-8:]
        assert all(torch.equal(one[name], copy[name]) for one, copy in held for name in copy)


def test_content_names_every_store(stores: dict[str, ShardStore]) -> None:
    plans = {name: store.manifest["plan"] for name, store in stores.items()}
    assert len(set(plans.values())) == 3
    assert LabelledStream(stores["labelled"], seed=5, crop=CROP).content == [plans["labelled"]]
    assert stream_of(stores).content == [plans["labelled"]]
    assert stream_of(stores, "original").content == [plans["labelled"], plans["original"]]
    everything = stream_of(stores, "target", "original")
    assert everything.content == [plans["labelled"], plans["target"], plans["original"]]
    assert equal(joined(pickle.loads(pickle.dumps(everything)), 1, 0, range(2)), joined(everything, 1, 0, range(2)))


def test_a_translation_goes_with_the_same_tiles_resized(two_domains: Any, tmp_path: Path) -> None:
    """What is built by the suite's own translation is one for one."""
    source, target = two_domains
    translated, resized = (
        ShardStore(
            translate_shards(source, function, 128, tmp_path / name, name, batch_size=4, device=HERE, quiet=True)
        )
        for name, function in (("translated", lambda images: -resize(128)(images)), ("resized", resize(128)))
    )
    stream = AdaptationStream(translated, target=target, original=resized, seed=1, crop=96, flip=0.5)
    (item, *_) = joined(stream, 1, 0, range(1))
    apart = item["image"].int() + item["original_image"].int() - 255
    assert apart.abs().max() <= 1  # of the mirrored grey values, by rounding


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"counts": (5, 3)}, "have 8 and 9 tiles"),
        ({"side": 32}, "have 32 and 24 pixels on a side"),
        ({"first": 1}, "differ in tile 0"),
    ],
)
def test_originals_of_other_tiles_are_refused(
    stores: dict[str, ShardStore], tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    knobs = {"counts": LABELLED, "side": SIDE, "label": True, "seed": 3} | change
    other = build(tmp_path / "other", knobs.pop("counts"), knobs.pop("side"), **knobs)
    with pytest.raises(ValueError, match=said) as raised:
        AdaptationStream(stores["labelled"], original=other, seed=0, crop=CROP)
    for store in (other, stores["labelled"]):
        assert str(store.name) in str(raised.value)


def test_what_cannot_be_cropped_or_learned_from_is_refused(stores: dict[str, ShardStore]) -> None:
    with pytest.raises(ValueError, match=r"segmentation\.crop=22 is larger than the tiles of .*target \(20 pixels\)"):
        stream_of(stores, "target", crop=22)
    with pytest.raises(ValueError, match="these shards have no labels"):
        AdaptationStream(stores["target"], seed=0, crop=CROP)
