from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from affine import Affine

from drdg.datasets import open_archive
from drdg.shards.plan import Plan, make_plan


def plan_of(town: Any, *, need_label: bool = True, shards: dict[str, Any] | None = None, **knobs: Any) -> Plan:
    domain = town.domain(**knobs)
    return make_plan(open_archive(domain.archive), domain, town.shards(**(shards or {})), need_label=need_label)


def test_every_window_of_every_top_is_planned_once(shared_town: Any) -> None:
    plan = plan_of(shared_town)
    tiles = [tile for shard in plan.shards for tile in shard]
    assert len({tile.key for tile in tiles}) == len(tiles) == plan.num_tiles == 3 * 2 * 4
    assert Counter((tile.top, tile.window.row, tile.window.col) for tile in tiles) == Counter(
        (top, row, col) for top in range(3) for row in (0, 96) for col in (0, 96, 192, 288)
    )
    assert [len(shard) for shard in plan.shards] == [5, 5, 5, 5, 4]
    assert plan.num_bytes == 24 * 128 * 128 * 6
    assert all("." not in tile.key for tile in tiles)


def test_tiles_of_a_top_are_spread_over_the_shards(shared_town: Any) -> None:
    plan = plan_of(shared_town, stride=32)
    assert all(len({tile.top for tile in shard}) > 1 for shard in plan.shards)
    one, other = plan_of(shared_town), plan_of(shared_town, shards={"seed": 1})
    assert [t.window for s in one.shards for t in s] != [t.window for s in other.shards for t in s]


def test_the_plan_is_pure_and_knows_no_path(shared_town: Any, tmp_path: Path) -> None:
    plan = plan_of(shared_town)
    assert plan_of(shared_town) == plan
    shutil.copytree(shared_town.root, tmp_path / "moved")
    moved = plan_of(shared_town, archive={"root": tmp_path / "moved"}, shards={"root": tmp_path})
    assert (moved.digest, moved.name, moved.shards) == (plan.digest, plan.name, plan.shards)
    assert plan.name == f"town-all-128-96-{plan.digest[:8]}"


def test_whatever_changes_the_bytes_changes_the_digest(shared_town: Any, make_town: Callable[..., Any]) -> None:
    digests = [
        plan_of(shared_town).digest,
        plan_of(shared_town, need_label=False).digest,
        plan_of(shared_town, stride=128).digest,
        plan_of(shared_town, tile=256).digest,
        plan_of(shared_town, edge="shift").digest,
        plan_of(shared_town, shards={"seed": 1}).digest,
        plan_of(shared_town, shards={"samples_per_shard": 6}).digest,
        plan_of(shared_town, archive={"bands": (3, 2, 1)}).digest,
        plan_of(shared_town, archive={"void": [(0, 0, 0), (1, 1, 1)]}).digest,
        plan_of(shared_town, archive={"splits": {"val": ["1_9"]}}, split="val").digest,
        plan_of(make_town(seed=1)).digest,  # same names, sizes and georeference, other pixels
    ]
    assert len(set(digests)) == len(digests)


def test_labels_do_not_count_where_they_are_not_needed(make_town: Callable[..., Any]) -> None:
    town = make_town()
    before = plan_of(town, need_label=False)
    shutil.rmtree(town.root / "label")
    assert plan_of(town, need_label=False, archive={"label": None}).shards == before.shards
    with pytest.raises(ValueError, match="no label"):
        plan_of(town, archive={"label": None})


def test_a_tile_larger_than_a_top_is_refused(shared_town: Any) -> None:
    with pytest.raises(ValueError, match=r"1_9\.tif: no window of tile=384 fits into its 300 x 420 pixels; take"):
        plan_of(shared_town, tile=384)


@pytest.mark.parametrize(("gsd", "refused"), [(0.502, False), (0.51, True), (None, True)])
def test_one_domain_has_one_gsd(
    make_town: Callable[..., Any], write_tiff: Callable[..., None], gsd: float | None, refused: bool
) -> None:
    town = make_town()
    transform = Affine(gsd, 0, 0, 0, -gsd, 0) if gsd else None
    write_tiff(town.root / "top/2_10.tif", town.images["2_10"], transform=transform)
    if not refused:
        assert plan_of(town).gsd_m == 0.5
        return
    with pytest.raises(ValueError, match=r"2_10\.tif: its GSD is .* but that of .*1_9\.tif is 0\.5 m; one domain"):
        plan_of(town)


def test_a_domain_without_georeference_has_no_gsd(make_town: Callable[..., Any]) -> None:
    assert plan_of(make_town(transform=None)).gsd_m is None


def test_a_domain_without_dsm_is_planned_without(shared_town: Any) -> None:
    plan = plan_of(shared_town, archive={"dsm": None})
    assert not plan.with_dsm
    assert plan.num_bytes == 24 * 128 * 128 * 4
    assert np.all([top.files[1] is None for top in plan.planned])
