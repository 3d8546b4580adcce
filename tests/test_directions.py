"""The shipped directions: both ways between the ISPRS domains and between the two described cities."""

from __future__ import annotations

from pathlib import Path

import pytest

from drdg.config import Config, DescribedArchive, load_config
from drdg.datasets.potsdam import TEST, TRAIN
from drdg.datasets.vaihingen import AREAS, validation_areas
from drdg.experiments import ROWS

CONFIGS = Path(__file__).parents[1] / "configs"
ISPRS = {
    "potsdam_irrg_to_vaihingen": ("potsdam irrg", "vaihingen"),
    "potsdam_rgb_to_vaihingen": ("potsdam rgb", "vaihingen"),
    "vaihingen_to_potsdam_irrg": ("vaihingen", "potsdam irrg"),
    "vaihingen_to_potsdam_rgb": ("vaihingen", "potsdam rgb"),
}
CITIES = {"eugene_to_frankfort": ("eugene", "frankfort"), "frankfort_to_eugene": ("frankfort", "eugene")}
# Metres per pixel, as the domains' descriptions have them.
GSD_M = {"potsdam": 0.05, "vaihingen": 0.09, "eugene": 0.3048, "frankfort": 0.6096}


def load(name: str) -> Config:
    return load_config(CONFIGS / f"{name}.yaml")


def name_of(archive: object) -> str:
    if isinstance(archive, DescribedArchive):
        return archive.name
    bands = getattr(archive, "bands", "")
    return f"{archive.kind} {bands}".strip()


def splits_of(archive: object) -> dict[str, set[str]]:
    if isinstance(archive, DescribedArchive):
        return {name: set(ids) for name, ids in archive.splits.items()}
    if archive.kind == "potsdam":
        return {"train": set(TRAIN), "test": set(TEST)}
    validation = set(validation_areas(archive.val_by))
    return {"val": validation, "test": set(AREAS) - validation}


@pytest.mark.parametrize("name", [*ISPRS, *CITIES])
def test_a_direction_goes_from_its_source_to_its_target(name: str) -> None:
    config = load(name)
    assert (name_of(config.source.archive), name_of(config.target.archive)) == (ISPRS | CITIES)[name]
    assert config.run.name == name
    assert set(config.run.rows) <= ROWS.keys()


@pytest.mark.parametrize("name", [*ISPRS, *CITIES])
def test_sides_fit_each_other(name: str) -> None:
    config = load(name)
    crop = config.segmentation.crop
    assert crop <= config.target.tile  # translated tiles
    assert crop <= config.source.tile  # the baseline's
    assert config.evaluation.window == config.target.tile
    sides_m = [domain.tile * GSD_M[name_of(domain.archive).split()[0]] for domain in (config.source, config.target)]
    assert abs(sides_m[0] / sides_m[1] - 1) < 0.05


@pytest.mark.parametrize("name", [*ISPRS, *CITIES])
def test_what_is_scored_is_learned_from_by_nobody(name: str) -> None:
    config = load(name)
    target = splits_of(config.target.archive)
    assert not target[config.evaluation.split] & target[config.oracle.split]
    assert config.target.split == "all"  # images, without labels


def test_potsdam_is_scored_on_the_benchmarks_test() -> None:
    for name in ("vaihingen_to_potsdam_irrg", "vaihingen_to_potsdam_rgb"):
        config = load(name)
        assert splits_of(config.target.archive)[config.evaluation.split] == set(TEST)
        assert splits_of(config.target.archive)[config.oracle.split] == set(TRAIN)


@pytest.mark.parametrize("name", CITIES)
def test_cities_keep_their_tops_apart(name: str) -> None:
    config = load(name)
    for domain in (config.source, config.target):
        ids = [one for split in splits_of(domain.archive).values() for one in split]
        assert len(ids) == len(set(ids))
    assert config.source.split == "train"


def test_a_city_has_the_same_tops_in_both_directions() -> None:
    there, back = (load(name) for name in CITIES)
    for one, other in ((there.source, back.target), (there.target, back.source)):
        assert set().union(*splits_of(one.archive).values()) == set().union(*splits_of(other.archive).values())
        assert splits_of(one.archive)["val"] == splits_of(other.archive)["val"]
        kept = {"splits"}
        assert one.archive.model_dump(exclude=kept) == other.archive.model_dump(exclude=kept)
