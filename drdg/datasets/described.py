"""Station 1, archives: any city whose files are described in the configuration instead of in code.

Image, DSM and label each have one pattern, relative to the root, in which ``{id}`` stands for the TOP's id, ``*`` and
``?`` for parts of a name, and ``**/`` for any folders. Files belong together when their ids are the same.
"""

from __future__ import annotations

import colorsys
import difflib
import re
from pathlib import Path

from drdg.config import DescribedArchive
from drdg.datasets.base import CLASSES, NAME, PALETTE, Archive, Top, check_root, natural_key
from drdg.datasets.labels import RGB, VOID, ExactColours, ExactValues, LabelCode

DEFAULT_VOID: list[RGB | int] = [(0, 0, 0)]


def open_described(config: DescribedArchive) -> Archive:
    """The archive that ``config`` describes.

    Splits: ``all``, those of the configuration, and ``test``, by default all TOPs that are in no other split. A TOP
    whose label does not exist is kept, with ``label=None``. Raises ``ValueError``, naming key or file and cure, when
    the root is missing, a pattern is wrong or matches nothing, two files have the same id, a TOP has no DSM although a
    pattern is given, a split names an unknown TOP, or classes and void colours contradict each other.
    """
    _check_name("archive.name", config.name)
    check_root(config.root, f"the archive {config.name}")
    code, palette = _label_code(config)
    if min(config.bands) < 1:
        raise ValueError(f"archive.bands={list(config.bands)} counts from 0; bands are counted from 1")
    images = _find(config.root, "image", config.image)
    dsms = {} if config.dsm is None else _find(config.root, "dsm", config.dsm)
    labels = {} if config.label is None else _find(config.root, "label", config.label)
    ids = sorted(images, key=natural_key)
    without = [top for top in ids if top not in dsms]
    if config.dsm is not None and without:
        raise ValueError(
            f"{images[without[0]]}: no DSM of TOP {without[0]!r} matches archive.dsm={config.dsm!r} (missing for "
            f"{len(without)} of {len(ids)} TOPs); add the file, correct the pattern or set archive.dsm=null"
        )
    if config.label is not None and not labels.keys() & images.keys():
        label = min(labels, key=natural_key)
        raise ValueError(
            f"{labels[label]}: archive.label={config.label!r} reads its id as {label!r}, and no label has the id of an "
            f"image, the first of which is {ids[0]!r}; correct one of the two patterns"
        )
    return Archive(
        name=config.name,
        tops=tuple(Top(top, images[top], dsms.get(top), labels.get(top)) for top in ids),
        bands=config.bands,
        classes=tuple(config.classes),
        palette=palette,
        splits=_splits(config, ids),
        labels=code,
        label_place=f"{config.root / config.label}"
        if config.label
        else "files and give their pattern as archive.label",
    )


def _find(root: Path, layer: str, pattern: str) -> dict[str, Path]:
    """Files that match ``pattern``, by id."""
    key = f"archive.{layer}={pattern!r}"
    placeholders = set(re.findall(r"\{[^{}]*\}", pattern))
    if placeholders != {"{id}"}:
        raise ValueError(f"{key} must have the placeholder {{id}}, and no other, where the TOP's id is in the path")
    if Path(pattern).is_absolute() or any("**" in part and part != "**" for part in pattern.split("/")):
        raise ValueError(
            f"{key} must start from archive.root and have ** only as a whole folder, as in **/x_{{id}}.tif"
        )
    pattern = Path(pattern).as_posix()  # without "./" and "//", as the paths that are found
    expression = _expression(pattern)
    found: dict[str, Path] = {}
    for path in sorted(set(root.glob(pattern.replace("[", "[[]").replace("{id}", "*")))):
        match = expression.fullmatch(path.relative_to(root).as_posix())
        if match is None or path.name.startswith(".") or not path.is_file():
            continue
        top = match["id"]
        if not NAME.fullmatch(top):
            raise ValueError(
                f"{path}: its id {top!r} by {key} has other signs than letters, digits, '_' and '-'; "
                "narrow the pattern or rename the file"
            )
        if top in found:
            raise ValueError(
                f"{path}: has the id {top!r} by {key}, as has {found[top]}; make the pattern more specific"
            )
        found[top] = path
    if not found:
        raise ValueError(f"{root}: no file matches {key}; correct the pattern or archive.root")
    return found


def _expression(pattern: str) -> re.Pattern[str]:
    """The pattern as a regular expression with the group ``id``; a second ``{id}`` must equal the first."""
    parts = []
    for part in re.split(r"(\{id\}|\*\*/|\*|\?)", pattern):
        if part == "{id}":
            parts.append("(?P=id)" if "(?P<id>[^/]+)" in parts else "(?P<id>[^/]+)")
        else:
            parts.append({"**/": "(?:[^/]+/)*", "*": "[^/]*", "?": "[^/]"}.get(part, re.escape(part)))
    return re.compile("".join(parts))


def _splits(config: DescribedArchive, ids: list[str]) -> dict[str, tuple[str, ...]]:
    splits = {}
    for name, members in config.splits.items():
        if name == "all":
            raise ValueError("archive.splits.all is not to be given; it always is every TOP of the archive")
        for member in members:
            if member not in ids:
                near = difflib.get_close_matches(member, ids, n=1, cutoff=0.0)[0]
                raise ValueError(
                    f"archive.splits.{name} names TOP {member!r}, which is not in {config.root}; did you mean {near!r}?"
                )
        splits[name] = tuple(top for top in ids if top in members)
    taken = {top for members in splits.values() for top in members}
    splits.setdefault("test", tuple(top for top in ids if top not in taken))
    return splits


def _label_code(config: DescribedArchive) -> tuple[LabelCode, tuple[RGB, ...]]:
    """How labels are decoded, and the colours of maps."""
    classes = list(config.classes.values())
    if not 1 <= len(classes) < VOID:
        raise ValueError(f"archive.classes has {len(classes)} classes; give 1 to {VOID - 1}")
    colours = [value for value in classes if not isinstance(value, int)]
    values = [value for value in classes if isinstance(value, int)]
    if colours and values:
        raise ValueError(f"archive.classes mixes colours ({colours[0]}) and values ({values[0]}); give one kind only")
    # Black as void is the default for colours; for values it says nothing, so there is then no void value.
    void = [] if values and config.void == DEFAULT_VOID else config.void
    void_colours = [value for value in void if not isinstance(value, int)]
    void_values = [value for value in void if isinstance(value, int)]
    if (colours and void_values) or (values and void_colours):
        kind = "colours" if colours else "values"
        raise ValueError(f"archive.void has {void[0]!r} while archive.classes has {kind}; give {kind} in both")
    _check_distinct([*classes, *void], list(config.classes))
    if values:
        return ExactValues(tuple(values), tuple(void_values)), map_palette(list(config.classes))
    return ExactColours(tuple(colours), tuple(void_colours)), tuple(colours)


def _check_distinct(codes: list[RGB | int], names: list[str]) -> None:
    """Raise ``ValueError`` for a code outside 0..255 or one that stands for two things."""
    owners: dict[RGB | int, str] = {}
    for position, code in enumerate(codes):
        owner = f"archive.classes.{names[position]}" if position < len(names) else "archive.void"
        if not all(0 <= channel <= 255 for channel in ((code,) if isinstance(code, int) else code)):
            raise ValueError(f"{owner} has {code!r}, but label bands are 8 bit; give numbers from 0 to 255")
        if code in owners:
            raise ValueError(f"{owner} and {owners[code]} both have {code!r}; give each label colour or value once")
        owners[code] = owner


def map_palette(names: list[str]) -> tuple[RGB, ...]:
    """The ISPRS colour for an ISPRS class, else one of evenly spread hues, for classes that are values on disk."""
    known = dict(zip(CLASSES, PALETTE, strict=True))
    # Steps of the golden ratio keep the hues of any number of classes apart.
    hues = (colorsys.hsv_to_rgb(position * 0.618034 % 1, 0.75, 0.85) for position in range(len(names)))
    spread = [(round(255 * red), round(255 * green), round(255 * blue)) for red, green, blue in hues]
    return tuple(known.get(name, colour) for name, colour in zip(names, spread, strict=True))


def _check_name(key: str, name: str) -> None:
    if not NAME.fullmatch(name):
        raise ValueError(f"{key}={name!r} becomes a folder's name; use letters, digits, '_' and '-' only")
