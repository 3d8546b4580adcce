"""Station 2, writer: samples into WebDataset tar shards that are whole or not there; shared by build and translation.

A shard is a plain tar (``drdg.shards.tar``). Beside it, ``<shard>.index.json`` says where each array's
bytes lie, and is written after it: a shard counts only with its index. A folder counts only with ``manifest.json``,
written last. Every file is whole or not there (``drdg.files``) and holds no time, user or path, so that writing it
again gives the same bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from drdg.datasets.base import VOID
from drdg.files import SEAL, clear_abandoned, is_sealed, seal, whole_file, write_json, xxh128
from drdg.shards.codec import RAW, Codec, npy_header
from drdg.shards.crew import ALONE, Crew
from drdg.shards.tar import EncodedSample, ShardFile, encode

MANIFEST = "manifest.json"
ENTRY = {"file", "samples", "bytes", "xxh128", "index_xxh128"}
# Names from a manifest become parts of commands and paths: nothing that a shell or a file system reads otherwise.
SHARD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*\.tar")
PLAN = re.compile(r"[A-Za-z0-9_-]+")


def shard_name(number: int) -> str:
    """File name of a shard."""
    return f"shard-{number:06d}.tar"


def index_path(shard: Path) -> Path:
    """Where a shard's index lies."""
    return shard.with_suffix(".index.json")


def write_shard(path: Path, samples: Iterable[Mapping[str, Any]], plan: str, codec: Codec = RAW) -> None:
    """Write ``samples`` to the tar ``path`` and its index, both or neither.

    A sample maps ``__key__`` to its name and each member's suffix to its value: ``*.npy`` to an array, ``json`` to
    plain values. ``plan`` is the digest of what decided the samples; it is kept in the index. The bytes depend on
    nothing but the arguments (and, compressed, on the version of the Zstandard library).
    """
    write_encoded(path, (encode(sample, codec) for sample in samples), plan, codec)


def write_encoded(path: Path, samples: Iterable[EncodedSample], plan: str, codec: Codec) -> None:
    """Write samples that have been encoded with ``codec``; see :func:`write_shard`."""
    with whole_file(path) as file:
        tar = ShardFile(file)
        for sample in samples:
            tar.add(sample)
        tar.close()
    index = {
        "plan": plan,
        "shard": path.name,
        "codec": codec.name,
        "bytes": tar.bytes,
        "xxh128": tar.hash.hexdigest(),
        "label_pixels": {str(value): int(count) for value, count in enumerate(tar.label_pixels) if count},
        "samples": tar.samples,
    }
    write_json(index_path(path), index)


def is_whole(path: Path, plan: str) -> bool:
    """Whether ``path`` is a shard that was written to its end, for this ``plan``."""
    try:
        index = json.loads(index_path(path).read_bytes())
        return index["plan"] == plan and index["bytes"] == path.stat().st_size
    except FileNotFoundError:
        return False
    except (ValueError, KeyError, TypeError):  # an index that is none is one that must be written again
        return False


def discard_changed(folder: Path) -> None:
    """Remove the shards of a finished folder whose index is not the manifest's, so that they are written again."""
    manifest = read_manifest(folder)
    for entry in manifest["shards"] if manifest else []:
        index = index_path(folder / entry["file"])
        if index.is_file() and xxh128(index) != entry["index_xxh128"]:
            index.unlink()


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a finished folder, None when there is none; ``ValueError`` when it is damaged."""
    path = folder / MANIFEST
    try:
        text = path.read_bytes()
        manifest = json.loads(text)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(f"{path}: is not JSON ({error}); remove it and build again: what is whole is kept") from error
    if not isinstance(manifest, dict) or not {"plan", "domain", "shards"} <= manifest.keys() or not manifest["shards"]:
        raise ValueError(f"{path}: is no manifest of shards; remove it and build again: what is whole is kept")
    if SEAL in manifest and not is_sealed(text):
        raise ValueError(f"{path}: is not as it was written; remove it and build again: what is whole is kept")
    require_entries(manifest, str(folder))
    return manifest


def require_entries(manifest: dict[str, Any], name: str) -> None:
    """Raise ``ValueError`` unless a manifest describes its shards as this version does, by names that are safe."""
    if not all(isinstance(entry, dict) and entry.keys() >= ENTRY for entry in manifest["shards"]):
        raise ValueError(f"{name}: its manifest was written by another version of this suite; build these shards again")
    names = [(manifest["plan"], PLAN), *((entry["file"], SHARD) for entry in manifest["shards"])]
    for text, form in names:
        if not isinstance(text, str) or not form.fullmatch(text):
            raise ValueError(f"{name}: its manifest has the name {text!r}, which no build gives; build it again")


def finish(
    folder: Path, shards: Sequence[str], plan: str, description: Mapping[str, Any], crew: Crew = ALONE
) -> dict[str, Any]:
    """Write the manifest of a folder whose ``shards`` are all whole, and clear away what killed builds left.

    The manifest is ``description`` (which holds ``domain`` with its ``classes``) and the totals over the shards, whose
    indexes the ``crew`` reads together. All ranks return it.
    """
    mine = range(crew.rank, len(shards), crew.size)
    read = [_read_entry(folder / shards[number], plan) for number in mine]
    entries: list[dict[str, Any]] = [{}] * len(shards)
    for rank, part in enumerate(crew.gather([entry for entry, _ in read])):
        entries[rank :: crew.size] = part
    pixels = crew.total(sum((counts for _, counts in read), np.zeros(256, dtype=np.int64)))
    manifest = seal({**description, **_totals(entries, pixels, description["domain"]["classes"], plan)})

    def write() -> None:
        clear_abandoned(folder)
        write_json(folder / MANIFEST, manifest)

    crew.shared(write)
    return manifest


def _read_entry(shard: Path, plan: str) -> tuple[dict[str, Any], np.ndarray]:
    """What the manifest says of a shard, and how many label pixels it has of each value."""
    assert is_whole(shard, plan), f"{shard} is not whole"
    index = json.loads(index_path(shard).read_bytes())
    pixels = np.zeros(256, dtype=np.int64)
    for value, count in index["label_pixels"].items():
        pixels[int(value)] = count
    entry = {
        "file": shard.name,
        "samples": len(index["samples"]),
        "bytes": index["bytes"],
        "xxh128": index["xxh128"],
        "index_xxh128": xxh128(index_path(shard)),
    }
    return entry, pixels


def _totals(entries: list[dict[str, Any]], pixels: np.ndarray, classes: list[str], plan: str) -> dict[str, Any]:
    assert not pixels[len(classes) : VOID].any(), "a label holds ids beyond the classes"
    return {
        "plan": plan,
        "samples": sum(entry["samples"] for entry in entries),
        "class_pixels": {name: int(count) for name, count in zip(classes, pixels[: len(classes)], strict=True)},
        "void_pixels": int(pixels[VOID]),
        "shards": entries,
    }


def write_array(path: Path, array: np.ndarray) -> None:
    """An array as ``.npy``, whole or not at all."""
    array = np.ascontiguousarray(array)
    with whole_file(path) as file:
        file.write(npy_header(array.shape, array.dtype))
        file.write(array.data.cast("B"))
