"""Station 6, sweep: what is refused before any job starts, as far as it can be seen without torch.

The rest, such as whether a segmentor can be built, is for the job that builds the shards, before any that trains.
"""

from __future__ import annotations

from collections.abc import Sequence

from drdg.config import ArchiveConfig, Config, DescribedArchive, DomainConfig, SweepConfig
from drdg.datasets import CLASSES, open_archive
from drdg.experiments import Row, config_of, find_row
from drdg.shards.location import Location
from drdg.sweep.digests import Content
from drdg.sweep.plan import Sweep

# The translators that learn from heights, where their losses read any.
DEEP = "drdg"


def refuse_what_cannot_work(sweep: Sweep, *, on_cluster: bool) -> None:
    """Raise ``ValueError`` for what a job would find only hours later."""
    names = dict.fromkeys(cell.row for cell in sweep.cells)
    rows = [find_row(name) for name in names]
    for direction in sweep.directions:
        cell = next(cell for cell in sweep.cells if cell.direction == direction.name)
        own = [(row, config_of(row, cell.config)) for row in rows]
        refuse_missing_layers(cell.config, own)
        if on_cluster:
            for row, config in own:
                refuse_uneven_ranks(row, config, sweep.settings)


def refuse_missing_layers(config: Config, own: Sequence[tuple[Row, Config]]) -> None:
    """Raise ``ValueError`` when a domain lacks something that a row needs; ``own``: the rows with their settings.

    Generated towns lack nothing, and those that this sweep will generate are not there yet.
    """
    source, target = _classes(config.source.archive), _classes(config.target.archive)
    if source != target:
        raise ValueError(
            f"source.archive has the classes {', '.join(source)} but target.archive has {', '.join(target)}; describe "
            "both with the same classes in the same order"
        )
    content = Content(config, {})
    deep = [row.name for row, settings in own if row.translator == DEEP and settings.loss.uses_depth]
    for domain in (config.source, config.target):
        if deep and content.town(domain) is None and (lacking := _without_dsm(domain)):
            raise ValueError(f"{lacking}, which row {deep[0]} needs; add the DSMs, or leave out rows with depth")
    if content.town(config.target) is None and any(row.is_ceiling for row, _ in own):
        archive = open_archive(config.target.archive)
        learned = {top.id for top in archive.split(config.oracle.split, need_label=True)}
        if both := sorted(learned & {top.id for top in archive.split(config.evaluation.split, need_label=True)}):
            raise ValueError(
                f"oracle.split={config.oracle.split} and evaluation.split={config.evaluation.split} share the TOP "
                f"{both[0]}, so the row oracle would be scored on what it has learned; take splits that share none"
            )


def refuse_uneven_ranks(row: Row, config: Config, settings: SweepConfig) -> None:
    """Raise ``ValueError`` when the ranks of a cluster's job cannot share a batch evenly."""
    trains = [("segmentation", config.segmentation.batch_size, "single", settings.single)]
    if row.is_trained:
        trains.insert(0, ("gan", config.gan.batch_size, "gan", settings.gan))
    for section, size, kind, asked in trains:
        ranks = asked.nodes * asked.processes
        if size % ranks:
            raise ValueError(
                f"{section}.batch_size={size} of row {row.name} cannot be shared by the {ranks} ranks of sweep.{kind} "
                f"({asked.nodes} nodes of {asked.processes}); take fewer, or a multiple, such as "
                f"{section}.batch_size={-(-size // ranks) * ranks}"
            )


def _without_dsm(domain: DomainConfig) -> str | None:
    """What of a domain has no DSM, in words."""
    if domain.shards is not None:
        return None if Location(domain.shards).manifest()["domain"]["dsm"] else f"{domain.shards}: has no DSM"
    archive = open_archive(domain.archive)
    missing = [top.id for top in archive.split(domain.split) if top.dsm is None]
    return f"archive {archive.name} has no DSM for {missing[0]}" if missing else None


def _classes(archive: ArchiveConfig) -> tuple[str, ...]:
    return tuple(archive.classes) if isinstance(archive, DescribedArchive) else CLASSES
