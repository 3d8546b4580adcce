"""The bench of whole maps: that both sides map the same, and that it says what it measures."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch

from drdg.bench import predict_sizes
from drdg.bench.predict import PAD_AND_ADD, SIDES, map_in_child, measure_predict, write_scene
from drdg.bench.predict_once import Thin, pad_and_add
from drdg.bench.predict_sizes import FULL, PredictSizes

REPOSITORY = Path(__file__).parents[2]
TINIEST = PredictSizes(side=200, window=64, classes=3)
GOALS = [(5.0, False), (0.2, True)]


def test_pad_and_add_is_the_mean_of_the_windows_logits(tmp_path: Path) -> None:
    write_scene(tmp_path / "scene.tif", 150)
    network = Thin(3).eval()
    pad_and_add(network, tmp_path / "scene.tif", tmp_path / "map.tif", 64, 0.5)
    with rasterio.open(tmp_path / "scene.tif") as file:
        image = torch.from_numpy(file.read()).float()[None] / 255
        assert file.shape == (150, 150)
        assert file.crs is not None
    total = torch.zeros(3, 150, 150)
    count = torch.zeros(150, 150)
    starts = (0, 32, 64, 86)
    with torch.no_grad():
        for row in starts:
            for col in starts:
                place = (slice(row, row + 64), slice(col, col + 64))
                total[(slice(None), *place)] += network(image[(slice(None), slice(None), *place)])[0]
                count[place] += 1
    with rasterio.open(tmp_path / "map.tif") as file:
        np.testing.assert_array_equal(file.read(1), (total / count).argmax(0))


def test_both_sides_are_measured_and_nothing_is_left(tmp_path: Path) -> None:
    root = tmp_path / "work place"
    rows = [comparison.row() for comparison in measure_predict(TINIEST, 1, root=root)]
    assert [(row["goal"], "at most" in row["name"]) for row in rows] == GOALS
    assert all(row["ours"] > 0 and row["peer"] > 0 for row in rows)
    assert list(root.iterdir()) == []


def test_both_sides_give_a_map(tmp_path: Path) -> None:
    write_scene(tmp_path / "scene.tif", 160)
    write_scene(tmp_path / "warm_up.tif", 160)
    for side in SIDES:
        found = map_in_child(side, tmp_path / "scene.tif", tmp_path / side, TINIEST)
        assert found.keys() == {"seconds", "peak_mb"}
        assert (tmp_path / side / ("map.tif" if side == PAD_AND_ADD else "scene.tif")).is_file()
    with pytest.raises(ValueError, match=r"nowhere\.tif: its map by ours ended with status 1: .*nowhere\.tif"):
        map_in_child("ours", tmp_path / "nowhere.tif", tmp_path / "out", TINIEST)


def test_the_command_says_what_it_would_measure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "argv", ["bench.py", "predict", "--dry-run", "--root", str(tmp_path)])
    runpy.run_path(str(REPOSITORY / "launch/bench.py"), run_name="__main__")
    said = capsys.readouterr().out
    assert said.startswith("predict: map; 5 interleaved runs of each side; an orthophoto of 3000 x 3000 pixels")
    assert (FULL.side, FULL.window) == (3000, 512)
    monkeypatch.setattr(predict_sizes, "QUICK", TINIEST)
    monkeypatch.setattr(sys, "argv", ["bench.py", "predict", "--quick", "--repeats", "1", "--json"])
    runpy.run_path(str(REPOSITORY / "launch/bench.py"), run_name="__main__")
    assert [(row["goal"], "at most" in row["name"]) for row in json.loads(capsys.readouterr().out)] == GOALS
