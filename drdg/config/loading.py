"""From YAML files and ``key.sub=value`` overrides to a validated :class:`Config`."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ValidationError
from yaml import YAMLError

from drdg.config.presets import PRESETS
from drdg.config.schema import Config

# Knobs that say where things lie or how fast the work goes, not what is computed: a run is the same run without them.
# One that is not meant wherever its name occurs is named with the section it is in.
NOT_IN_DIGEST = frozenset(
    {"root", "workers", "log_every", "checkpoint_every", "keep_checkpoints", "threads", "timeout_s", "milestone_every"}
    | {"tracking", "run", "sweep", "cache", "source.shards", "target.shards", "gan.micro_batch"}
)

# A file or an override may change one knob of a domain; the others stay the paper's.
PAPER_DOMAINS = OmegaConf.create(
    {
        "source": {"archive": {"kind": "potsdam"}, "tile": 896, "stride": 896},
        "target": {"archive": {"kind": "vaihingen"}, "tile": 512, "stride": 256},
    }
)


def load_config(path: Path | str | None = None, overrides: Sequence[str] = ()) -> Config:
    """Merge preset, the files ``path`` is based on, ``path`` and ``overrides``, later ones winning.

    A file may name a ``base`` (relative to itself), which is read first. Raises ``ValueError`` with one sentence that
    names the key or the file and the cure.
    """
    layers = [] if path is None else _read_with_bases(Path(path), ())
    layers.append(_parse_overrides(overrides))
    merged = OmegaConf.merge(PAPER_DOMAINS, *layers)
    preset = OmegaConf.select(merged, "preset", default="paper")
    if preset not in PRESETS:
        raise ValueError(f"preset={preset!r} is unknown; it is one of {', '.join(PRESETS)}")
    merged = OmegaConf.merge(OmegaConf.create(PRESETS[preset]), merged)
    try:
        values = OmegaConf.to_container(merged, resolve=True)
    except OmegaConfBaseException as error:
        raise ValueError(f"configuration cannot be resolved: {_first_line(error)}") from error
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ValueError(_explain(error)) from error


def to_yaml(config: BaseModel) -> str:
    """The whole resolved configuration as YAML, which ``load_config`` reads back to an equal one."""
    return OmegaConf.to_yaml(OmegaConf.create(config.model_dump(mode="json")))


def digest(values: Any, ignore: Iterable[str] = NOT_IN_DIGEST) -> str:
    """Sixteen hex digits that name a configuration or part of one, without the knobs in ``ignore``."""
    if isinstance(values, BaseModel):
        values = values.model_dump(mode="json")
    # Not sorted: the order of an archive's classes decides their ids. The schema keeps that of all other keys.
    text = json.dumps(_without(values, frozenset(ignore)), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _without(values: Any, ignore: frozenset[str], section: str = "") -> Any:
    if isinstance(values, BaseModel):
        values = values.model_dump(mode="json")
    if isinstance(values, dict):
        kept = [key for key in values if key not in ignore and f"{section}.{key}" not in ignore]
        return {key: _without(values[key], ignore, str(key)) for key in kept}
    if isinstance(values, list | tuple):
        return [_without(value, ignore) for value in values]
    return values


def _read_with_bases(path: Path, seen: tuple[Path, ...]) -> list[DictConfig]:
    path = path.resolve()
    if path in seen:
        raise ValueError(f"{path}: 'base' leads back to this file; remove the circle")
    if not path.is_file():
        raise ValueError(f"{path}: no such configuration file; see configs/ for those there are")
    try:
        values = OmegaConf.load(path)
    except (OSError, YAMLError, OmegaConfBaseException) as error:
        raise ValueError(f"{path}: cannot be read as YAML ({_first_line(error)})") from error
    if not isinstance(values, DictConfig):
        raise ValueError(f"{path}: must be a mapping of keys to values")
    base = values.pop("base", None)
    before = [] if base is None else _read_with_bases(path.parent / str(base), (*seen, path))
    return [*before, values]


def _parse_overrides(overrides: Sequence[str]) -> DictConfig:
    for override in overrides:
        key, equals, _ = override.partition("=")
        if not equals or not key.strip():
            raise ValueError(f"{override!r} is not an override; write key.sub=value")
    try:
        return OmegaConf.from_dotlist(list(overrides))
    except (OmegaConfBaseException, YAMLError) as error:
        raise ValueError(f"overrides cannot be read: {_first_line(error)}") from error


def _explain(error: ValidationError) -> str:
    """One sentence for the first thing that is wrong, naming the key and the cure."""
    first = error.errors()[0]
    where = [str(part) for part in first["loc"]]
    if first["type"] == "extra_forbidden":
        key = ".".join(_without_tags(where))
        near = difflib.get_close_matches(key, known_keys(), n=1, cutoff=0.0)
        return f"unknown key {key!r}; did you mean {near[0]!r}?"
    message = first["msg"].removeprefix("Value error, ")
    key = ".".join(_without_tags(where))
    if first["type"] == "string_type" and isinstance(first["input"], int | float):
        message = f"YAML reads this entry as the number {first['input']}; put it in quotes"
    return f"{key}: {message}" if key else message


def _without_tags(where: list[str]) -> list[str]:
    """Drop the union tags that pydantic puts after ``archive`` in an error's place."""
    return [part for i, part in enumerate(where) if not (i and where[i - 1] == "archive" and part in ARCHIVE_KINDS)]


ARCHIVE_KINDS = ("potsdam", "vaihingen", "described")


def known_keys() -> list[str]:
    """Every key that a configuration may have, dotted."""
    return sorted(_keys_of(Config.model_json_schema(), Config.model_json_schema(), ""))


def _keys_of(schema: dict[str, Any], root: dict[str, Any], prefix: str) -> set[str]:
    """Walk a JSON schema's properties, following references and alternatives."""
    if "$ref" in schema:
        return _keys_of(root["$defs"][schema["$ref"].rsplit("/", 1)[-1]], root, prefix)
    keys: set[str] = set()
    for alternative in (*schema.get("anyOf", ()), *schema.get("oneOf", ()), *schema.get("allOf", ())):
        keys |= _keys_of(alternative, root, prefix)
    for name, value in schema.get("properties", {}).items():
        key = f"{prefix}{name}"
        keys |= {key} | _keys_of(value, root, f"{key}.")
    return keys


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
