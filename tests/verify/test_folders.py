"""Whatever is wrong with a folder of shards is found, named by its file, and never raised; a repair mends just that."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drdg.config import DomainConfig, ShardsConfig
from drdg.datasets import open_archive
from drdg.files import SEAL, seal, write_json, xxh128
from drdg.shards.build import build_shards
from drdg.shards.codec import Codec
from drdg.shards.crew import Alone
from drdg.shards.plan import Plan, make_plan
from drdg.shards.store import ShardStore
from drdg.shards.writer import MANIFEST, write_shard
from drdg.verify.folders import FolderReport, verify_domain, verify_folder

QUIET = Alone(quiet=True)
CODECS = ("raw", "zstd")
# Each folder has two TOPs of three tiles in three shards; this is the one that is damaged.
SHARD = "shard-000001.tar"
INDEX = "shard-000001.index.json"


@dataclass
class Built:
    """A finished folder and all it was built from."""

    domain: DomainConfig
    shards: ShardsConfig
    folder: Path
    plan: Plan

    def verify(self, with_plan: bool = True) -> FolderReport:
        return verify_folder(self.folder, self.plan if with_plan else None, QUIET)

    def copy(self, root: Path) -> Built:
        shutil.copytree(self.folder, root / self.folder.name)
        return Built(self.domain, self.shards.model_copy(update={"root": root}), root / self.folder.name, self.plan)


def build(town: Any, root: Path, need_label: bool = True, **knobs: Any) -> Built:
    domain = town.domain(stride=128, edge="shift")
    shards = town.shards(root=root, samples_per_shard=2, **knobs)
    folder = build_shards(domain, shards, need_label=need_label, crew=QUIET)
    return Built(domain, shards, folder, make_plan(open_archive(domain.archive), domain, shards, need_label=need_label))


@pytest.fixture(scope="module", params=CODECS)
def whole(request: pytest.FixtureRequest, small_town: Any, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """One that tests leave as it is."""
    return build(small_town, tmp_path_factory.mktemp(request.param), codec=request.param)


@pytest.fixture
def built(whole: Built, tmp_path: Path) -> Built:
    """One to be damaged."""
    return whole.copy(tmp_path / "copy")


def named(report: FolderReport) -> set[str]:
    return {str(finding.file.relative_to(report.folder)) for finding in report.findings}


def vouch(folder: Path, name: str = SHARD, **changes: Any) -> None:
    """Make the manifest say of a shard what is there now, so that no checksum tells of a change."""
    manifest = json.loads((folder / MANIFEST).read_bytes())
    manifest.pop(SEAL)
    shard = folder / name
    now = {"bytes": shard.stat().st_size, "xxh128": xxh128(shard)}
    now["index_xxh128"] = xxh128(shard.with_suffix(".index.json"))
    for entry in manifest["shards"]:
        if entry["file"] == name:
            entry.update(now)
    write_json(folder / MANIFEST, seal(manifest | changes))


def samples_of(folder: Path, shard: int = 1) -> list[dict[str, Any]]:
    """The samples of a shard as the writer takes them."""
    store = ShardStore(folder)
    start = sum(entry["samples"] for entry in store.manifest["shards"][:shard])
    samples = []
    for number in range(start, start + store.manifest["shards"][shard]["samples"]):
        sample = store[number]
        layers = {
            "image.npy": sample.image,
            "dsm.npy": sample.dsm_steps,
            "ground.npy": sample.ground_steps,
            "label.npy": sample.label,
        }
        arrays = {name: array.copy() for name, array in layers.items() if array is not None}
        samples.append({"__key__": sample.key, "json": dict(sample.meta), **arrays})
    return samples


def rewrite(built: Built, samples: list[dict[str, Any]]) -> None:
    write_shard(built.folder / SHARD, samples, built.plan.digest, Codec(built.shards.codec))


@contextmanager
def content(path: Path, text: bytes) -> Iterator[None]:
    """``path`` with another content, for a while."""
    was = path.read_bytes()
    path.write_bytes(text)
    try:
        yield
    finally:
        path.write_bytes(was)


@pytest.mark.parametrize("with_plan", [True, False])
def test_a_whole_folder_is_whole_and_its_numbers_are_right(whole: Built, small_town: Any, with_plan: bool) -> None:
    report = whole.verify(with_plan)
    assert report.findings == []
    tally = report.tally
    assert tally.samples == 6
    assert tally.bytes == sum(path.stat().st_size for path in whole.folder.glob("*.tar"))
    labels = [sample["label.npy"] for shard in range(3) for sample in samples_of(whole.folder, shard)]
    assert (tally.label_pixels == np.bincount(np.concatenate(labels).ravel(), minlength=256)).all()
    for name, heights in small_town.heights.items():
        assert tally.heights_m[name] == pytest.approx((heights.min(), heights.max()), abs=0.005001)
    assert tally.georeferenced == 6
    assert set(tally.windows.values()) == {1}


@settings(max_examples=80)
@given(data=st.data())
@pytest.mark.parametrize("name", [SHARD, INDEX, MANIFEST])
def test_one_changed_byte_anywhere_is_named(whole: Built, name: str, data: st.DataObject) -> None:
    text = bytearray((whole.folder / name).read_bytes())
    text[data.draw(st.integers(0, len(text) - 1), "place")] ^= data.draw(st.integers(1, 255), "mask")
    with content(whole.folder / name, bytes(text)):
        report = whole.verify(data.draw(st.booleans(), "with_plan"))
    assert named(report) == {MANIFEST if name == MANIFEST else SHARD}


@settings(max_examples=25)
@given(data=st.data())
@pytest.mark.parametrize("name", [SHARD, INDEX, MANIFEST])
def test_a_file_that_was_cut_or_grew_is_named(whole: Built, name: str, data: st.DataObject) -> None:
    text = (whole.folder / name).read_bytes()
    cut = data.draw(st.integers(0, len(text) - 1), "kept")
    other = data.draw(st.sampled_from([text[:cut], text + text[cut:], text[:cut] + bytes(len(text) - cut) + b"\0"]))
    with content(whole.folder / name, other):
        report = whole.verify(data.draw(st.booleans(), "with_plan"))
    assert named(report) == {MANIFEST if name == MANIFEST else SHARD}


@settings(max_examples=30)
@given(
    text=st.one_of(
        st.binary(max_size=3000),
        st.recursive(
            st.none() | st.integers() | st.floats() | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        ).map(lambda value: json.dumps(value).encode()),
    )
)
@pytest.mark.parametrize("name", [SHARD, INDEX, MANIFEST])
def test_any_other_content_is_named(whole: Built, name: str, text: bytes) -> None:
    with content(whole.folder / name, text):
        assert named(whole.verify()) == {MANIFEST if name == MANIFEST else SHARD}
        assert (MANIFEST if name == MANIFEST else SHARD) in named(whole.verify(with_plan=False))


@pytest.mark.parametrize("with_plan", [True, False])
def test_a_shard_that_is_missing_is_named(built: Built, with_plan: bool) -> None:
    (built.folder / SHARD).unlink()
    (finding,) = built.verify(with_plan).findings
    assert str(finding) == f"{built.folder / SHARD}: is missing"


def test_an_index_that_is_missing_is_named_by_its_shard(built: Built) -> None:
    (built.folder / INDEX).unlink()
    (finding,) = built.verify().findings
    assert str(finding) == f"{built.folder / SHARD}: its index {INDEX} is missing"


@pytest.mark.parametrize("with_plan", [True, False])
@pytest.mark.parametrize("suffixes", [[".tar"], [".index.json"], [".tar", ".index.json"]])
def test_two_that_were_swapped_are_both_named(built: Built, suffixes: list[str], with_plan: bool) -> None:
    for suffix in suffixes:
        one, other = (built.folder / f"shard-00000{number}{suffix}" for number in (1, 2))
        one.rename(built.folder / "aside")
        other.rename(one)
        (built.folder / "aside").rename(other)
    assert named(built.verify(with_plan)) == {SHARD, "shard-000002.tar"}


@pytest.mark.parametrize("with_plan", [True, False])
def test_a_valid_shard_of_other_content_is_named(built: Built, with_plan: bool) -> None:
    samples = samples_of(built.folder)
    samples[0]["image.npy"][5, 5] ^= 1
    rewrite(built, samples)
    assert named(built.verify(with_plan)) == {SHARD}


@pytest.mark.parametrize("name", ["shard-000003.tar", "shard-000003.index.json", "shard-0.tar"])
def test_a_file_that_belongs_to_no_shard_is_named(built: Built, name: str) -> None:
    (built.folder / name).write_bytes(b"anything")
    assert named(built.verify()) == named(built.verify(with_plan=False)) == {name}


def test_a_folder_without_manifest_is_not_finished(built: Built) -> None:
    (built.folder / MANIFEST).unlink()
    for with_plan in (True, False):
        (finding,) = built.verify(with_plan).findings
        assert str(finding) == f"{built.folder / MANIFEST}: is missing: the build has not come to its end"
    (built.folder / SHARD).write_bytes(b"")
    assert named(built.verify(with_plan=False)) == {MANIFEST, SHARD}


def test_a_folder_without_shards_is_bad_input(tmp_path: Path, whole: Built) -> None:
    for plan, words in ((None, "holds no shards"), (whole.plan, "run shards/build.py")):
        with pytest.raises(ValueError, match=words):
            verify_folder(tmp_path / "nowhere", plan, QUIET)


def test_a_shard_that_the_disk_does_not_give_is_named(built: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Path.open

    def fail(path: Path, *arguments: Any, **options: Any) -> Any:
        if path.name == SHARD:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return opened(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", fail)
    (finding,) = built.verify().findings
    assert str(finding) == f"{built.folder / SHARD}: cannot be read (Input/output error)"


def test_shards_of_another_plan_are_named(built: Built, small_town: Any, tmp_path: Path) -> None:
    other = build(small_town, tmp_path / "other", codec=built.shards.codec, seed=5)
    report = verify_folder(built.folder, other.plan, QUIET)
    assert named(report) == {MANIFEST, *(f"shard-00000{number}.tar" for number in range(3))}
    assert "is the manifest of plan" in str(report.findings[0])


PLACES = ["offset", "size", "data", "shape", "dtype", "codec"]
ABSURD: list[Any] = [-1, 10**40, 1e308, "x", None, [], {}, [10**9] * 9, [-5], "|O", ">u9", "zstd", True]


@settings(max_examples=80)
@given(data=st.data())
def test_an_absurd_index_that_the_manifest_vouches_for_is_named(whole: Built, data: st.DataObject) -> None:
    index = json.loads((whole.folder / INDEX).read_bytes())
    place = data.draw(st.sampled_from([place for sample in index["samples"] for place in sample["members"].values()]))
    key = data.draw(st.sampled_from(PLACES))
    value = data.draw(st.sampled_from([value for value in ABSURD if value != place.get(key)]))
    place[key] = value
    manifest = (whole.folder / MANIFEST).read_bytes()
    with content(whole.folder / INDEX, json.dumps(index).encode()), content(whole.folder / MANIFEST, manifest):
        vouch(whole.folder)
        assert named(whole.verify()) == {SHARD}


def test_texts_that_break_parsers_are_named(built: Built) -> None:
    for text in (b"[" * 100_000, b'{"a":' * 50_000, b"9" * 10_000, b"\xff\xfe", b'"\\ud800"', b"NaN", b"{}", b"null"):
        (built.folder / INDEX).write_bytes(text)
        vouch(built.folder)
        assert named(built.verify()) == {SHARD}
    (built.folder / MANIFEST).write_bytes(b"[" * 100_000)
    assert MANIFEST in named(built.verify())


def drop(name: str) -> Callable[[dict[str, Any]], Any]:
    return lambda sample: sample.pop(name)


def put(name: str, place: Any, value: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda sample: sample[name].__setitem__(place, value)


def layer(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[dict[str, Any]], Any]:
    return lambda sample: sample.__setitem__(name, change(sample[name]))


# What a faulty writer might write, and words of what is said of it. Checksums, index and manifest agree with it.
FAULTS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "no label": (drop("label.npy"), "but is to have dsm.npy, ground.npy, image.npy, label.npy"),
    "no heights": (drop("dsm.npy"), "it has ground.npy, image.npy, label.npy but"),
    "no image": (drop("image.npy"), "but is to have"),
    "no ground": (drop("ground.npy"), "but is to have"),
    "no json": (drop("json"), "it has no json"),
    "image too small": (layer("image.npy", lambda image: image[1:]), "image.npy is |u1 (127, 128, 3) instead of"),
    "image of one band": (layer("image.npy", lambda image: image[..., 0]), "image.npy is |u1 (128, 128) instead of"),
    "heights of bytes": (layer("dsm.npy", lambda dsm: dsm.astype(np.uint8)), "dsm.npy is |u1 (128, 128) instead of"),
    "heights as floats": (layer("dsm.npy", lambda dsm: dsm.astype(np.float32)), "is no .npy of uint8 or uint16"),
    "ground too small": (layer("ground.npy", lambda cells: cells[1:]), "ground.npy is <u2"),
    "label of shorts": (layer("label.npy", lambda label: label.astype(np.uint16)), "label.npy is <u2"),
    "unknown class": (put("label.npy", (4, 4), 3), "its label has 1 pixels of id 3, but there are 3 classes"),
    "a height missing": (put("dsm.npy", (4, 4), 65535), "its DSM has 1 pixels without a height"),
    "a ground missing": (put("ground.npy", (0, 0), 65535), "its ground has 1 pixels without a height"),
    "too high": (put("dsm.npy", (4, 4), 9000), "its DSM spans"),
    "too low": (put("json", "dsm_offset_m", 30.0), "its DSM spans 30.00 to"),
    "ground too low": (put("json", "ground_offset_m", 30.0), "its ground spans 30.00 to"),
    "no offset": (lambda sample: sample["json"].pop("dsm_offset_m"), "its DSM has an offset of None m"),
    "another step": (put("json", "dsm_step_m", 0.1), "a step of 0.1 m, which is to be 0.01 m"),
    "ground elsewhere": (put("json", "ground_origin_px", [0.0, 0.0]), "its ground has cells of 2 px from (0.0, 0.0)"),
    "another TOP": (put("json", "top", "9_9"), "its TOP '9_9' is none of the folder's"),
    "another window": (put("json", "window", [0, 1, 128, 128]), "it is rows 0-127, columns 1-128 of TOP"),
    "a window beyond": (put("json", "window", [0, 400, 128, 128]), "is none of a TOP of 128 x 300"),
    "a window of another size": (put("json", "window", [0, 0, 64, 64]), "its window has a side of 64 pixels"),
    "no window": (lambda sample: sample["json"].pop("window"), "it does not say its window"),
    "no georeference": (put("json", "gsd_m", None), "its GSD is None m but its window's 0.5 m"),
    "another GSD": (put("json", "gsd_m", 0.51), "its GSD is 0.51 m but its window's 0.5 m"),
    "another CRS": (put("json", "crs", "EPSG:32632"), "its CRS is EPSG:32632 but its TOP's None"),
    "moved": (put("json", "transform", [0.5, 0.0, 1000.3, 0.0, -0.5, 2000.0]), "is not its window's"),
    "unknown words": (put("json", "height", 3), "its json height: Extra inputs are not permitted"),
    "an unknown layer": (lambda sample: sample.update({"mask.npy": sample["label.npy"]}), "mask.npy"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_a_faulty_writer_wrote_is_said(built: Built, fault: str) -> None:
    change, words = FAULTS[fault]
    samples = samples_of(built.folder)
    change(samples[1])
    rewrite(built, samples)
    vouch(built.folder)
    report = built.verify()
    assert named(report) == {SHARD}
    said = [str(finding) for finding in report.findings]
    assert any(words in sentence for sentence in said), said
    assert all(f"sample {samples[1]['__key__']}: " in sentence for sentence in said), said


CENSUS: dict[str, tuple[Callable[[list[dict[str, Any]]], list[dict[str, Any]]], str]] = {
    "in another order": (lambda samples: samples[::-1], "in another order than the plan"),
    "one missing": (lambda samples: samples[:1], "lacks 1 of its 2 planned samples, first 0000003-"),
    "one too many": (
        lambda samples: [*samples, samples[0] | {"__key__": "0000009-x"}],
        "1 samples that are not planned",
    ),
    "one twice": (lambda samples: [*samples, samples[0]], "more than once"),
}


@pytest.mark.parametrize("with_plan", [True, False])
@pytest.mark.parametrize("fault", CENSUS)
def test_the_census_finds_what_is_not_as_planned(built: Built, fault: str, with_plan: bool) -> None:
    change, words = CENSUS[fault]
    rewrite(built, change(samples_of(built.folder)))
    vouch(built.folder)
    report = built.verify(with_plan)
    assert named(report) == {SHARD}
    if with_plan:
        assert any(words in str(finding) for finding in report.findings), report.findings


def test_without_a_plan_windows_that_are_not_the_grid_are_found(built: Built) -> None:
    """A shard whose samples are whole and numbered rightly, but show one window twice."""
    samples = samples_of(built.folder)
    samples[1] = samples[0] | {"__key__": samples[1]["__key__"]}
    rewrite(built, samples)
    vouch(built.folder)
    problems = [finding.problem for finding in built.verify(with_plan=False).findings]
    assert any("of the 6 windows of its TOPs, 1 missing, first rows" in problem for problem in problems), problems
    assert any("1 more than once" in problem for problem in problems), problems


MANIFEST_FAULTS: dict[str, tuple[Callable[[dict[str, Any]], dict[str, Any]], str]] = {
    "samples": (lambda manifest: {"samples": 7}, "another number of samples"),
    "class_pixels": (lambda manifest: {"class_pixels": manifest["class_pixels"] | {"low": 1}}, "other pixels"),
    "void_pixels": (lambda manifest: {"void_pixels": 1}, "other pixels"),
    "dsm_range_m": (lambda manifest: {"dsm_range_m": [0.0, 1.0]}, "says heights of (0.0, 1.0) m but its TOPs have"),
    "plan": (lambda manifest: {"plan": "0" * 16}, "is the manifest of plan 0000000000000000"),
    "domain": (lambda manifest: {"domain": manifest["domain"] | {"stride": 64}}, "another domain"),
    "shards": (lambda manifest: {"shards": manifest["shards"][:2], "samples": 4}, "lists 2 shards"),
    "tops": (
        lambda manifest: {"tops": {**manifest["tops"], "1_9": manifest["tops"]["1_9"] | {"tiles": 4}}},
        "other TOPs",
    ),
}


@pytest.mark.parametrize("fault", MANIFEST_FAULTS)
def test_a_manifest_that_says_something_else_is_named(built: Built, fault: str) -> None:
    change, words = MANIFEST_FAULTS[fault]
    manifest = json.loads((built.folder / MANIFEST).read_bytes())
    vouch(built.folder, **change(manifest))
    report = built.verify()
    assert MANIFEST in named(report)
    assert any(words in str(finding) for finding in report.findings), report.findings


def test_heights_that_no_tile_has_are_found(built: Built) -> None:
    """The tiles cover all of each TOP, so its highest pixel is in one of them."""
    manifest = json.loads((built.folder / MANIFEST).read_bytes())
    low, high = manifest["tops"]["1_9"]["dsm_range_m"]
    manifest["tops"]["1_9"]["dsm_range_m"] = [low, high + 5]
    hull = [manifest["dsm_range_m"][0], max(manifest["dsm_range_m"][1], high + 5)]
    vouch(built.folder, tops=manifest["tops"], dsm_range_m=hull)
    report = built.verify()
    assert any("in TOP 1_9 but its tiles have" in str(finding) for finding in report.findings), report.findings


def test_an_archive_without_georeference_is_no_error(make_town: Callable[..., Any], tmp_path: Path) -> None:
    town = make_town(tops=1, height=128, width=128, transform=None)
    report = build(town, tmp_path).verify()
    assert report.findings == []
    assert report.tally.georeferenced == 0


def test_a_target_has_no_labels(small_town: Any, tmp_path: Path) -> None:
    report = build(small_town, tmp_path, need_label=False).verify()
    assert report.findings == []
    assert report.tally.label_pixels.sum() == 0


# ------------------------------------------------------------------------------------------------------------- repair


def damage_content(folder: Path) -> None:
    text = bytearray((folder / SHARD).read_bytes())
    text[len(text) // 2] ^= 1
    (folder / SHARD).write_bytes(text)


def damage_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_bytes((folder / MANIFEST).read_bytes()[:-300])


def damage_surface(folder: Path) -> None:
    (folder / "surfaces" / "00001-2_10.json").write_text("{}")


DAMAGES: dict[str, tuple[Callable[[Path], Any], set[str]]] = {
    "a byte": (damage_content, {SHARD}),
    "a shard missing": (lambda folder: (folder / SHARD).unlink(), {SHARD}),
    "an index missing": (lambda folder: (folder / INDEX).unlink(), {SHARD}),
    "an index of nonsense": (lambda folder: (folder / INDEX).write_text("[]"), {SHARD}),
    "the manifest": (damage_manifest, {MANIFEST}),
    "the manifest missing": (lambda folder: (folder / MANIFEST).unlink(), {MANIFEST}),
    "the heights": (damage_surface, {"surfaces"}),
    "one too many": (lambda folder: shutil.copy(folder / SHARD, folder / "shard-000009.tar"), {"shard-000009.tar"}),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_repair_mends_what_is_bad_and_touches_nothing_else(
    built: Built, whole: Built, damage: str, contents: Callable[[Path], dict[str, bytes]]
) -> None:
    change, bad = DAMAGES[damage]
    change(built.folder)
    assert named(built.verify()) == bad
    touched = {SHARD, INDEX} if SHARD in bad else set()
    kept = [path for path in built.folder.glob("shard-00000[012].*") if path.name not in touched]
    before = {path: identity(path) for path in kept}
    report = verify_domain(built.domain, built.shards, need_label=True, repair=True, crew=QUIET)
    assert report.findings == []
    assert contents(built.folder) == contents(whole.folder)
    assert {path: identity(path) for path in kept} == before
    assert {Path(done.split(": was ")[0]).name for done in report.mended} == bad


def test_a_repair_says_when_it_gives_other_bytes_than_the_manifest_had(
    built: Built, whole: Built, contents: Callable[[Path], dict[str, bytes]]
) -> None:
    samples = samples_of(built.folder)
    samples[0]["json"]["crs"] = "EPSG:32632"
    rewrite(built, samples)
    vouch(built.folder)
    report = verify_domain(built.domain, built.shards, need_label=True, repair=True, crew=QUIET)
    assert report.findings == []
    assert "was built with other bytes than before" in report.mended[-1]
    assert contents(built.folder) == contents(whole.folder)


def test_a_repair_of_a_whole_folder_does_nothing(built: Built) -> None:
    before = {path: identity(path) for path in built.folder.rglob("*")}
    report = verify_domain(built.domain, built.shards, need_label=True, repair=True, crew=QUIET)
    assert report.findings == []
    assert report.mended == ()
    assert {path: identity(path) for path in built.folder.rglob("*")} == before


def test_shards_of_every_kind_of_damage_at_once(
    built: Built, whole: Built, contents: Callable[[Path], dict[str, bytes]]
) -> None:
    for change, _ in DAMAGES.values():
        change_if_there(change, built.folder)
    for path in built.folder.glob("shard-00000[02].tar"):
        os.truncate(path, 1000)
    assert verify_domain(built.domain, built.shards, need_label=True, repair=True, crew=QUIET).findings == []
    assert contents(built.folder) == contents(whole.folder)


def change_if_there(change: Callable[[Path], Any], folder: Path) -> None:
    """Apply a damage that an earlier one may have made impossible."""
    try:
        change(folder)
    except FileNotFoundError:
        return


def identity(path: Path) -> tuple[int, int]:
    state = path.stat()
    return state.st_ino, state.st_mtime_ns
