"""Station 2, location: where a finished folder of shards lies, and how a shard of it comes to be a local file."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

from drdg.config import digest
from drdg.files import SEAL, is_sealed
from drdg.shards.cache import bring, own_folder
from drdg.shards.remote import Failed, blocks, check_place, is_remote, retried, url_of
from drdg.shards.writer import MANIFEST, index_path, read_manifest, require_entries

KEYS = {"plan", "domain", "shards"}


class Location:
    """A place of finished shards: a folder of this machine, or a URL or command behind which such a folder lies.

    A ``Path`` is always a folder, a text only when it does not begin like a URL.

    A URL is what webdataset's ``gopen`` knows (``http:``, ``https:``, ``gs:``, ``hf:``, ``file:`` and others), with
    ``{}`` where a file's name goes, or without for a name at its end; a command is ``pipe:COMMAND`` with ``{}``. What
    is read from these is copied whole to a folder of this node, ``cache``, or if that is None to one of this user in
    the system's temporary folder. May be pickled, and used by several threads at once.

    Raises ``ValueError`` when a command does not say where the file's name goes.
    """

    def __init__(self, place: str | Path, cache: Path | None = None) -> None:
        self.name = str(place)
        """For messages."""
        self._folder = Path(place) if isinstance(place, Path) or not is_remote(self.name) else None
        self._cache = cache
        self._remote_manifest: dict[str, Any] | None = None
        if self._folder is None:
            check_place(self.name)

    def __str__(self) -> str:
        return self.name

    def manifest(self) -> dict[str, Any]:
        """The manifest of the shards that lie there; a remote one is read once.

        Raises ``ValueError`` when there is none, it is damaged, or it is none that this version writes.
        """
        if self._folder is not None:
            manifest = read_manifest(self._folder)
            if manifest is None:
                raise ValueError(f"{self.name}: is not a finished folder of shards; run shards/build.py to the end")
            return manifest
        if self._remote_manifest is None:
            url = url_of(self.name, MANIFEST)
            manifest = retried(url, lambda: _read_manifest(url))
            require_entries(manifest, self.name)
            self._remote_manifest = manifest
        return self._remote_manifest

    def check(self, entry: dict[str, Any]) -> None:
        """Raise ``ValueError`` when the shard of this entry of the manifest is seen, without reading it, to be bad."""
        if self._folder is None:
            return
        path = self._folder / entry["file"]
        size = path.stat().st_size if path.is_file() else None
        if size != entry["bytes"]:
            found = "is missing" if size is None else f"has {size} bytes instead of {entry['bytes']}"
            raise _changed(path, f"it {found}")

    def fetch(self, entry: dict[str, Any]) -> tuple[Path, dict[str, Any]]:
        """The whole shard of this entry of the manifest as a local file, and its index.

        Raises ``ValueError`` when it is missing or damaged, cannot be read, or its copy cannot be written.
        """
        if self._folder is None:
            path = self._copies() / entry["file"]
            index = index_path(path)
            bring(url_of(self.name, index.name), index, entry["index_xxh128"])
            bring(url_of(self.name, path.name), path, entry["xxh128"], entry["bytes"])
            return path, json.loads(index.read_bytes())
        self.check(entry)
        path = self._folder / entry["file"]
        text = index_path(path).read_bytes() if index_path(path).is_file() else b""
        if _xxh128(text) != entry["index_xxh128"]:
            raise _changed(index_path(path), "its checksum is not the manifest's")
        return path, json.loads(text)

    def _copies(self) -> Path:
        """Where copies of these very shards are; others of the same plan, say a translator's, have another folder."""
        manifest = self.manifest()
        name = f"{manifest['plan']}-{digest(manifest['shards'], ignore=())[:8]}"
        return (own_folder() if self._cache is None else self._cache) / name


def _read_manifest(url: str) -> dict[str, Any]:
    cure = "run shards/build.py to the end and copy the whole folder there"
    with closing(blocks(url)) as source:
        text = b"".join(source)
    try:
        manifest = json.loads(text)
    except ValueError as error:
        raise Failed(f"is not JSON ({error})", cure) from error
    if not isinstance(manifest, dict) or not manifest.keys() >= KEYS or not manifest["shards"]:
        raise Failed("is no manifest of shards", cure)
    if SEAL in manifest and not is_sealed(text):
        raise Failed("is damaged: its checksum is not its own", cure)
    return manifest


def _xxh128(text: bytes) -> str:
    import xxhash

    return xxhash.xxh3_128_hexdigest(text)


def _changed(path: Path, how: str) -> ValueError:
    return ValueError(f"{path}: {how}; it was damaged after it was built, run the same build again to mend it")
