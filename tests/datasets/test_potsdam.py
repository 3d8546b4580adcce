"""Archives: Potsdam as its zip files come to lie on disk, with every known oddity."""

from pathlib import Path

import pytest

from drdg.config import PotsdamArchive
from drdg.datasets import CLASSES, Archive, open_archive
from drdg.datasets.potsdam import TEST, TILES, TRAIN


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def write(root: Path, tiles=("2_10", "6_7", "6_10"), kind: str = "IRRG", folder: str = "3_Ortho_IRRG") -> None:
    """Empty files of image and DSM with their world files, named as in the download."""
    for tile in tiles:
        row, col = tile.split("_")
        touch(root / folder / f"top_potsdam_{tile}_{kind}.tif")
        touch(root / folder / f"top_potsdam_{tile}_{kind}.tfw")
        touch(root / "1_DSM" / f"dsm_potsdam_{row:0>2}_{col:0>2}.tif")
        touch(root / "1_DSM" / f"dsm_potsdam_{row:0>2}_{col:0>2}.tfw")


def read(root: Path, **knobs) -> Archive:
    return open_archive(PotsdamArchive(root=root, **knobs))


def test_official_lists_are_the_38_tiles():
    assert len(TRAIN) == 24
    assert len(TEST) == 14
    rows = {2: range(10, 15), 3: range(10, 15), 4: range(10, 16), 5: range(10, 16), 6: range(7, 16), 7: range(7, 14)}
    assert set(TILES) == set(TRAIN) | set(TEST) == {f"{row}_{col}" for row, cols in rows.items() for col in cols}


def test_whole_archive(tmp_path):
    write(tmp_path, TILES)
    for tile in TILES:
        touch(tmp_path / "5_Labels_all" / f"top_potsdam_{tile}_label.tif")
    archive = read(tmp_path)
    assert (archive.name, archive.bands, archive.classes) == ("potsdam_irrg", (1, 2, 3), CLASSES)
    assert {name: len(ids) for name, ids in archive.splits.items()} == {"all": 38, "train": 24, "test": 14}
    assert [top.id for top in archive.tops] == list(TILES)
    assert TILES.index("6_7") < TILES.index("6_10")
    first = archive.tops[0]
    assert first.image == tmp_path / "3_Ortho_IRRG" / "top_potsdam_2_10_IRRG.tif"
    assert first.dsm == tmp_path / "1_DSM" / "dsm_potsdam_02_10.tif"
    assert first.label == tmp_path / "5_Labels_all" / "top_potsdam_2_10_label.tif"


def test_dsm_names_are_padded_in_row_and_column(tmp_path):
    write(tmp_path, ["6_7"])
    assert read(tmp_path).tops[0].dsm == tmp_path / "1_DSM" / "dsm_potsdam_06_07.tif"


def test_only_3_13_may_lack_its_last_column(tmp_path):
    write(tmp_path, TILES)
    assert [top.id for top in read(tmp_path).tops if top.dsm_repeat_last_column] == ["3_13"]


def test_normalised_heights_are_not_the_dsm(tmp_path):
    write(tmp_path, ["2_10"])
    (tmp_path / "1_DSM" / "dsm_potsdam_02_10.tif").unlink()
    touch(tmp_path / "1_DSM_normalisation" / "1_DSM_normalisation" / "dsm_potsdam_02_10.tif")
    touch(tmp_path / "1_DSM" / "dsm_potsdam_02_10_normalized_lastools.jpg")
    touch(tmp_path / "1_DSM" / "dsm_potsdam_02_10_normalized.tif")
    with pytest.raises(ValueError, match=r"top_potsdam_2_10_IRRG.tif: no DSM of tile 2_10 found; put it in .*1_DSM"):
        read(tmp_path)


def test_folders_nested_in_themselves(tmp_path):
    write(tmp_path / "3_Ortho_IRRG", folder="3_Ortho_IRRG")
    (tmp_path / "3_Ortho_IRRG" / "1_DSM").rename(tmp_path / "1_DSM")
    name = "5_Labels_for_participants"
    label = touch(tmp_path / name / name / "top_potsdam_2_10_label.tif")
    archive = read(tmp_path)
    assert len(archive.tops) == 3
    assert archive.tops[0].label == label


def test_root_above_the_zips_own_folder(tmp_path):
    write(tmp_path / "Potsdam")
    name = "5_Labels_for_participants_no_Boundary"
    label = touch(tmp_path / "Potsdam" / name / name / "top_potsdam_2_10_label_noBoundary.tif")
    archive = read(tmp_path, labels="no_boundary")
    assert len(archive.tops) == 3
    assert archive.tops[0].label == label


@pytest.mark.parametrize(
    "folder",
    [
        "5_Labels_all_noBoundary",
        "5_Labels_all_no_Boundary",
        "5_Labels_for_participants_no_Boundary",
        "5_Labels_for_participants_noBoundary",
    ],
)
def test_spellings_of_no_boundary(tmp_path, folder):
    write(tmp_path, ["2_10"])
    touch(tmp_path / "5_Labels_all" / "top_potsdam_2_10_label.tif")
    eroded = touch(tmp_path / folder / "top_potsdam_2_10_label_noBoundary.tif")
    assert read(tmp_path, labels="no_boundary").tops[0].label == eroded
    assert read(tmp_path).tops[0].label == tmp_path / "5_Labels_all" / "top_potsdam_2_10_label.tif"


def test_the_participants_4_12_is_preferred_to_the_corrupted_one(tmp_path):
    write(tmp_path, ["4_12", "4_13"])
    touch(tmp_path / "5_Labels_all" / "top_potsdam_4_12_label.tif")
    kept_back = touch(tmp_path / "5_Labels_all" / "top_potsdam_4_13_label.tif")
    good = touch(tmp_path / "5_Labels_for_participants" / "top_potsdam_4_12_label.tif")
    assert [top.label for top in read(tmp_path).tops] == [good, kept_back]


def test_unlabelled_tiles_stay_and_are_asked_for(tmp_path):
    write(tmp_path, ["2_10", "2_13"])
    touch(tmp_path / "5_Labels_for_participants" / "top_potsdam_2_10_label.tif")
    archive = read(tmp_path)
    assert [top.label is None for top in archive.tops] == [False, True]
    assert len(archive.split("train", need_label=True)) == 1
    with pytest.raises(ValueError, match=r"2_13_IRRG.tif: has no label.*5_Labels_all or 5_Labels_for_participants in"):
        archive.split("test", need_label=True)


def test_rgb_and_the_four_band_files(tmp_path):
    write(tmp_path, ["2_10"], "RGBIR", "4_Ortho_RGBIR")
    assert read(tmp_path, bands="irrg").bands == (4, 1, 2)
    assert read(tmp_path, bands="rgb").bands == (1, 2, 3)
    write(tmp_path, ["2_10"], "RGB", "2_Ortho_RGB")
    rgb = read(tmp_path, bands="rgb")
    assert (rgb.name, rgb.tops[0].image.name) == ("potsdam_rgb", "top_potsdam_2_10_RGB.tif")


def test_an_oddly_named_tile_is_found_by_its_numbers(tmp_path):
    write(tmp_path, ["2_10"])
    odd = touch(tmp_path / "3_Ortho_IRRG" / "potsdam_02_11_irrg_v2.TIF")
    touch(tmp_path / "1_DSM" / "dsm_potsdam_02_11.tif")
    assert read(tmp_path).tops[1].image == odd


def test_files_of_other_systems_are_left_alone(tmp_path):
    write(tmp_path, ["2_10"])
    touch(tmp_path / "3_Ortho_IRRG" / "._top_potsdam_2_10_IRRG.tif")
    touch(tmp_path / "3_Ortho_IRRG" / "top_potsdam_2_10_IRRG.tif.aux.xml")
    touch(tmp_path / "3_Ortho_IRRG" / "overview.tif")
    touch(tmp_path / ".cache" / "3_Ortho_IRRG" / "top_potsdam_2_10_IRRG.tif")
    assert [top.id for top in read(tmp_path).tops] == ["2_10"]


def test_missing_root(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere: no such folder; set archive.root to the folder that holds 3_Ortho"):
        read(tmp_path / "nowhere")


def test_nothing_unpacked(tmp_path):
    with pytest.raises(ValueError, match=r"no orthophoto found in 3_Ortho_IRRG or 4_Ortho_RGBIR; correct archive.root"):
        read(tmp_path)
    touch(tmp_path / "3_Ortho_IRRG.zip")
    with pytest.raises(ValueError, match="unpack the zip files that lie there"):
        read(tmp_path)


def test_two_files_of_one_tile(tmp_path):
    write(tmp_path, ["2_10"])
    touch(tmp_path / "3_Ortho_IRRG" / "top_potsdam_2_10_IRRG_copy.tif")
    with pytest.raises(ValueError, match=r"copy.tif: is a second file of tile 2_10 beside .*2_10_IRRG.tif; remove one"):
        read(tmp_path)


def test_a_tile_that_potsdam_does_not_have(tmp_path):
    write(tmp_path, ["2_10", "9_9"])
    with pytest.raises(
        ValueError, match=r"has tile 9_9, which is none of the benchmark's 38; .*archive.kind=described"
    ):
        read(tmp_path)


def test_missing_dsms_are_counted(tmp_path):
    write(tmp_path)
    for path in (tmp_path / "1_DSM").glob("dsm_potsdam_06_*.tif"):
        path.unlink()
    with pytest.raises(ValueError, match=r"6_7_IRRG.tif: no DSM of tile 6_7 found \(nor for 1 more\)"):
        read(tmp_path)
