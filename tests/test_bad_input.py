"""Bad input at the commands: a non-zero status, one sentence with file and cure, no half output left as a whole one."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio

from drdg.config import Config, to_yaml

REPOSITORY = Path(__file__).parents[1]
Damage = Callable[[Path], None]


def rewrite(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    with rasterio.open(path) as file:
        profile, bands = file.profile, file.read()
    bands = change(bands)
    profile.update(height=bands.shape[1], width=bands.shape[2])
    with rasterio.open(path, "w", **profile) as file:
        file.write(bands)


def with_value(value: float | tuple[int, int, int]) -> Callable[[np.ndarray], np.ndarray]:
    def change(bands: np.ndarray) -> np.ndarray:
        bands[:, 50, 60] = value
        return bands

    return change


def cut_in_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def text_in_its_place(path: Path) -> None:
    path.write_text("no raster")


CASES: dict[str, tuple[Damage, str, list[str]]] = {
    "missing folder": (lambda here: shutil.rmtree(here), "", ["archives/here", "archive.root"]),
    "unreadable TIFF": (lambda here: text_in_its_place(here / "top/here_1.tif"), "", ["here_1.tif"]),
    "TIFF cut in half": (lambda here: cut_in_half(here / "top/here_1.tif"), "", ["here_1.tif"]),
    "DSM of another size": (
        lambda here: rewrite(here / "dsm/here_1.tif", lambda bands: bands[:, :-1]),
        "",
        ["dsm/here_1.tif", "319", "320"],
    ),
    "NaN in a DSM": (
        lambda here: rewrite(here / "dsm/here_1.tif", with_value(np.nan)),
        "",
        ["dsm/here_1.tif", "fill"],
    ),
    "unknown label colour": (
        lambda here: rewrite(here / "label/here_1.tif", with_value((1, 2, 3))),
        "",
        ["label/here_1.tif", "1, 2, 3"],
    ),
    "source without labels": (lambda here: (here / "label/here_1.tif").unlink(), "", ["label", "1"]),
    "tile not a multiple of 128": (lambda here: None, "source.tile=200", ["source.tile", "128", "256"]),
    "no window fits": (lambda here: None, "source.tile=384", ["here_0.tif", "384"]),
}


# The pipeline builds shards by the very function that the other command shows; three cases show that it says the same.
RUNS = [("shards/build.py", case) for case in CASES]
RUNS += [("launch/pipeline.py", case) for case in ("missing folder", "NaN in a DSM", "source without labels")]


@pytest.mark.parametrize(("command", "case"), RUNS)
def test_bad_input_is_refused(
    command: str, case: str, small: Callable[..., Config], archives: Path, tmp_path: Path
) -> None:
    damage, override, words = CASES[case]
    shutil.copytree(archives, tmp_path / "archives")
    damage(tmp_path / "archives/here")
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(small(f"source.archive.root={tmp_path / 'archives/here'}", "run.rows=[baseline]")))

    whole = [sys.executable, str(REPOSITORY / command), "--config", str(path), *([override] if override else [])]
    done = subprocess.run(whole, capture_output=True, text=True, timeout=300, cwd=tmp_path)

    assert done.returncode == 2, done.stderr
    sentences = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(sentences) == 1, done.stderr
    assert done.stderr.strip().splitlines()[-1] == sentences[0]
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in sentences[0]
    assert not list(tmp_path.rglob("here-*/manifest.json")), "a folder of shards that passes for a finished one"
    assert not list(tmp_path.rglob("report.json"))
    assert not list(tmp_path.rglob("done.json"))
