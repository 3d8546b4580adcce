"""The command that shows what shards hold: a table on the terminal, a picture of samples beside the shards."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from drdg.shards.build import build_shards
from drdg.shards.crew import Alone

COMMAND = Path(__file__).parents[2] / "shards/inspect.py"
QUIET = Alone(quiet=True)


@pytest.fixture
def config(small_town: Any, tmp_path: Path) -> Path:
    """Of a source and a target that are built, compressed."""
    domain = small_town.domain(stride=128, edge="shift")
    shards = small_town.shards(root=tmp_path / "shards", samples_per_shard=2, codec="zstd")
    for need_label in (True, False):
        build_shards(domain, shards, need_label=need_label, crew=QUIET)
    plain = domain.model_dump(mode="json")
    path = tmp_path / "config.yaml"
    path.write_text(
        yaml.safe_dump({"source": plain, "target": plain, "shards": shards.model_dump(mode="json")}, sort_keys=False)
    )
    return path


def run(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, COMMAND, *map(str, arguments)], capture_output=True, text=True, check=False, cwd=cwd
    )


def shape(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return picture.width, picture.height


def test_it_prints_a_table_and_draws_a_picture(config: Path, tmp_path: Path) -> None:
    done = run("--config", config, "--samples", 2)
    assert done.returncode == 0, done.stderr
    *lines, picture = done.stdout.splitlines()
    assert Path(picture) == tmp_path / "shards/samples.png"
    table = {line.split("  ")[0]: line.split("  ", 1)[-1].split() for line in lines}
    assert table["samples"] == ["6", "in", "3", "shards"] * 2
    assert table["tile"] == ["128", "px"] * 2
    assert table["pixel"] == ["50", "cm"] * 2
    assert table["TOP 1_9"] == table["TOP 2_10"] == ["3", "tiles"] * 2
    assert table["building"][1:] == ["%"], "a target has no labels"
    with Image.open(picture) as drawn:
        shown = np.asarray(drawn.convert("RGB"))
    for shade in ((0, 255, 255), (0, 0, 255), (0, 255, 0)):
        assert (shown == shade).all(axis=-1).mean() > 0.001, f"the label's colour {shade}"


def test_more_samples_are_more_lines_and_no_more_than_there_are(config: Path, tmp_path: Path) -> None:
    heights = []
    for count in (1, 3, 6, 50):
        out = tmp_path / f"out/{count}.png"
        done = run("--config", config, "--domain", "target", "--samples", count, "--out", out)
        assert done.returncode == 0, done.stderr
        heights.append(shape(out)[1])
    assert heights[0] < heights[1] < heights[2] == heights[3]


def test_the_seed_decides_which_samples(config: Path, tmp_path: Path) -> None:
    pictures = []
    for number, seed in enumerate((1, 1, 2)):
        out = tmp_path / f"{number}.png"
        run("--config", config, "--domain", "target", "--samples", 1, "--seed", seed, "--out", out)
        pictures.append(out.read_bytes())
    assert pictures[0] == pictures[1] != pictures[2]


def test_folders_need_no_configuration(config: Path, tmp_path: Path) -> None:
    folders = sorted((tmp_path / "shards").iterdir())
    both = [argument for folder in folders for argument in ("--folder", folder)]
    done = run(*both, "--samples", 1, "--out", tmp_path / "two.png")
    assert done.returncode == 0, done.stderr
    run("--folder", folders[0], "--samples", 1, "--out", tmp_path / "one.png")
    assert shape(tmp_path / "two.png")[0] > shape(tmp_path / "one.png")[0]


def test_a_dry_run_draws_nothing(config: Path, tmp_path: Path) -> None:
    done = run("--config", config, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"would draw {tmp_path / 'shards/samples.png'}"
    assert list(tmp_path.rglob("*.png")) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--config", "{config}", "--samples", "0"], ["--samples 0", "at least 1"]),
        (["--folder", "/nowhere"], ["/nowhere", "shards/build.py"]),
        (["--folder", "/nowhere", "--config", "{config}"], ["--folder", "without a configuration"]),
        (["--config", "{config}", "shards.seed=9"], ["not built", "shards/build.py"]),
    ],
)
def test_what_a_user_can_mend_is_one_sentence(config: Path, arguments: list[str], words: list[str]) -> None:
    done = run(*(argument.format(config=config) for argument in arguments))
    assert done.returncode == 2
    (sentence,) = done.stderr.splitlines()
    assert sentence.startswith("error: ")
    for word in words:
        assert word in sentence
