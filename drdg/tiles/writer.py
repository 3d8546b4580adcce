"""Station 2, writer: samples into WebDataset tar shards that are whole or not there; shared by build and translation.

A shard is a plain tar of ``.npy`` and ``.json`` members. Beside it, ``<shard>.index.json`` says where each array's
bytes lie, and is written after it: a shard counts only with its index. A folder counts only with ``manifest.json``,
written last. Every file is whole or not there (``drdg.files``) and holds no time, user or path, so that writing it
again gives the same bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from drdg.datasets.base import VOID
from drdg.files import whole_file, write_json

MANIFEST = "manifest.json"
# What a killed build leaves of a file it was at.
UNFINISHED = "**/.*.tmp"


def shard_name(number: int) -> str:
    """File name of a shard."""
    return f"shard-{number:06d}.tar"


def index_path(shard: Path) -> Path:
    """Where a shard's index lies."""
    return shard.with_suffix(".index.json")


def write_shard(path: Path, samples: Iterable[Mapping[str, Any]], plan: str) -> None:
    """Write ``samples`` to the tar ``path`` and its index, both or neither.

    A sample maps ``__key__`` to its name and each member's suffix to its value: ``*.npy`` to an array, ``json`` to
    plain values. ``plan`` is the digest of what decided the samples; it is kept in the index.
    """
    import webdataset  # imports torch, three seconds that a dry run need not wait for

    labels = np.zeros(256, dtype=np.int64)
    with whole_file(path) as file:
        digesting = _Digesting(file)
        # gopen is not asked: the tar goes to our own file, which knows when it is whole.
        with webdataset.TarWriter(digesting, encoder=False, mtime=0, user="drdg", group="drdg", mode=0o644) as tar:
            for sample in samples:
                if "label.npy" in sample:
                    labels += np.bincount(sample["label.npy"].ravel(), minlength=256)
                tar.write({name: _encode(name, value) for name, value in sample.items()})
        file.flush()
        index = {
            "plan": plan,
            "shard": path.name,
            "codec": "raw",
            "bytes": digesting.bytes,
            "sha256": digesting.sha256.hexdigest(),
            "label_pixels": {str(value): int(count) for value, count in enumerate(labels) if count},
            "samples": _locate(Path(file.name)),
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
        if index.is_file() and hashlib.sha256(index.read_bytes()).hexdigest() != entry["index_sha256"]:
            index.unlink()


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a finished folder, None when there is none; ``ValueError`` when it is damaged."""
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(f"{path}: is not JSON ({error}); remove it and build again: what is whole is kept") from error
    if not isinstance(manifest, dict) or not {"plan", "domain", "shards"} <= manifest.keys() or not manifest["shards"]:
        raise ValueError(f"{path}: is no manifest of shards; remove it and build again: what is whole is kept")
    return manifest


def finish(folder: Path, shards: Sequence[str], plan: str, description: Mapping[str, Any]) -> None:
    """Write the manifest of a folder whose ``shards`` are all whole, and clear away what killed builds left.

    The manifest is ``description`` (which holds ``domain`` with its ``classes``) and the totals over the shards.
    """
    pixels = np.zeros(256, dtype=np.int64)
    entries = []
    for name in shards:
        assert is_whole(folder / name, plan), f"{folder / name} is not whole"
        text = index_path(folder / name).read_bytes()
        index = json.loads(text)
        for value, count in index["label_pixels"].items():
            pixels[int(value)] += count
        entries.append(
            {
                "file": name,
                "samples": len(index["samples"]),
                "bytes": index["bytes"],
                "sha256": index["sha256"],
                "index_sha256": hashlib.sha256(text).hexdigest(),
            }
        )
    classes = description["domain"]["classes"]
    assert not pixels[len(classes) : VOID].any(), "a label holds ids beyond the classes"
    manifest = {
        **description,
        "plan": plan,
        "samples": sum(entry["samples"] for entry in entries),
        "class_pixels": {name: int(count) for name, count in zip(classes, pixels[: len(classes)], strict=True)},
        "void_pixels": int(pixels[VOID]),
        "shards": entries,
    }
    for unfinished in folder.glob(UNFINISHED):
        unfinished.unlink(missing_ok=True)
    write_json(folder / MANIFEST, manifest)


def write_array(path: Path, array: np.ndarray) -> None:
    """An array as ``.npy``, whole or not at all."""
    with whole_file(path) as file:
        file.write(_npy(array))


class _Digesting:
    """A file that counts and digests what is written to it, so that a shard is not read again for its checksum."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.sha256 = hashlib.sha256()
        self.bytes = 0

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        self.bytes += len(data)
        return self.file.write(data)


def _encode(name: str, value: Any) -> Any:
    if name.startswith("__"):
        return value
    if name.endswith("npy"):
        return _npy(value)
    assert name.endswith("json"), f"no encoding for {name}"
    return json.dumps(value, sort_keys=True, allow_nan=False).encode()


def _npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
    return stream.getvalue()


def _locate(shard: Path) -> list[dict[str, Any]]:
    """Key and members of each sample, in the tar's order: where a member's bytes lie, and an array's own in them."""
    samples: list[dict[str, Any]] = []
    with tarfile.open(shard, "r:") as tar, shard.open("rb") as file:
        for member in tar:
            key, _, name = member.name.partition(".")
            if not samples or samples[-1]["key"] != key:
                samples.append({"key": key, "members": {}})
            place: dict[str, Any] = {"offset": member.offset_data, "size": member.size}
            if name.endswith("npy"):
                file.seek(member.offset_data)
                assert np.lib.format.read_magic(file) == (1, 0), name
                shape, _, dtype = np.lib.format.read_array_header_1_0(file)
                place |= {"data": file.tell(), "shape": list(shape), "dtype": dtype.str}
            samples[-1]["members"][name] = place
    return samples
