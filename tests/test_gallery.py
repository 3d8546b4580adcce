"""Samples are shown with the layers they have, each folder beside the other, and drawn by the seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from drdg.gallery import draw_gallery, pick, print_summary
from drdg.shards.store import ShardStore

Stores = tuple[ShardStore, ShardStore]


def test_each_layer_is_a_picture_and_each_folder_has_its_own(two_domains: Stores, tmp_path: Path) -> None:
    source, target = two_domains
    assert source.has_label
    assert not target.has_label
    widths = []
    for name, stores in (("source", {"a": source}), ("target", {"b": target}), ("both", {"a": source, "b": target})):
        draw_gallery(tmp_path / f"{name}.png", stores, 2, 0)
        with Image.open(tmp_path / f"{name}.png") as picture:
            widths.append(picture.width)
    assert widths[0] > widths[1]
    assert widths[2] == pytest.approx(widths[0] + widths[1], abs=2)


def test_labels_are_in_the_archives_colours(two_domains: Stores, tmp_path: Path) -> None:
    source, _ = two_domains
    (sample,) = pick(source, 1, 3)
    draw_gallery(tmp_path / "a.png", {"a": source}, 1, 3)
    with Image.open(tmp_path / "a.png") as picture:
        shown = np.asarray(picture.convert("RGB"))
    assert sample.label is not None
    for value, shade in enumerate(source.domain["palette"]):
        share = (sample.label == value).mean()
        assert (shown == shade).all(axis=-1).mean() > 0.15 * share, f"class {value} has {share:.0%} of the label"


def test_samples_are_drawn_by_the_seed_without_repetition(two_domains: Stores) -> None:
    source, _ = two_domains
    keys = [[sample.key for sample in pick(source, 5, seed)] for seed in range(4)]
    assert all(len(set(drawn)) == 5 and drawn == sorted(drawn) for drawn in keys)
    assert len(set(map(tuple, keys))) > 1
    assert keys[0] == [sample.key for sample in pick(source, 5, 0)]
    assert len(pick(source, 1000, 0)) == len(source)


def test_the_summary_is_what_the_manifest_says(two_domains: Stores, capsys: pytest.CaptureFixture[str]) -> None:
    print_summary(dict(zip(("a", "b"), two_domains, strict=True)))
    said = {line.split("  ")[0]: line for line in capsys.readouterr().out.splitlines()}
    assert said["samples"].split()[1:] == ["12", "in", "3", "shards", "8", "in", "2", "shards"]
    assert said["pixel"].split()[1:] == ["5", "cm", "9", "cm"]
    for name, top in two_domains[0].manifest["tops"].items():
        assert said[f"TOP {name}"].split()[2:4] == [str(top["tiles"]), "tiles"]
