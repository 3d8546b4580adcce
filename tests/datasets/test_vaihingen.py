"""Archives: Vaihingen as its zip files come to lie on disk, and the paper's split in both readings."""

from pathlib import Path

import pytest

from drdg.config import VaihingenArchive
from drdg.datasets import Archive, open_archive
from drdg.datasets.vaihingen import AREAS

COMPLETE = "ISPRS_semantic_labeling_Vaihingen_ground_truth_COMPLETE"
ERODED_COMPLETE = "ISPRS_semantic_labeling_Vaihingen_ground_truth_eroded_COMPLETE"


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def write(root: Path, areas=AREAS) -> None:
    """Empty files of image and DSM with their world files, named as in the download."""
    for area in areas:
        for suffix in ("tif", "tfw"):
            touch(root / "top" / f"top_mosaic_09cm_{area}.{suffix}")
            touch(root / "dsm" / f"dsm_09cm_matching_{area}.{suffix}")


def read(root: Path, **knobs) -> Archive:
    return open_archive(VaihingenArchive(root=root, **knobs))


def test_the_33_areas():
    assert len(AREAS) == 33
    assert not {"area9", "area18", "area19", "area25", "area36", "area39"} & set(AREAS)


def test_whole_archive(tmp_path):
    write(tmp_path)
    archive = read(tmp_path)
    assert (archive.name, archive.bands) == ("vaihingen", (1, 2, 3))
    assert [top.id for top in archive.tops] == list(AREAS)
    last = archive.tops[-1]
    assert last.image == tmp_path / "top" / "top_mosaic_09cm_area38.tif"
    assert last.dsm == tmp_path / "dsm" / "dsm_09cm_matching_area38.tif"
    assert last.label is None
    assert not last.dsm_repeat_last_column


def test_the_papers_split_by_area(tmp_path):
    write(tmp_path)
    splits = read(tmp_path).splits
    assert splits["val"] == ("area2", "area5", "area7", "area8", "area13", "area20", "area22", "area24")
    assert len(splits["test"]) == 25
    assert set(splits["val"]) | set(splits["test"]) == set(splits["all"]) == set(AREAS)


def test_the_papers_split_by_position_in_the_list_of_33(tmp_path):
    write(tmp_path)
    splits = read(tmp_path, val_by="position").splits
    assert splits["val"] == ("area2", "area5", "area7", "area8", "area14", "area23", "area26", "area28")
    assert len(splits["test"]) == 25
    write(tmp_path / "part", ["area1", "area13", "area14"])
    assert read(tmp_path / "part", val_by="position").splits["val"] == ("area14",)


def test_a_part_of_the_areas(tmp_path):
    write(tmp_path, ["area1", "area3"])
    archive = read(tmp_path)
    assert archive.splits == {"all": ("area1", "area3"), "val": (), "test": ("area1", "area3")}
    with pytest.raises(ValueError, match=r"split 'val' of archive vaihingen is empty; .*take another \(all, test\)"):
        archive.split("val")


@pytest.mark.parametrize("folder", ["gts_for_participants", "gts_for_participants/gts_for_participants", COMPLETE, "."])
def test_places_of_full_labels(tmp_path, folder):
    write(tmp_path, ["area1", "area30"])
    label = touch(tmp_path / folder / "top_mosaic_09cm_area30.tif")
    archive = read(tmp_path)
    assert [top.label for top in archive.tops] == [None, label]
    assert read(tmp_path, labels="no_boundary").tops[1].label is None


@pytest.mark.parametrize(
    "folder",
    [
        "gts_eroded_for_participants",
        "ISPRS_semantic_labeling_Vaihingen_ground_truth_eroded_for_participants",
        ERODED_COMPLETE,
        f"{ERODED_COMPLETE}/{ERODED_COMPLETE}",
        ".",
    ],
)
def test_places_of_eroded_labels(tmp_path, folder):
    write(tmp_path, ["area1", "area30"])
    label = touch(tmp_path / folder / "top_mosaic_09cm_area30_noBoundary.tif")
    archive = read(tmp_path, labels="no_boundary")
    assert [top.label for top in archive.tops] == [None, label]
    assert read(tmp_path).tops[1].label is None


def test_all_label_zips_together(tmp_path):
    write(tmp_path, ["area1", "area2"])
    touch(tmp_path / "gts_for_participants" / "top_mosaic_09cm_area1.tif")
    for area in ("area1", "area2"):
        touch(tmp_path / f"top_mosaic_09cm_{area}.tif")
        touch(tmp_path / f"top_mosaic_09cm_{area}_noBoundary.tif")
        touch(tmp_path / COMPLETE / f"top_mosaic_09cm_{area}.tif")
        touch(tmp_path / ERODED_COMPLETE / f"top_mosaic_09cm_{area}_noBoundary.tif")
    full = [top.label.relative_to(tmp_path).parent.as_posix() for top in read(tmp_path).tops]
    assert full == ["gts_for_participants", COMPLETE]
    eroded = [top.label.parent.name for top in read(tmp_path, labels="no_boundary").tops]
    assert eroded == [ERODED_COMPLETE, ERODED_COMPLETE]


def test_area9_has_an_eroded_label_but_no_image(tmp_path):
    write(tmp_path, ["area8", "area10"])
    for area in ("area8", "area9", "area10"):
        touch(tmp_path / ERODED_COMPLETE / f"top_mosaic_09cm_{area}_noBoundary.tif")
    archive = read(tmp_path, labels="no_boundary")
    assert [top.id for top in archive.split("all", need_label=True)] == ["area8", "area10"]


def test_an_image_of_area9_is_refused(tmp_path):
    write(tmp_path, ["area8", "area9"])
    with pytest.raises(ValueError, match="top has tile area9, which is none of the benchmark's 33; remove the file"):
        read(tmp_path)


def test_root_above_the_zips_own_folder(tmp_path):
    write(tmp_path / "ISPRS_semantic_labeling_Vaihingen", ["area1"])
    label = touch(tmp_path / "ISPRS_semantic_labeling_Vaihingen" / "gts_for_participants" / "top_mosaic_09cm_area1.tif")
    (top,) = read(tmp_path).tops
    assert top.label == label


def test_normalised_heights_are_not_the_dsm(tmp_path):
    write(tmp_path, ["area1"])
    touch(tmp_path / "ndsm" / "dsm_09cm_matching_area1_normalized.jpg")
    touch(tmp_path / "dsm" / "dsm_09cm_matching_area1_normalized.tif")
    assert read(tmp_path).tops[0].dsm == tmp_path / "dsm" / "dsm_09cm_matching_area1.tif"
    (tmp_path / "dsm" / "dsm_09cm_matching_area1.tif").unlink()
    with pytest.raises(ValueError, match=r"top_mosaic_09cm_area1.tif: no DSM of tile area1 found; put it in .*dsm"):
        read(tmp_path)


def test_missing_root_and_images(tmp_path):
    with pytest.raises(
        ValueError, match=r"nowhere: no such folder; set archive.root to the folder that holds top, dsm"
    ):
        read(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"no orthophoto found in top; correct archive.root"):
        read(tmp_path)


def test_two_files_of_one_area(tmp_path):
    write(tmp_path, ["area1"])
    touch(tmp_path / "top" / "top_mosaic_09cm_area01.tiff")
    with pytest.raises(ValueError, match="is a second file of tile area1 beside"):
        read(tmp_path)
