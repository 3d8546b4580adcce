"""Station 1, archives: ISPRS Vaihingen, 33 areas of about 2000 x 2500 pixels of 9 cm (paper, section III-A; target).

Under the root, as the download's zips unpack::

    top/top_mosaic_09cm_area1.tif                     orthophotos, bands infrared-red-green
    dsm/dsm_09cm_matching_area1.tif                   heights in metres
    gts_for_participants/top_mosaic_09cm_area1.tif    labels of the 16 areas that were public first
    top_mosaic_09cm_area1.tif                         labels of the "ground_truth_COMPLETE" zip: in the root, or in a
                                                      folder that is named like the zip
    gts_eroded_for_participants/top_mosaic_09cm_area1_noBoundary.tif
    top_mosaic_09cm_area1_noBoundary.tif              the same with eroded borders
"""

from __future__ import annotations

from drdg.config import VaihingenArchive
from drdg.datasets.base import CLASSES, PALETTE, Archive, Top, check_root
from drdg.datasets.isprs import check_dsms, check_images, find_labels, find_layer
from drdg.datasets.labels import CubeCorners

NUMBERS = (*range(1, 9), *range(10, 18), *range(20, 25), *range(26, 36), 37, 38)
AREAS = tuple(f"area{number}" for number in NUMBERS)
"""The 33 areas. (Of area 9 there is an eroded label, but no orthophoto.)"""

VALIDATION = (2, 5, 7, 8, 13, 20, 22, 24)
"""Paper, section III-A: "the 2nd, 5th, 7th, 8th, 13th, 20th, 22nd, and 24th TOPs" validate, the others are the test."""

AREA = r"area_?(\d{1,2})"
ORTHOPHOTO = rf"{AREA}(?!\d)"
BORDERLESS = r"no_?boundary"

# Folder names are matched in lower case without "_"; None is the root itself.
LABELS: dict[str, tuple[tuple[str | None, str], ...]] = {
    "full": (("gtsforparticipants", rf"{AREA}$"), (r"(?!.*eroded).*complete", rf"{AREA}$"), (None, rf"{AREA}$")),
    "no_boundary": (
        ("gtserodedforparticipants", rf"{AREA}(?:_{BORDERLESS})?$"),
        (".*groundtrutherodedforparticipants", rf"{AREA}(?:_{BORDERLESS})?$"),
        (".*erodedcomplete", rf"{AREA}(?:_{BORDERLESS})?$"),
        (None, rf"{AREA}_{BORDERLESS}$"),
    ),
}
LABEL_PLACES = {
    "full": "gts_for_participants or ISPRS_semantic_labeling_Vaihingen_ground_truth_COMPLETE",
    "no_boundary": "gts_eroded_for_participants or ISPRS_semantic_labeling_Vaihingen_ground_truth_eroded_COMPLETE",
}


def open_vaihingen(config: VaihingenArchive) -> Archive:
    """The archive under ``config.root``, with as many of the 33 areas as there are; ids are ``area1`` to ``area38``.

    Splits: ``all``, the paper's ``val`` and, the rest, ``test``. With ``val_by=position`` the paper's numbers are
    positions in the benchmark's list of 33, so a partial download is split like the whole. Areas without label are
    kept, with ``label=None``; labels and DSMs without orthophoto are ignored. Raises ``ValueError`` when the root is
    missing, no orthophoto is found, one is of an unknown area or twice there, or one has no DSM.
    """
    root = config.root
    check_root(root, "top, dsm and the label folders of ISPRS Vaihingen")
    images = find_layer(root, "top", ORTHOPHOTO, prefix="area")
    check_images(images, AREAS, root, "top")
    dsms = find_layer(root, "dsm", rf"{AREA}$", prefix="area")
    check_dsms(images, dsms, root, "dsm")
    labels = find_labels(root, LABELS[config.labels], prefix="area")
    validation = validation_areas(config.val_by)
    areas = [area for area in AREAS if area in images]
    return Archive(
        name="vaihingen",
        tops=tuple(Top(area, images[area], dsms[area], labels.get(area)) for area in areas),
        bands=(1, 2, 3),
        classes=CLASSES,
        palette=PALETTE,
        splits={
            "val": tuple(area for area in areas if area in validation),
            "test": tuple(area for area in areas if area not in validation),
        },
        labels=CubeCorners(PALETTE),
        label_place=f"{LABEL_PLACES[config.labels]} in {root}",
    )


def validation_areas(val_by: str) -> tuple[str, ...]:
    """The paper's eight validation areas, its numbers being read as area numbers or as positions counted from 1."""
    if val_by == "area":
        return tuple(f"area{number}" for number in VALIDATION)
    assert val_by == "position", val_by
    return tuple(AREAS[position - 1] for position in VALIDATION)
