"""Scores of whole TOPs against a count that shares nothing with the suite's, and what is left on disk."""

from __future__ import annotations

import json

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from torch import nn

from drdg.config import load_config
from drdg.datasets import VOID, Archive, Top
from drdg.inference.evaluate import count_pixels, evaluate

CLASSES = ("dark", "bright", "never")
PALETTE = ((10, 0, 0), (0, 20, 0), (0, 0, 30))
SIZES = {"1": (150, 170), "2": (40, 300), "3": (130, 128)}
PLACE = Affine(0.09, 0, 1000, 0, -0.09, 2000)


class Threshold(nn.Module):
    """Calls a pixel class 1 when its first band is above one half, else class 0."""

    requires_divisible_input_shape = False

    def __init__(self):
        super().__init__()
        self.level = nn.Parameter(torch.tensor(0.5))

    def forward(self, x):
        bright = (x[:, 0] > self.level).float()
        return torch.stack((1 - bright, bright, 0 * bright - 5), 1)


@pytest.fixture
def archive(tmp_path):
    """Three TOPs whose labels disagree with a threshold at some pixels; the third has no label."""
    generator = np.random.default_rng(7)
    tops = []
    for name, (height, width) in SIZES.items():
        image = generator.integers(0, 256, (3, height, width), dtype=np.uint8)
        _write(tmp_path / f"image{name}.tif", image, PLACE, "EPSG:32632")
        label = None
        if name != "3":
            label = tmp_path / f"label{name}.tif"
            ids = np.where(generator.random((height, width)) < 0.8, image[0] > 127, image[1] > 127).astype(np.uint8)
            ids[generator.random((height, width)) < 0.1] = VOID
            colours = np.zeros((256, 3), np.uint8)
            colours[: len(PALETTE)] = PALETTE
            _write(label, np.moveaxis(colours[ids], -1, 0), PLACE, None)
        tops.append(Top(name, tmp_path / f"image{name}.tif", None, label))
    splits = {"test": ("1", "2"), "mixed": ("2", "3"), "none": ()}
    return Archive("town", tuple(tops), (1, 2, 3), CLASSES, PALETTE, splits)


def _write(path, bands, transform, crs):
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=len(bands),
        height=bands.shape[1],
        width=bands.shape[2],
        dtype=bands.dtype,
        transform=transform,
        crs=crs,
    ) as file:
        file.write(bands)


def config(*overrides):
    return load_config(None, ["evaluation.window=128", *overrides])


def counted(archive, names):
    """Confusion counts by plain comparison of pixels with the label colours."""
    counts = np.zeros((3, 3), int)
    for name in names:
        top = next(top for top in archive.tops if top.id == name)
        with rasterio.open(top.image) as image, rasterio.open(top.label) as label:
            guess, colours = image.read(1) > 127, label.read()
        for i, colour in enumerate(PALETTE):
            here = (colours == np.array(colour)[:, None, None]).all(0)
            counts[i, 0] += (here & ~guess).sum()
            counts[i, 1] += (here & guess).sum()
    return counts


def test_scores_maps_and_metrics_of_a_split(archive, tmp_path):
    segmentor = Threshold().train()
    metrics = evaluate(config(), segmentor, archive, tmp_path / "out", quiet=True)
    counts = counted(archive, ["1", "2"])
    assert metrics["confusion"] == counts.tolist()
    assert list(metrics["confusion_by_top"]) == metrics["tops"]
    assert np.sum(list(metrics["confusion_by_top"].values()), axis=0).tolist() == counts.tolist()
    assert counts[:2, :2].min() > 0
    assert metrics["tops"] == ["1", "2"]
    assert metrics["split"] == "test"
    assert metrics["classes"] == list(CLASSES)
    assert metrics["absent"] == ["never"]
    iou = [100 * counts[i, i] / (counts[i].sum() + counts[:, i].sum() - counts[i, i]) for i in range(2)]
    assert metrics["iou"] == pytest.approx({"dark": iou[0], "bright": iou[1]})
    assert metrics["miou"] == pytest.approx(np.mean(iou))
    assert metrics["oa"] == pytest.approx(100 * np.trace(counts) / counts.sum())
    assert set(metrics["f1"]) == {"dark", "bright"}
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == metrics
    assert sorted(path.name for path in (tmp_path / "out").rglob("*")) == ["1.tif", "2.tif", "maps", "metrics.json"]
    with rasterio.open(tmp_path / "out" / "maps" / "1.tif") as file, rasterio.open(archive.tops[0].image) as image:
        np.testing.assert_array_equal(file.read(1), image.read(1) > 127)
        assert file.transform == PLACE
        assert file.crs.to_epsg() == 32632
    assert segmentor.training, "the caller's mode is put back"


def test_the_definition_says_what_the_numbers_mean(archive, tmp_path):
    headline = evaluate(config(), Threshold(), archive, tmp_path, quiet=True)["definition"]
    assert "128 pixels that overlap by 0.5" in headline
    assert "void pixels of the label dropped" in headline
    assert "weights of the last update." in headline
    seen = config("segmentation.validation=target", "segmentation.checkpoint=best")
    oracle = evaluate(seen, Threshold(), archive, tmp_path, quiet=True)["definition"]
    assert "best mIoU on the target archive's split val, for which training read target labels." in oracle


def test_validation_counts_the_same_pixels(archive):
    matrix = count_pixels(Threshold(), archive, archive.split("test"), config().evaluation, quiet=True)
    np.testing.assert_array_equal(matrix.counts, counted(archive, ["1", "2"]))


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("mixed", r"image3\.tif: has no label"),
        ("none", "split 'none' of archive town is empty"),
        ("val", "has no split 'val'; it has all, mixed, none, test"),
    ],
)
def test_a_split_that_cannot_be_scored_is_refused_before_any_work(archive, tmp_path, split, message):
    with pytest.raises(ValueError, match=message):
        evaluate(config(f"evaluation.split={split}"), Threshold(), archive, tmp_path / "out", quiet=True)
    assert not (tmp_path / "out").exists()


def test_an_evaluation_that_breaks_off_leaves_no_earlier_metrics(archive, tmp_path):
    evaluate(config(), Threshold(), archive, tmp_path / "out", quiet=True)
    _write(archive.tops[1].label, np.zeros((3, 8, 8), np.uint8), PLACE, None)
    with pytest.raises(ValueError, match=r"label2\.tif"):
        evaluate(config(), Threshold(), archive, tmp_path / "out", quiet=True)
    assert not (tmp_path / "out" / "metrics.json").exists()


def test_labels_that_are_void_throughout_cannot_be_scored(archive, tmp_path):
    for top in archive.tops[:2]:
        height, width = SIZES[top.id]
        _write(top.label, np.zeros((3, height, width), np.uint8), PLACE, None)
    with pytest.raises(ValueError, match="every pixel of the labels is void"):
        evaluate(config(), Threshold(), archive, tmp_path / "out", quiet=True)


def test_an_image_damaged_under_way_is_named(archive, tmp_path):
    path = archive.tops[1].image
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"image2\.tif"):
        evaluate(config(), Threshold(), archive, tmp_path / "out", quiet=True)


def plain_tile_scores(archive, names, stride):
    """Tiles of 128 pixels cut by two loops, in batches of 32 in order: their number and the IoU of each class."""
    tiles = []
    for name in names:
        top = next(top for top in archive.tops if top.id == name)
        with rasterio.open(top.image) as image, rasterio.open(top.label) as label:
            guess, colours = (image.read(1) > 127).astype(int), label.read()
        ids = np.full(guess.shape, 99)
        for i, colour in enumerate(PALETTE):
            ids[(colours == np.array(colour)[:, None, None]).all(0)] = i
        for row in range(0, guess.shape[0] - 127, stride):
            for col in range(0, guess.shape[1] - 127, stride):
                place = slice(row, row + 128), slice(col, col + 128)
                tiles.append((ids[place].ravel(), guess[place].ravel()))
    scores = []
    for start in range(0, len(tiles), 32):
        truth, guess = (np.concatenate(part) for part in zip(*tiles[start : start + 32], strict=True))
        hit = np.array([((truth == i) & (guess == i)).sum() for i in range(3)])
        union = np.array([((truth == i) | (guess == i)).sum() for i in range(3)])
        scores.append((hit + 1e-5) / (union + 1e-5))
    return len(tiles), 100 * np.mean(scores, axis=0)


def authors(stride, *overrides):
    return config(
        "evaluation.protocol=authors_batch_mean", f"target.stride={stride}", "evaluation.batch_size=3", *overrides
    )


@pytest.mark.parametrize(("stride", "tiles"), [(8, 18), (5, 45)])
def test_the_authors_protocol_scores_single_tiles_in_batches_of_32(archive, tmp_path, stride, tiles):
    metrics = evaluate(authors(stride), Threshold().train(), archive, tmp_path / "out", quiet=True)
    count, iou = plain_tile_scores(archive, ["1"], stride)  # TOP 2 is lower than a tile, so it has none
    assert count == tiles
    assert list(metrics["iou"].values()) == pytest.approx(list(iou))
    assert metrics["iou"]["never"] == pytest.approx(100)
    assert metrics["absent"] == []


def test_the_protocol_changes_the_scores_and_not_the_maps(archive, tmp_path):
    segmentor = Threshold().train()
    ours = evaluate(config(), segmentor, archive, tmp_path / "ours", quiet=True)
    theirs = evaluate(authors(8), segmentor, archive, tmp_path / "theirs", quiet=True)
    assert abs(ours["miou"] - theirs["miou"]) > 0.1
    assert ours["confusion"] == theirs["confusion"]
    for name in ("1", "2"):
        maps = [(tmp_path / who / "maps" / f"{name}.tif").read_bytes() for who in ("ours", "theirs")]
        assert maps[0] == maps[1]
    assert (ours["protocol"], theirs["protocol"]) == ("global", "authors_batch_mean")
    assert "one confusion matrix" in ours["definition"]
    assert "tiles of 128 pixels at a stride of 8, each predicted by itself, in batches of 32" in theirs["definition"]
    assert "predictions on void pixels of the label as errors" in theirs["definition"]
    assert segmentor.training, "the caller's mode is put back"


def test_an_evaluation_says_of_which_seed_and_direction_it_is(archive, tmp_path):
    metrics = evaluate(config("run.seed=7"), Threshold(), archive, tmp_path / "out", quiet=True)
    assert metrics["seed"] == 7
    assert metrics["direction"].startswith("potsdam_irrg_to_")


def test_tops_without_a_single_whole_tile_are_refused(archive, tmp_path):
    with pytest.raises(ValueError, match=r"every TOP is smaller than evaluation\.window"):
        evaluate(authors(8, "evaluation.window=256"), Threshold(), archive, tmp_path / "out", quiet=True)
    assert not (tmp_path / "out" / "metrics.json").exists()
