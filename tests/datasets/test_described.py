"""Archives: cities described by patterns, and the two real ones of the shipped configuration where they are at hand."""

import os
from pathlib import Path

import numpy as np
import pytest
import rasterio

from drdg.config import DescribedArchive, load_config
from drdg.datasets import CLASSES, PALETTE, VOID, Archive, open_archive

REPOSITORY = Path(__file__).parents[2]
REAL_DATA = Path(os.environ.get("DRDG_REAL_DATA", REPOSITORY / "../shared/data"))


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def city(root: Path, ids=("1_1", "1_2", "2_1", "2_10"), layers=("top", "dsm", "label")) -> None:
    for top in ids:
        for layer in layers:
            touch(root / layer / f"{layer}_city_{top}.tif")


def read(root: Path, **knobs) -> Archive:
    values = {"image": "top/top_city_{id}.tif", "dsm": "dsm/dsm_city_{id}.tif", "label": "label/label_city_{id}.tif"}
    return open_archive(DescribedArchive(name="city", root=root, **{**values, **knobs}))


def test_layers_meet_by_id(tmp_path):
    city(tmp_path)
    archive = read(tmp_path, bands=(3, 2, 1))
    assert (archive.name, archive.bands) == ("city", (3, 2, 1))
    assert (archive.classes, archive.palette) == (CLASSES, PALETTE)
    assert [top.id for top in archive.tops] == ["1_1", "1_2", "2_1", "2_10"]
    last = archive.tops[-1]
    assert [last.image, last.dsm, last.label] == [
        tmp_path / layer / f"{layer}_city_2_10.tif" for layer in ("top", "dsm", "label")
    ]


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("{id}/{id}_rgb.tif", "north/north_rgb.tif"),
        ("*/photo_{id}_20??.tif", "2019/photo_north_2021.tif"),
        ("**/photo_{id}.tif", "a/b/photo_north.tif"),
        ("**/photo_{id}.tif", "photo_north.tif"),
        ("**/a/**/photo_{id}.tif", "a/a/a/photo_north.tif"),
        ("./a//photo_{id}.tif", "a/photo_north.tif"),
        ("[old] (1)/photo+{id}.tif", "[old] (1)/photo+north.tif"),
    ],
)
def test_patterns(tmp_path, pattern, name):
    image = touch(tmp_path / name)
    (top,) = read(tmp_path, image=pattern, dsm=None, label=None).tops
    assert (top.id, top.image, top.dsm, top.label) == ("north", image, None, None)


def test_a_layer_beside_the_root(tmp_path):
    city(tmp_path / "images", layers=("top",))
    city(tmp_path / "truth", layers=("label",))
    archive = read(tmp_path / "images", dsm=None, label="../truth/label/label_city_{id}.tif")
    assert len(archive.split("all", need_label=True)) == 4


def test_repeated_id_must_agree(tmp_path):
    touch(tmp_path / "north/south_rgb.tif")
    with pytest.raises(ValueError, match=r"no file matches archive.image='{id}/{id}_rgb.tif'; correct the pattern or"):
        read(tmp_path, image="{id}/{id}_rgb.tif", dsm=None, label=None)


@pytest.mark.parametrize("pattern", ["top/*.tif", "top/{tile}.tif", "top/{id}_{year}.tif", ""])
def test_placeholder_is_needed_and_the_only_one(tmp_path, pattern):
    with pytest.raises(ValueError, match=r"archive.image='.*' must have the placeholder \{id\}, and no other"):
        read(tmp_path, image=pattern)


@pytest.mark.parametrize("pattern", ["/top/{id}.tif", "top**/{id}.tif"])
def test_patterns_that_cannot_be_searched(tmp_path, pattern):
    with pytest.raises(ValueError, match=r"must start from archive.root and have"):
        read(tmp_path, image=pattern)


def test_ids_are_fit_for_file_names(tmp_path):
    touch(tmp_path / "top" / "top_city_1.5.tif")
    with pytest.raises(ValueError, match=r"top_city_1.5.tif: its id '1.5' by archive.image='.*' has other signs than"):
        read(tmp_path)
    with pytest.raises(ValueError, match=r"archive.name='a/b' becomes a folder's name; use letters"):
        open_archive(DescribedArchive(name="a/b", root=tmp_path, image="{id}.tif"))


def test_missing_root(tmp_path):
    with pytest.raises(
        ValueError, match=r"nowhere: no such folder; set archive.root to the folder that holds the archive city"
    ):
        read(tmp_path / "nowhere")


@pytest.mark.parametrize("layer", ["image", "dsm", "label"])
def test_pattern_that_matches_nothing(tmp_path, layer):
    city(tmp_path)
    with pytest.raises(ValueError, match=rf"no file matches archive.{layer}='none/{{id}}.tif'; correct the pattern"):
        read(tmp_path, **{layer: "none/{id}.tif"})


def test_duplicate_ids(tmp_path):
    city(tmp_path)
    again = touch(tmp_path / "again" / "top_city_1_1.tif")
    with pytest.raises(ValueError) as error:
        read(tmp_path, image="*/top_city_{id}.tif")
    assert str(again) in str(error.value)
    assert "has the id '1_1' by archive.image='*/top_city_{id}.tif', as has" in str(error.value)


def test_top_without_dsm(tmp_path):
    city(tmp_path)
    (tmp_path / "dsm" / "dsm_city_2_1.tif").unlink()
    with pytest.raises(
        ValueError, match=r"top_city_2_1.tif: no DSM of TOP '2_1' matches .*\(missing for 1 of 4 TOPs\)"
    ):
        read(tmp_path)
    assert all(top.dsm is None for top in read(tmp_path, dsm=None).tops)


def test_some_tops_without_label(tmp_path):
    city(tmp_path)
    (tmp_path / "label" / "label_city_2_1.tif").unlink()
    archive = read(tmp_path, splits={"val": ["1_1"]})
    assert [top.id for top in archive.tops if top.label is None] == ["2_1"]
    assert archive.split("val", need_label=True)
    with pytest.raises(
        ValueError, match=r"top_city_2_1.tif: has no label, nor have 0 more of the 3 TOPs of split 'test'"
    ):
        archive.split("test", need_label=True)


def test_unlabelled_archive_says_which_key_is_missing(tmp_path):
    city(tmp_path)
    with pytest.raises(ValueError, match=r"put labels in files and give their pattern as archive.label or"):
        read(tmp_path, label=None).split("all", need_label=True)


def test_labels_whose_ids_meet_no_image(tmp_path):
    city(tmp_path, layers=("top", "dsm"))
    touch(tmp_path / "label" / "label_city_1_1.tif")
    with pytest.raises(ValueError, match=r"reads its id as 'city_1_1', and no label has the id of an image, .* '1_1'"):
        read(tmp_path, label="label/label_{id}.tif")


def test_label_without_image_is_ignored(tmp_path):
    city(tmp_path)
    touch(tmp_path / "label" / "label_city_9_9.tif")
    assert len(read(tmp_path).tops) == 4


def test_splits(tmp_path):
    city(tmp_path)
    assert read(tmp_path).splits == {"all": ("1_1", "1_2", "2_1", "2_10"), "test": ("1_1", "1_2", "2_1", "2_10")}
    some = read(tmp_path, splits={"val": ["2_10", "1_1"], "train": ["1_1"]}).splits
    assert (some["val"], some["train"], some["test"]) == (("1_1", "2_10"), ("1_1",), ("1_2", "2_1"))
    assert read(tmp_path, splits={"test": ["1_2"]}).splits["test"] == ("1_2",)


def test_splits_that_cannot_be(tmp_path):
    city(tmp_path)
    with pytest.raises(
        ValueError, match=r"archive.splits.val names TOP '2_11', which is not in .*; did you mean '2_1'\?"
    ):
        read(tmp_path, splits={"val": ["2_11"]})
    with pytest.raises(ValueError, match=r"archive.splits.all is not to be given"):
        read(tmp_path, splits={"all": ["1_1"]})
    with pytest.raises(ValueError, match="split 'test' of archive city is empty"):
        read(tmp_path, splits={"train": ["1_1", "1_2", "2_1", "2_10"]}).split("test")


def test_own_colours(tmp_path):
    city(tmp_path)
    archive = read(tmp_path, classes={"roof": (10, 20, 30), "rest": (1, 2, 3)}, void=[(9, 9, 9), (8, 8, 8)])
    assert archive.palette == ((10, 20, 30), (1, 2, 3))
    raw = np.array([[10, 1, 9, 8], [20, 2, 9, 8], [30, 3, 9, 8]], dtype=np.uint8)[:, None]
    assert archive.decode_label(raw, Path("x.tif")).tolist() == [[0, 1, VOID, VOID]]
    with pytest.raises(
        ValueError, match=r"x.tif: label has the unknown colour \(0, 0, 0\) in 4 of 4 pixels; add it to"
    ):
        archive.decode_label(raw * 0, Path("x.tif"))


def test_single_band_values(tmp_path):
    city(tmp_path)
    names = {"building": 0, "meadow": 4, "water": 2}
    archive = read(tmp_path, classes=names, void=[255])
    raw = np.array([[[0, 4, 2, 255]]], dtype=np.uint8)
    assert archive.decode_label(raw, Path("x.tif")).tolist() == [[0, 1, 2, VOID]]
    assert archive.palette[0] == (0, 0, 255)
    assert len(set(archive.palette)) == 3
    # The default void is a colour and says nothing about values: 0 is a class here.
    assert read(tmp_path, classes=names).decode_label(raw[..., :3], Path("x.tif")).tolist() == [[0, 1, 2]]


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"classes": {}}, "archive.classes has 0 classes; give 1 to 254"),
        ({"classes": {"a": 1, "b": (1, 2, 3)}}, "archive.classes mixes colours"),
        ({"void": [0]}, "archive.void has 0 while archive.classes has colours; give colours in both"),
        ({"classes": {"a": 1}, "void": [(1, 1, 1)]}, "archive.classes has values; give values in both"),
        ({"bands": (0, 1, 2)}, "archive.bands=.0, 1, 2. counts from 0; bands are counted from 1"),
        ({"classes": {"a": 256}}, "archive.classes.a has 256, but label bands are 8 bit"),
        ({"classes": {"a": (0, -1, 0)}}, r"archive.classes.a has \(0, -1, 0\), but label bands are 8 bit"),
        ({"classes": {"a": 1, "b": 1}}, "archive.classes.b and archive.classes.a both have 1"),
        ({"classes": {"a": (0, 0, 0)}}, r"archive.void and archive.classes.a both have \(0, 0, 0\)"),
    ],
)
def test_values_that_cannot_be(tmp_path, knobs, message):
    city(tmp_path)
    with pytest.raises(ValueError, match=message):
        read(tmp_path, **knobs)


@pytest.fixture
def real(monkeypatch):
    """The two archives of the shipped configuration."""
    if not (REAL_DATA / "eugene").is_dir() or not (REAL_DATA / "frankfort").is_dir():
        pytest.skip(
            f"the real archives eugene and frankfort are not in {REAL_DATA}; set DRDG_REAL_DATA to their folder"
        )
    monkeypatch.setenv("DRDG_DATA", str(REAL_DATA))
    config = load_config(REPOSITORY / "configs" / "eugene_to_frankfort.yaml")
    return open_archive(config.source.archive), open_archive(config.target.archive)


def test_real_archives_have_the_proposed_splits(real):
    eugene, frankfort = real
    assert {name: len(ids) for name, ids in eugene.splits.items()} == {"all": 12, "train": 9, "val": 3, "test": 0}
    assert {name: len(ids) for name, ids in frankfort.splits.items()} == {"all": 9, "val": 3, "test": 6}
    assert not set(eugene.splits["train"]) & set(eugene.splits["val"])
    assert not set(frankfort.splits["test"]) & set(frankfort.splits["val"])
    for archive in real:
        assert all(top.dsm and top.label for top in archive.tops)


def test_real_labels_decode_and_real_photos_do_not(real):
    for archive in real:
        top = archive.split("val", need_label=True)[0]
        assert top.label is not None
        with rasterio.open(top.label) as file:
            raw = file.read()
        ids = archive.decode_label(raw, top.label)
        assert ids.shape == raw.shape[1:]
        assert set(np.unique(ids)) <= {*range(6), VOID}
        assert np.array_equal(ids == 5, (raw == np.array([0, 0, 255])[:, None, None]).all(0))
        with rasterio.open(top.image) as file:
            photo = file.read()
        with pytest.raises(ValueError, match="unknown colour"):
            archive.decode_label(photo, top.image)


def test_configuration_names_the_data_folder_by_the_environment(monkeypatch):
    file = REPOSITORY / "configs" / "eugene_to_frankfort.yaml"
    monkeypatch.delenv("DRDG_DATA", raising=False)
    assert load_config(file).source.archive.root == Path("../shared/data/eugene")
    monkeypatch.setenv("DRDG_DATA", "/elsewhere")
    config = load_config(file)
    assert config.target.archive.root == Path("/elsewhere/frankfort")
    assert (config.source.tile, config.target.tile, config.source.edge, config.target.edge) == (
        256,
        128,
        "shift",
        "shift",
    )
