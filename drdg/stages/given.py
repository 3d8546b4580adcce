"""Station 6, stages: a domain whose shards were built elsewhere and are given, so that its archive need not be here."""

from __future__ import annotations

from typing import Any

from drdg.config import ArchiveConfig, Config, DescribedArchive, DomainConfig
from drdg.datasets import CLASSES
from drdg.shards.location import Location
from drdg.stages.records import archive_name


def find_given(config: Config) -> dict[str, Location]:
    """Where the shards lie of those domains, of ``source`` and ``target``, that have the knob ``shards``.

    Only the manifests are read. Raises ``ValueError`` when one cannot be, or is not what the configuration asks for.
    """
    given = {}
    for name in ("source", "target"):
        domain: DomainConfig = getattr(config, name)
        if domain.shards is not None:
            given[name] = Location(domain.shards, config.shards.cache)
            refuse_misfit(given[name].manifest()["domain"], domain, name, need_label=name == "source")
    return given


def refuse_misfit(has: dict[str, Any], domain: DomainConfig, name: str, *, need_label: bool) -> None:
    """Raise ``ValueError`` unless the given shards, which ``has`` describes, are of ``domain`` as it is configured."""
    key = f"{name}.shards={domain.shards}"
    wanted = {
        "archive": archive_name(domain.archive),
        "classes": list(classes_of(domain.archive)),
        **{knob: getattr(domain, knob) for knob in ("split", "tile", "stride", "edge")},
    }
    for knob, value in wanted.items():
        found = has.get(knob)
        if found != value:
            raise ValueError(
                f"{key}: was built with {knob}={_plain(found)}, but {name}.{knob} is {_plain(value)}; "
                f"configure {name}.{knob} as it was built or give other shards"
            )
    if need_label and not has.get("label"):
        raise ValueError(f"{key}: has no labels, which a source needs; give shards that were built as a source's")


def classes_of(archive: ArchiveConfig) -> tuple[str, ...]:
    """The class names of a configured archive, whose files need not be here."""
    return tuple(archive.classes) if isinstance(archive, DescribedArchive) else CLASSES


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
