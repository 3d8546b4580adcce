"""Archives: the parts all of them share."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from drdg.datasets import CLASSES, PALETTE, VOID, Archive, Top
from drdg.datasets.base import natural_key
from drdg.datasets.labels import CubeCorners


def archive(**changes) -> Archive:
    tops = (
        Top("6_7", Path("6_7.tif"), Path("6_7_dsm.tif"), Path("6_7_label.tif")),
        Top("6_10", Path("6_10.tif"), Path("6_10_dsm.tif")),
    )
    values = {"name": "town", "tops": tops, "bands": (1, 2, 3), "classes": CLASSES, "palette": PALETTE}
    return Archive(**{**values, **changes})


def test_ids_are_the_papers_table_order():
    assert CLASSES == ("clutter", "impervious_surface", "car", "tree", "low_vegetation", "building")
    assert dict(zip(CLASSES, PALETTE, strict=True))["car"] == (255, 255, 0)


def test_natural_order_reads_numbers():
    assert sorted(["6_10", "6_7", "area2", "area10", "b"], key=natural_key) == ["6_7", "6_10", "area2", "area10", "b"]


def test_all_is_always_a_split():
    assert [top.id for top in archive().split("all")] == ["6_7", "6_10"]
    assert list(archive(splits={"val": ("6_7",)}).splits) == ["all", "val"]


def test_unknown_split_names_those_there_are():
    with pytest.raises(ValueError, match="archive town has no split 'tset'; it has all, val"):
        archive(splits={"val": ("6_7",)}).split("tset")


def test_empty_split_is_refused():
    with pytest.raises(ValueError, match=r"split 'val' of archive town is empty; .* take another \(all\)"):
        archive(splits={"val": ()}).split("val")


def test_missing_labels_are_refused_only_when_needed():
    town = archive(splits={"val": ("6_7",)}, label_place="here/labels")
    assert town.split("all")[1].label is None
    assert [top.id for top in town.split("val", need_label=True)] == ["6_7"]
    with pytest.raises(
        ValueError, match=r"6_10.tif: has no label, nor have 0 more of the 2 .*put labels in here/labels"
    ):
        town.split("all", need_label=True)


@pytest.mark.parametrize(
    "changes",
    [
        {"tops": (Top("2", Path("a")), Top("1", Path("b")))},
        {"tops": (Top("1", Path("a")), Top("1", Path("b")))},
        {"tops": (Top("1.5", Path("a")),)},
        {"splits": {"val": ("6_10", "6_7")}},
        {"splits": {"val": ("9_9",)}},
        {"palette": PALETTE[:5]},
    ],
)
def test_our_own_mistakes_are_asserted(changes):
    with pytest.raises(AssertionError):
        archive(**changes)


def test_default_labels_are_the_palettes_colours():
    raw = np.array([[[0, 255, 0]], [[0, 0, 255]], [[255, 0, 0]]], dtype=np.uint8)  # blue, red, green
    assert archive().decode_label(raw, Path("x.tif")).tolist() == [[5, 0, 3]]
    raw[:, 0, 0] = 0
    assert archive().decode_label(raw, Path("x.tif"))[0, 0] == VOID
    raw[:, 0, 0] = 7
    with pytest.raises(ValueError, match=r"x.tif: label has the unknown colour \(7, 7, 7\) in 1 of 3 pixels"):
        archive().decode_label(raw, Path("x.tif"))


def test_an_archive_travels_to_another_process():
    town = archive(labels=CubeCorners(PALETTE))
    assert pickle.loads(pickle.dumps(town)) == town
