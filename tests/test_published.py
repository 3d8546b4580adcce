"""Printed numbers: they are there, they add up where they must, and where they do not is known to the last cell."""

from __future__ import annotations

import pytest

from drdg.config import load_config
from drdg.datasets import CLASSES as DATASET_CLASSES
from drdg.datasets.direction import direction_of
from drdg.experiments import ROWS
from drdg.published import CLASSES, Deviation, Published, Table, check, f1_from_iou, published, published_for

IRRG, RGB = "potsdam_irrg_to_vaihingen", "potsdam_rgb_to_vaihingen"


def means(source: str, method: str) -> tuple[float, float | None]:
    (found,) = {
        (one.miou, one.mean_f1) for one in published_for(IRRG) if (one.table.source, one.method) == (source, method)
    }
    return found


def test_the_paper_s_tables() -> None:
    table = [one for one in published() if one.table.where.endswith("Table I")]
    assert [(one.method, one.row, one.miou, one.mean_f1) for one in table] == [
        ("Baseline", "baseline", 31.90, 44.29),
        ("Benjdira's", "benjdira", 38.45, 51.41),
        ("AdaptSegNet", "adaptsegnet", 44.12, 56.95),
        ("MUCSS", "mucss", 43.72, 56.48),
        ("RDG", "rdg", 51.75, 64.93),
        ("DRDG", "drdg", 53.26, 65.75),
    ]
    drdg = table[-1]
    assert (drdg.score("iou", "building"), drdg.score("f1", "building")) == (77.67, 87.41)
    assert (drdg.score("iou", None), drdg.score("f1", None)) == (53.26, 65.75)
    ablation = {one.row: one.miou for one in published() if one.table.where.endswith("Table II")}
    assert ablation == {"rdg": 51.75, "drdg_wo_dsl": 50.33, "drdg_wo_dccl": 52.93, "drdg": 53.26}


def test_what_two_tables_of_one_paper_both_print_is_the_same() -> None:
    assert means("DRDG", "RDG") == (51.75, 64.93)
    assert means("DRDG", "DRDG") == (53.26, 65.75)


def test_rdg_s_gain_over_adaptsegnet_is_what_its_abstract_says() -> None:
    rdg, before = means("RDG", "RDG with OSA"), means("DRDG", "AdaptSegNet")
    assert rdg[1] is not None
    assert before[1] is not None
    assert (rdg[0] - before[0], rdg[1] - before[1]) == pytest.approx((11.71, 11.09))


def test_only_what_nobody_could_read_is_unverified() -> None:
    unverified = {(one.table.source, one.table.direction) for one in published() if not one.table.verified}
    assert unverified == {("RDG, as cited", IRRG), ("RDG, as cited", RGB)}


def test_directions_rows_and_classes_are_those_of_the_suite(
    tmp_path: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(str(tmp_path))
    assert CLASSES == DATASET_CLASSES
    assert {one.row for one in published()} - {None} <= set(ROWS)
    assert published_for(direction_of(load_config(None)))
    assert {one.table.direction for one in published()} == {
        IRRG,
        RGB,
        "vaihingen_to_potsdam_irrg",
        "vaihingen_to_potsdam_rgb",
    }
    assert published_for("eugene_to_frankfort") == ()
    assert published_for("synthetic_potsdam_irrg_to_synthetic_vaihingen") == ()


def test_every_printed_mean_is_the_mean_of_its_classes() -> None:
    assert not [deviation for deviation in check() if deviation.what.startswith("mean")]


def deviations() -> dict[tuple[str, str, str], dict[str, float]]:
    found: dict[tuple[str, str, str], dict[str, float]] = {}
    for one in check():
        key = (one.published.table.source, one.published.table.direction, one.published.method)
        found.setdefault(key, {})[one.what.removeprefix("f1 of ")] = round(one.points, 2)
    return found


def test_exactly_these_f1_do_not_follow_from_their_iou() -> None:
    by_class = {key: [points.get(name) for name in CLASSES] for key, points in deviations().items()}
    assert by_class == {
        ("DRDG", IRRG, "Baseline"): [-0.75, -0.38, -0.52, -0.22, -0.31, -0.31],
        ("DRDG", IRRG, "Benjdira's"): [-3.01, -0.27, -0.89, -0.33, -0.34, -0.19],
        ("DRDG", IRRG, "AdaptSegNet"): [-2.03, -0.28, -0.65, -0.21, -0.44, -0.13],
        ("DRDG", IRRG, "MUCSS"): [-5.18, -0.35, -0.84, -0.32, -0.48, -0.19],
        ("DRDG", IRRG, "RDG"): [-2.03, -0.03, -0.09, -0.02, -0.14, -0.02],
        ("DRDG", IRRG, "DRDG"): [-1.42, -0.02, -0.08, -0.02, -0.10, -0.02],
        ("RDG, as cited", IRRG, "RDG with OSA"): [-2.43, -0.03, -0.11, -0.03, -0.10, None],
        ("RDG, as cited", RGB, "RDG with OSA"): [-2.28, -0.06, -0.15, -0.04, -0.13, -0.04],
    }


def test_clutter_is_off_most_and_all_fall_short_as_means_over_batches_do() -> None:
    for points in deviations().values():
        assert min(points, key=lambda name: points[name]) == "clutter"
        assert max(points.values()) < 0
    batches = [10.0, 90.0]
    assert sum(map(f1_from_iou, batches)) / 2 < f1_from_iou(sum(batches) / 2)


def test_a_slip_of_a_digit_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    table = Table("A paper", "a table", IRRG, True, "")
    iou = dict(zip(CLASSES, [10.0, 20.0, 30.0, 40.0, 50.0, 60.0], strict=True))
    f1 = {name: round(f1_from_iou(value), 2) for name, value in iou.items()}
    mean = round(sum(f1.values()) / 6, 2)
    right = Published(table, "right", 35.0, mean, None, iou, f1)
    wrong = Published(table, "wrong", 36.0, mean, None, iou, {**f1, "car": f1["car"] + 0.1})
    monkeypatch.setattr("drdg.published.published", lambda: (right, wrong))
    found: list[Deviation] = check()
    said = {(one.published.method, one.what) for one in found}
    assert said == {("wrong", "mean iou"), ("wrong", "f1 of car"), ("wrong", "mean f1")}
