"""Station 1, archives: ISPRS Potsdam, 38 TOPs of 6000 x 6000 pixels of 5 cm (paper, section III-A; source domain).

Under the root, as the download's inner zips unpack::

    3_Ortho_IRRG/top_potsdam_2_10_IRRG.tif            orthophotos infrared-red-green (bands: irrg)
    2_Ortho_RGB/top_potsdam_2_10_RGB.tif              orthophotos red-green-blue (bands: rgb)
    4_Ortho_RGBIR/top_potsdam_2_10_RGBIR.tif          all four bands, read instead when the folder above is absent
    1_DSM/dsm_potsdam_02_10.tif                       heights in metres; numbers padded with zeros
    5_Labels_all/top_potsdam_2_10_label.tif           labels of 38 tiles
    5_Labels_for_participants/                        labels of the 24 tiles that were public first
    5_Labels_all_noBoundary/top_potsdam_2_10_label_noBoundary.tif
    5_Labels_for_participants_no_Boundary/            the same with eroded borders
"""

from __future__ import annotations

from pathlib import Path

from drdg.config import PotsdamArchive
from drdg.datasets.base import CLASSES, PALETTE, Archive, Top, check_root, natural_key
from drdg.datasets.isprs import check_dsms, check_images, find_labels, find_layer
from drdg.datasets.labels import CubeCorners

TRAIN = (
    *(f"{row}_{col}" for row in (2, 3, 4, 5) for col in (10, 11, 12)),
    *(f"{row}_{col}" for row in (6, 7) for col in (7, 8, 9, 10, 11, 12)),
)
"""The 24 tiles whose labels the benchmark gave to its participants."""

TEST = (
    *("2_13", "2_14", "3_13", "3_14", "4_13", "4_14", "4_15", "5_13", "5_14", "5_15"),
    *("6_13", "6_14", "6_15", "7_13"),
)
"""The 14 tiles whose labels the benchmark kept back for its test."""

TILES = tuple(sorted(TRAIN + TEST, key=natural_key))

# As delivered, dsm_potsdam_03_13.tif lacks its last column of pixels.
NARROW_DSM = "3_13"

NUMBERS = r"(?:^|\D)(\d{1,2})_(\d{1,2})"
ORTHOPHOTO = rf"{NUMBERS}(?!\d)"

# Folder names are matched in lower case without "_".
ORTHOPHOTOS = {
    "irrg": (("3_Ortho_IRRG", "3orthoirrg", (1, 2, 3)), ("4_Ortho_RGBIR", "4orthorgbir", (4, 1, 2))),
    "rgb": (("2_Ortho_RGB", "2orthorgb", (1, 2, 3)), ("4_Ortho_RGBIR", "4orthorgbir", (1, 2, 3))),
}
# The participants' labels come first: in the other download tile 4_12 was spoilt by lossy compression.
LABELS = {
    "full": (("5labelsforparticipants", rf"{NUMBERS}_label$"), ("5labelsall", rf"{NUMBERS}_label$")),
    "no_boundary": (
        ("5labelsforparticipantsnoboundary", rf"{NUMBERS}_label_no_?boundary$"),
        ("5labelsallnoboundary", rf"{NUMBERS}_label_no_?boundary$"),
    ),
}
LABEL_PLACES = {
    "full": "5_Labels_all or 5_Labels_for_participants",
    "no_boundary": "5_Labels_all_noBoundary or 5_Labels_for_participants_no_Boundary",
}


def open_potsdam(config: PotsdamArchive) -> Archive:
    """The archive under ``config.root``, with as many of the 38 tiles as there are.

    Splits: ``all``, and the benchmark's ``train`` (24 tiles) and ``test`` (14). Tiles without label are kept, with
    ``label=None``; labels and DSMs without orthophoto are ignored. Raises ``ValueError`` when the root is missing, no
    orthophoto is found, one is of an unknown tile or twice there, or one has no DSM.
    """
    root = config.root
    check_root(root, "3_Ortho_IRRG, 2_Ortho_RGB, 1_DSM and the label folders of ISPRS Potsdam")
    choices = ORTHOPHOTOS[config.bands]
    images: dict[str, Path] = {}
    bands = (1, 2, 3)
    for _, pattern, order in choices:
        if found := find_layer(root, pattern, ORTHOPHOTO):
            images, bands = found, order
            break
    check_images(images, TILES, root, " or ".join(folder for folder, _, _ in choices))
    dsms = find_layer(root, "1dsm", rf"{NUMBERS}$")
    check_dsms(images, dsms, root, "1_DSM")
    labels = find_labels(root, LABELS[config.labels])
    tiles = [tile for tile in TILES if tile in images]
    return Archive(
        name=f"potsdam_{config.bands}",
        tops=tuple(
            Top(tile, images[tile], dsms[tile], labels.get(tile), dsm_repeat_last_column=tile == NARROW_DSM)
            for tile in tiles
        ),
        bands=bands,
        classes=CLASSES,
        palette=PALETTE,
        splits={
            "train": tuple(tile for tile in tiles if tile in TRAIN),
            "test": tuple(tile for tile in tiles if tile in TEST),
        },
        labels=CubeCorners(PALETTE),
        label_place=f"{LABEL_PLACES[config.labels]} in {root}",
    )
