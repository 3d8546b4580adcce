from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rasterio.env import get_gdal_config

from drdg.datasets import open_archive
from drdg.shards import unpack
from drdg.shards.crew import Alone
from drdg.shards.plan import Plan, make_plan
from drdg.shards.unpack import SCRATCH, SURFACES, UnpackedTops, has_surface, height_range_m, unpack_top
from drdg.tiles.raster import TopReader
from drdg.tiles.windows import Window


@pytest.fixture
def plan(shared_town: Any) -> Plan:
    return plan_of(shared_town)


def plan_of(town: Any, **knobs: Any) -> Plan:
    domain = town.domain(**knobs)
    return make_plan(open_archive(domain.archive), domain, town.shards(), need_label=True)


class Counting(Alone):
    """A crew of one that counts how often it is polled."""

    def __init__(self, cores: int) -> None:
        super().__init__()
        self.cores = cores
        self.polls = 0

    def poll(self) -> None:
        self.polls += 1


@pytest.mark.parametrize("cores", [1, 2, 3])
def test_a_top_is_unpacked_as_it_is(
    shared_town: Any, plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cores: int
) -> None:
    monkeypatch.setattr(unpack, "BAND_ROWS", 16)
    crew = Counting(cores)
    for number in range(len(plan.tops)):
        assert not has_surface(plan, number, tmp_path)
        unpack_top(plan, number, tmp_path, crew)
    assert cores > 1 or crew.polls == 3 * 3 * -(-300 // 16)
    tops = UnpackedTops(plan, tmp_path)
    for number, planned in enumerate(plan.planned):
        top = tops[number]
        assert np.array_equal(top.image, shared_town.images[planned.id])
        assert top.label is not None
        assert np.array_equal(top.label, shared_town.ids[planned.id])
        assert top.steps is not None
        heights = shared_town.heights[planned.id]
        assert np.array_equal(top.steps, np.rint(heights.astype(float) * 100))
        assert height_range_m(plan, number, tmp_path) == [heights.min(), heights.max()]
        assert top.surface is not None
        assert (top.surface.low_m, top.surface.high_m, top.surface.cell_px) == (heights.min(), heights.max(), 2)


def test_what_is_whole_is_not_read_again(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unpack_top(plan, 0, tmp_path)
    monkeypatch.setattr(unpack, "TopReader", None)
    unpack_top(plan, 0, tmp_path)


@pytest.mark.parametrize("layer", ["image", "dsm", "label"])
@pytest.mark.parametrize("damage", ["a byte", "cut", "missing", "record"])
def test_what_a_power_cut_spoilt_is_unpacked_again(plan: Plan, tmp_path: Path, layer: str, damage: str) -> None:
    unpack_top(plan, 0, tmp_path)
    (path,) = (tmp_path / SCRATCH).glob(f"*.{layer}.npy")
    before = path.read_bytes()
    if damage == "a byte":
        path.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    elif damage == "cut":
        path.write_bytes(before[:-1])
    elif damage == "missing":
        path.unlink()
    else:
        (record,) = (tmp_path / SCRATCH).glob("*.json")
        record.write_bytes(b"[" if layer == "dsm" else b"[]")
        path.write_bytes(b"")
    unpack_top(plan, 0, tmp_path)
    assert path.read_bytes() == before


def test_a_lost_surface_is_found_again(plan: Plan, tmp_path: Path) -> None:
    unpack_top(plan, 0, tmp_path)
    files = {path: path.read_bytes() for path in (tmp_path / SURFACES).iterdir()}
    for path in files:
        path.unlink()
    unpack_top(plan, 0, tmp_path)
    assert {path: path.read_bytes() for path in (tmp_path / SURFACES).iterdir()} == files


def test_only_what_the_archive_has_is_unpacked(shared_town: Any, tmp_path: Path) -> None:
    plan = plan_of(shared_town, archive={"dsm": None})
    unpack_top(plan, 0, tmp_path)
    assert has_surface(plan, 0, tmp_path)
    assert not (tmp_path / SURFACES).exists()
    top = UnpackedTops(plan, tmp_path)[0]
    assert (top.steps, top.surface) == (None, None)


def test_one_top_stays_mapped(plan: Plan, tmp_path: Path) -> None:
    for number in range(2):
        unpack_top(plan, number, tmp_path)
    tops = UnpackedTops(plan, tmp_path)
    first = tops[0]
    assert tops[0] is first
    assert tops[1] is not first
    assert tops[0] is not first


@pytest.mark.parametrize("cores", [1, 2])
def test_a_gap_leaves_nothing_behind(
    make_town: Callable[..., Any], write_tiff: Callable[..., None], tmp_path: Path, cores: int
) -> None:
    town = make_town()
    heights = town.heights["1_9"].copy()
    heights[299, 7] = np.nan
    write_tiff(town.root / "dsm/1_9.tif", heights)
    with pytest.raises(ValueError, match=r"1_9\.tif: 1 pixels in .* have no height"):
        unpack_top(plan_of(town), 0, tmp_path / "folder", Counting(cores))
    assert not [path for path in (tmp_path / "folder").rglob("*") if path.is_file()]


def test_bands_are_whole_cells_of_any_width() -> None:
    assert unpack._band_rows(6000, 20) == 500
    assert unpack._band_rows(60_000, 20) == 40
    assert unpack._band_rows(10**7, 20) == 20
    assert unpack._band_rows(100, 1) == 512


def test_gdal_keeps_a_row_of_blocks_and_no_share_of_the_memory(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    read = TopReader.read_image

    def look(reader: TopReader, window: Window) -> np.ndarray:
        seen.append(get_gdal_config("GDAL_CACHEMAX"))
        return read(reader, window)

    monkeypatch.setattr(TopReader, "read_image", look)
    before = get_gdal_config("GDAL_CACHEMAX")
    unpack_top(plan, 0, tmp_path)
    assert set(seen) == {unpack.LEAST_CACHE_BYTES}
    monkeypatch.setattr(TopReader, "row_of_blocks_bytes", property(lambda reader: 40 << 20))
    unpack_top(plan, 1, tmp_path)
    assert seen[-1] == 60 << 20
    assert get_gdal_config("GDAL_CACHEMAX") == before
