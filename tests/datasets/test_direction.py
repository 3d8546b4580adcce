"""A direction has the name that printed numbers know it by, and generated towns never have."""

from __future__ import annotations

from pathlib import Path

import pytest

from drdg.config import load_config
from drdg.datasets.direction import direction_of

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize(
    ("name", "direction"),
    [
        ("potsdam_irrg_to_vaihingen", "potsdam_irrg_to_vaihingen"),
        ("potsdam_rgb_to_vaihingen", "potsdam_rgb_to_vaihingen"),
        ("eugene_to_frankfort", "eugene_to_frankfort"),
        ("demo", "synthetic_potsdam_irrg_to_synthetic_vaihingen"),
    ],
)
def test_each_configuration_has_its_direction(
    name: str, direction: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(CONFIGS / f"{name}.yaml")
    monkeypatch.chdir(tmp_path)  # nothing lies at data/ here
    assert direction_of(config) == direction


def test_the_other_way_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    source = {"kind": "vaihingen"}
    target = {"kind": "potsdam", "bands": "rgb"}
    path = tmp_path / "back.yaml"
    path.write_text(f"source: {{archive: {source}, tile: 512}}\ntarget: {{archive: {target}, tile: 896}}\n")
    assert direction_of(load_config(path)) == "vaihingen_to_potsdam_rgb"


def test_generated_towns_are_known_by_their_mark_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "synthetic.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    config = load_config(None, [f"target.archive.root={tmp_path}"])
    assert direction_of(config) == "potsdam_irrg_to_synthetic_vaihingen"
