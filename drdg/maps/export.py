"""Station 5, maps: trained networks as files that need none of our code, checked, each with its card."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from drdg.files import json_text, whole_file, write_text

if TYPE_CHECKING:
    from torch import Tensor

    from drdg.config import Config
    from drdg.maps.subjects import Subject
    from drdg.shards.location import Location

REGISTRY = "models:/"
NEEDED = {"onnx": ("onnx", "onnxscript", "onnxruntime")}
SHOWN_TILES = 4


@dataclass(frozen=True)
class Order:
    """What is to be exported, and what is known of it."""

    out: Path
    segmentor: str | Path | None = None
    """A file, or ``models:/...`` for one of MLflow's registry."""
    generator: Path | None = None
    config: Config | None = None
    """Of the generator; None for the one that its file names."""
    formats: tuple[str, ...] = ("pt2", "onnx")
    tolerance: float = 1e-4
    shards: tuple[str | Path, ...] = ()
    """Folders or URLs of the shards that were learned from."""
    scores: Path | None = None
    licence: str | None = None
    store: str | None = None
    """Where the registry is; None for the environment's."""

    @property
    def is_registered(self) -> bool:
        """Whether the segmentor is one of MLflow's registry."""
        return isinstance(self.segmentor, str) and self.segmentor.startswith(REGISTRY)

    def files(self) -> list[Path]:
        """The files that will be written."""
        names = [name for name, path in (("segmentor", self.segmentor), ("generator", self.generator)) if path]
        return [self.out / f"{name}.{end}" for name in names for end in (*self.formats, "json", "md")]


def order_of_row(folder: Path, order: Order) -> Order:
    """``order`` with what a row's folder (as ``runs/demo/drdg``) has and the order does not name.

    Raises ``ValueError`` when there is no trained network in it.
    """
    segmentor = folder / "segment" / "segmentor.safetensors"
    generator = folder / "gan" / "translator.safetensors"
    translated, scores = folder / "translate" / "shards", folder / "evaluate" / "metrics.json"
    if not (segmentor.is_file() or generator.is_file()):
        raise ValueError(f"{folder}: holds no trained network; name a row's folder, such as runs/demo/drdg")
    return replace(
        order,
        segmentor=order.segmentor or (segmentor if segmentor.is_file() else None),
        generator=order.generator or (generator if generator.is_file() else None),
        shards=order.shards or ((translated,) if (translated / "manifest.json").is_file() else ()),
        scores=order.scores or (scores if scores.is_file() else None),
    )


def check_order(order: Order) -> None:
    """Raise ``ValueError`` for an order that cannot be met, without loading a network."""
    if order.segmentor is None and order.generator is None:
        raise ValueError("there is nothing to export; name --row, --segmentor or --generator")
    for path in (None if order.is_registered else order.segmentor, order.generator):
        if path is not None and not Path(path).is_file():
            raise ValueError(f"{path}: no such file; name the segmentor.safetensors or translator.safetensors of a run")
    if order.scores is not None and not order.scores.is_file():
        raise ValueError(f"{order.scores}: no such file; evaluate the segmentor first, or leave out its scores")
    for kind in order.formats:
        if missing := [name for name in NEEDED.get(kind, ()) if importlib.util.find_spec(name) is None]:
            raise ValueError(
                f"the format {kind} needs {', '.join(missing)}, not installed here; "
                "pip install 'drdg[export]', or take --formats pt2"
            )


def export(order: Order) -> list[Path]:
    """Write the networks in every format, each with a card, and return the paths.

    Every file has been read back and compared with its network before any of that network's files is there. Raises
    ``ValueError`` for what cannot be read, and for files that do not compute what the network does.
    """
    from drdg.maps.subjects import open_generator, open_segmentor
    from drdg.shards.location import Location

    check_order(order)
    places = [Location(place) for place in order.shards]
    for place in places:
        place.manifest()
    written = []
    if order.segmentor is not None:
        with _file(order) as path:
            written += _export(open_segmentor(path), order, places)
    if order.generator is not None:
        written += _export(open_generator(order.generator, order.config), order, places)
    return written


@contextmanager
def _file(order: Order) -> Iterator[Path]:
    """The segmentor's file, of a registered one as a copy that is there within the block."""
    if not order.is_registered:
        yield Path(str(order.segmentor))
        return
    from drdg.maps.run import find_weights
    from drdg.tracking import fetch_model

    uri = str(order.segmentor)
    with TemporaryDirectory(prefix="drdg-model-") as folder:
        yield find_weights(fetch_model(uri, Path(folder), store=order.store), uri)


def _export(subject: Subject, order: Order, places: Sequence[Location]) -> list[Path]:
    from drdg.maps.card import contract, make_card, markdown, read_scores
    from drdg.maps.roundtrip import write

    scores = None
    if subject.name == "segmentor" and order.scores is not None:
        scores = read_scores(order.scores, subject)
    notes = contract(subject)
    pictures = _pictures(subject, places)
    files = {}
    for kind in order.formats:
        found = write(subject, kind, notes, tolerance=order.tolerance, pictures=pictures)
        files[f"{subject.name}.{kind}"] = found
        print(
            f"{subject.name}.{kind}: {found.opening}; differs by at most "
            f"{found.largest_difference:.1e} of the largest value (tolerance {order.tolerance:g}; "
            f"{'; '.join(found.compared)})",
            flush=True,
        )
        for reason in found.refused:
            print(f"{subject.name}.{kind}: {reason}", flush=True)
    card = make_card(subject, files, tolerance=order.tolerance, shards=places, scores=scores, licence=order.licence)
    paths = []
    for name, found in files.items():
        with whole_file(order.out / name) as file:
            file.write(found.data)
        paths.append(order.out / name)
    for end, text in (("json", json_text(card)), ("md", markdown(card))):
        write_text(order.out / f"{subject.name}.{end}", text)
        paths.append(order.out / f"{subject.name}.{end}")
    return paths


def _pictures(subject: Subject, places: Sequence[Location]) -> list[Tensor]:
    """A few real tiles (3, H, W) of bytes, of the shards that a folder of this machine holds."""
    import torch

    from drdg.shards.store import ShardStore

    side = (subject.config.source if subject.name == "generator" else subject.config.target).tile
    for place in places:
        if place.manifest()["domain"]["tile"] == side:
            store = ShardStore(place)
            tiles = [store[number].image for number in range(min(SHOWN_TILES, len(store)))]
            return [torch.from_numpy(tile.transpose(2, 0, 1).copy()) for tile in tiles]
    return []
