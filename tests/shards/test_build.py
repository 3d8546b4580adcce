from __future__ import annotations

import errno
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drdg.datasets import open_archive
from drdg.files import SEAL, seal, write_json
from drdg.shards import build as build_module
from drdg.shards import unpack
from drdg.shards.build import build_shards, find_shards
from drdg.shards.crew import Alone
from drdg.shards.plan import make_plan
from drdg.shards.store import ShardStore
from drdg.shards.writer import MANIFEST, index_path

Contents = Callable[[Path], dict[str, bytes]]


def build(town: Any, root: Path, *, need_label: bool = True, **knobs: Any) -> Path:
    return build_shards(town.domain(**knobs), town.shards(root=root), need_label=need_label)


@pytest.fixture(scope="module")
def built(shared_town: Any) -> Path:
    return build(shared_town, shared_town.root / "built")


def test_samples_are_the_windows_of_the_tops(shared_town: Any, built: Path) -> None:
    store = ShardStore(built)
    seen = set()
    for sample in (store[index] for index in range(len(store))):
        top = sample.meta["top"]
        row, col, height, width = sample.meta["window"]
        window = (slice(row, row + height), slice(col, col + width))
        assert np.array_equal(sample.image, shared_town.images[top][window])
        assert np.array_equal(sample.label, shared_town.ids[top][window])
        assert np.abs(sample.dsm_m - shared_town.heights[top][window]).max() <= 0.0051
        assert sample.meta["transform"] == [0.5, 0, 1000 + 0.5 * col, 0, -0.5, 2000 - 0.5 * row]
        assert (sample.meta["gsd_m"], sample.meta["crs"], sample.meta["dsm_step_m"]) == (0.5, None, 0.01)
        seen.add((top, row, col))
    assert len(seen) == len(store) == 24


def test_the_manifest_describes_the_domain(shared_town: Any, built: Path) -> None:
    manifest = json.loads((built / MANIFEST).read_text())
    heights = shared_town.heights
    assert manifest["dsm_range_m"] == [min(h.min() for h in heights.values()), max(h.max() for h in heights.values())]
    for top, array in heights.items():
        entry = manifest["tops"][top]
        assert entry["dsm_range_m"] == [array.min(), array.max()]
        assert (entry["height"], entry["width"], entry["tiles"], entry["gsd_m"]) == (300, 420, 8, 0.5)
    assert manifest["domain"] == {
        "archive": "town",
        "split": "all",
        "tile": 128,
        "stride": 96,
        "edge": "drop",
        "gsd_m": 0.5,
        "classes": ["low", "building", "tree"],
        "palette": [[0, 255, 255], [0, 0, 255], [0, 255, 0]],
        "dsm": True,
        "label": True,
        "codec": "raw",
    }
    labels = np.concatenate([ShardStore(built)[index].label.ravel() for index in range(24)])
    assert list(manifest["class_pixels"].values()) == [int((labels == i).sum()) for i in range(3)]
    assert manifest["void_pixels"] == int((labels == 255).sum())


def test_the_ground_is_the_terrain_under_the_houses(shared_town: Any, built: Path) -> None:
    store = ShardStore(built)
    errors = []
    for index in range(len(store)):
        sample = store[index]
        col, width = sample.meta["window"][1::2]
        terrain = np.linspace(40, 46, 420)[col : col + width] + list(shared_town.heights).index(sample.meta["top"])
        errors.append(sample.ground_m - terrain)
    assert np.abs(errors).mean() < 0.5


def test_tiles_that_overlap_have_the_same_ground(built: Path) -> None:
    store = ShardStore(built)
    whole = np.full((2, 300, 420), np.nan)
    for index in range(len(store)):
        sample = store[index]
        if sample.meta["top"] == "1_9":
            row, col, height, width = sample.meta["window"]
            part = whole[:, row : row + height, col : col + width]
            part[:] = [np.fmin(part[0], sample.ground_m), np.fmax(part[1], sample.ground_m)]
    assert np.nanmax(whole[1] - whole[0]) <= 0.0101


def test_labels_are_written_only_if_needed(shared_town: Any, tmp_path: Path) -> None:
    folder = build(shared_town, tmp_path, need_label=False)
    store = ShardStore(folder)
    assert not store.has_label
    assert store[0].label is None
    assert b"label" not in (folder / "shard-000000.tar").read_bytes()


def test_without_dsm_there_is_none(shared_town: Any, tmp_path: Path) -> None:
    store = ShardStore(build(shared_town, tmp_path, archive={"dsm": None}))
    assert (store.has_dsm, store.has_ground, store[0].dsm_m, store[0].ground_m) == (False, False, None, None)
    assert store.manifest["dsm_range_m"] is None


def test_without_georeference_there_is_no_ground(make_town: Callable[..., Any], tmp_path: Path) -> None:
    store = ShardStore(build(make_town(transform=None), tmp_path))
    assert (store.has_dsm, store.has_ground, store[0].ground_m) == (True, False, None)
    assert store.manifest["domain"]["gsd_m"] is None


def test_building_again_elsewhere_gives_the_same_bytes(
    shared_town: Any, built: Path, tmp_path: Path, contents: Contents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpack, "BAND_ROWS", 7)
    assert contents(build(shared_town, tmp_path)) == contents(built)


@pytest.mark.parametrize("codec", ["raw", "zstd"])
def test_any_number_of_cores_gives_the_same_bytes(
    shared_town: Any, tmp_path: Path, contents: Contents, codec: str
) -> None:
    found = []
    for cores in (1, 2, 5):
        crew = Alone()
        crew.cores = cores
        shards = shared_town.shards(root=tmp_path / str(cores), codec=codec)
        found.append(contents(build_shards(shared_town.domain(), shards, need_label=True, crew=crew)))
    assert found[0] == found[1] == found[2]


def test_zstd_holds_the_same_samples(shared_town: Any, built: Path, tmp_path: Path) -> None:
    raw = ShardStore(built)
    folder = build_shards(shared_town.domain(), shared_town.shards(root=tmp_path, codec="zstd"), need_label=True)
    packed = ShardStore(folder)
    assert folder.name != built.name
    assert packed.domain == raw.domain | {"codec": "zstd"}
    assert packed.manifest["class_pixels"] == raw.manifest["class_pixels"]
    for index in range(len(raw)):
        one, other = raw[index], packed[index]
        assert one.meta == other.meta
        for name in ("image", "dsm_steps", "ground_steps", "label"):
            assert np.array_equal(getattr(one, name), getattr(other, name))


def test_what_another_nodes_killed_process_left_is_cleared_away(
    shared_town: Any, built: Path, tmp_path: Path, contents: Contents
) -> None:
    folder = tmp_path / built.name
    for name in (".shard-000001.tar.another-node-7.tmp", "scratch/.00000-1_9.image.npy.another-node-7.tmp"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"a part")
    build(shared_town, tmp_path)
    assert contents(folder) == contents(built)


def test_two_builds_of_one_folder_at_once_both_end_well(
    shared_town: Any, built: Path, tmp_path: Path, contents: Contents
) -> None:
    fork = multiprocessing.get_context("fork")
    for _ in range(5):
        children = [fork.Process(target=build, args=(shared_town, tmp_path / "both")) for _ in range(3)]
        for child in children:
            child.start()
        for child in children:
            child.join()
        assert [child.exitcode for child in children] == [0, 0, 0]
        assert contents(tmp_path / "both" / built.name) == contents(built)
        shutil.rmtree(tmp_path / "both")


def test_scratch_that_a_finished_build_took_away_is_not_missed(
    shared_town: Any, built: Path, tmp_path: Path, contents: Contents, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_encoded, others = build_module.write_encoded, []

    def after_another_build(*arguments: Any) -> None:
        if not others:
            others.append(build(shared_town, tmp_path))
        write_encoded(*arguments)

    def build_of_the_other(*arguments: Any) -> None:
        monkeypatch.setattr(build_module, "write_encoded", write_encoded)
        after_another_build(*arguments)

    monkeypatch.setattr(build_module, "write_encoded", build_of_the_other)
    folder = build(shared_town, tmp_path)
    assert others == [folder]
    assert contents(folder) == contents(built)


def test_a_file_that_changes_while_it_is_read_is_refused(make_town: Callable[..., Any], tmp_path: Path) -> None:
    town = make_town()
    label = town.root / "label/2_10.tif"
    domain = town.domain()
    plan = make_plan(open_archive(domain.archive), domain, town.shards(), need_label=True)
    label.write_bytes(label.read_bytes() + b"\0")
    unpack.unpack_top(plan, 0, tmp_path / "folder")
    with pytest.raises(ValueError, match=r"label/2_10\.tif: was changed while shards were built from it"):
        unpack.unpack_top(plan, 1, tmp_path / "folder")


def test_a_finished_folder_is_left_alone(shared_town: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = build(shared_town, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    monkeypatch.setattr(build_module, "write_encoded", None)
    assert build(shared_town, tmp_path) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_built_shards_are_found(shared_town: Any, built: Path, tmp_path: Path) -> None:
    domain = shared_town.domain()
    assert find_shards(domain, shared_town.shards(root=built.parent), need_label=True) == built
    with pytest.raises(ValueError, match=r"these shards are not built; run shards/build\.py"):
        find_shards(domain, shared_town.shards(root=tmp_path), need_label=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("what", ["truncated", "missing", "index", "no index"])
def test_building_again_mends_a_damaged_folder(
    shared_town: Any, built: Path, tmp_path: Path, contents: Contents, what: str
) -> None:
    folder = build(shared_town, tmp_path)
    shard = folder / "shard-000002.tar"
    if what == "truncated":
        shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    elif what == "missing":
        shard.unlink()
    elif what == "index":
        index_path(shard).write_text(index_path(shard).read_text().replace('"image.npy"', '"imagE.npy"'))
    else:
        index_path(shard).unlink()
    build(shared_town, tmp_path)
    assert contents(folder) == contents(built)


def test_the_manifest_of_another_plan_is_refused(shared_town: Any, tmp_path: Path) -> None:
    folder = build(shared_town, tmp_path)
    manifest = json.loads((folder / MANIFEST).read_text())
    del manifest[SEAL]
    write_json(folder / MANIFEST, seal(manifest | {"plan": "0123456789abcdef"}))
    with pytest.raises(ValueError, match=r"manifest\.json: is the manifest of another plan; remove the folder"):
        build(shared_town, tmp_path)


def test_a_gap_in_a_dsm_ends_the_build_unfinished(
    make_town: Callable[..., Any], write_tiff: Callable[..., None], tmp_path: Path
) -> None:
    town = make_town()
    heights = town.heights["2_10"].copy()
    heights[7, 8:10] = np.nan
    write_tiff(town.root / "dsm/2_10.tif", heights)
    with pytest.raises(ValueError, match=r"2_10\.tif: 2 pixels in .* have no height .* gdal_fillnodata"):
        build(town, tmp_path)
    assert not list(tmp_path.rglob(MANIFEST))
    assert not list(tmp_path.rglob("*.tar*"))


def test_a_file_cut_in_half_ends_the_build_unfinished(make_town: Callable[..., Any], tmp_path: Path) -> None:
    town = make_town()
    path = town.root / "top/3_11.tif"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=r"top/3_11\.tif: cannot be read .* damaged or cut short"):
        build(town, tmp_path)
    assert not list(tmp_path.rglob(MANIFEST))
    assert not list(tmp_path.rglob(".*.tmp"))


def test_a_relief_that_does_not_fit_names_file_and_window(
    make_town: Callable[..., Any], write_tiff: Callable[..., None], tmp_path: Path
) -> None:
    town = make_town(tops=1)
    heights = town.heights["1_9"].copy()
    heights[0, 0] = 900
    write_tiff(town.root / "dsm/1_9.tif", heights)
    with pytest.raises(ValueError, match=r"dsm/1_9\.tif \(rows 0-127, columns 0-127\): heights differ by"):
        build(town, tmp_path)


def test_a_root_that_is_no_folder_is_named(shared_town: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"cannot be written \(Not a directory\); .* shards\.root"):
        build(shared_town, tmp_path / "file")


def test_a_full_disk_keeps_what_is_whole(
    shared_town: Any, built: Path, tmp_path: Path, contents: Contents, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync
    calls = iter(range(1000))

    def full_later(descriptor: int) -> None:
        if next(calls) > 20:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full_later)
    with pytest.raises(ValueError, match=r"cannot be written \(No space left on device\); make room"):
        build(shared_town, tmp_path)
    (folder,) = tmp_path.iterdir()
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("*.tar") if index_path(path).exists()}
    assert kept
    assert not list(folder.rglob(".*.tmp"))
    monkeypatch.setattr(os, "fsync", fsync)
    build(shared_town, tmp_path)
    assert contents(folder) == contents(built)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def _run(town: Any, root: Path, kill_at: int | None, steps: Any = None) -> None:
    """In a child: count every call and return of Python and C functions, and die by SIGKILL at one of them."""
    count = 0

    def step(*_: object) -> None:
        nonlocal count
        count += 1
        if count == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.stderr = open(os.devnull, "w")  # noqa: SIM115, PTH123
    sys.setprofile(step)
    build(town, root)
    sys.setprofile(None)
    if steps is not None:
        steps.value = count
    os._exit(0)


def test_a_build_killed_anywhere_goes_on_to_the_same_bytes(
    shared_town: Any, built: Path, tmp_path: Path, contents: Contents
) -> None:
    fork = multiprocessing.get_context("fork")

    def run(root: Path, *arguments: Any) -> int | None:
        child = fork.Process(target=_run, args=(shared_town, root, *arguments))
        child.start()
        child.join()
        return child.exitcode

    steps = fork.Value("q", 0)
    assert run(tmp_path / "counted", None, steps) == 0
    rng = random.Random(0)
    unfinished = 0
    for number in range(16):
        folder = tmp_path / str(number) / built.name
        for kill_at in (rng.randrange(steps.value) for _ in range(3)):
            if run(folder.parent, kill_at) == 0:  # what was left to do was less
                break
            if not (folder / MANIFEST).exists():
                unfinished += 1
                with pytest.raises(ValueError, match="not a finished folder"):
                    ShardStore(folder)
        build(shared_town, folder.parent)
        assert contents(folder) == contents(built)
    assert unfinished >= 20
