"""Station 1, archives: the name of an adaptation, from source to target, such as ``potsdam_irrg_to_vaihingen``."""

from __future__ import annotations

from drdg.config import ArchiveConfig, Config, DescribedArchive, PotsdamArchive
from drdg.datasets.generated import MARKER


def direction_of(config: Config) -> str:
    """The direction of a configuration: both archives' kinds, with bands where there are several, or described names.

    Generated towns are ``synthetic_...``: they have the ISPRS layouts, and nothing printed about ISPRS's is about them.
    """
    source, target = (_name(config, domain.archive) for domain in (config.source, config.target))
    return f"{source}_to_{target}"


def _name(config: Config, archive: ArchiveConfig) -> str:
    if isinstance(archive, DescribedArchive):
        return archive.name
    name = f"{archive.kind}_{archive.bands}" if isinstance(archive, PotsdamArchive) else archive.kind
    return f"synthetic_{name}" if _is_generated(config, archive) else name


def _is_generated(config: Config, archive: ArchiveConfig) -> bool:
    asked_for = config.synthetic is not None and archive.root.parent == config.synthetic.root
    return asked_for or (archive.root / MARKER).is_file()
