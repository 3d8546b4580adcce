"""Station 2, verify: a whole folder of shards against its checksums, its manifest and its plan, and its repair.

Damage is found and named, never raised: each check yields what is wrong in a few words, and goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from drdg.config import DomainConfig, ShardsConfig
from drdg.datasets import open_archive
from drdg.shards.build import build_shards
from drdg.shards.crew import ALONE, Crew
from drdg.shards.plan import Plan, make_plan
from drdg.shards.unpack import SURFACES, height_range_m
from drdg.shards.writer import MANIFEST, index_path
from drdg.verify.audit import ShardReport, audit_shard, words
from drdg.verify.forms import Domain, Manifest, TopFacts
from drdg.verify.inventory import Inventory, check_totals, take_inventory
from drdg.verify.members import UNREADABLE
from drdg.verify.tally import Tally, total


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with one file."""

    file: Path
    problem: str

    def __str__(self) -> str:
        return f"{self.file}: {self.problem}"


@dataclass(frozen=True)
class FolderReport:
    """What was found of a folder of shards. The numbers are what was counted, not what the manifest says."""

    folder: Path
    domain: Domain | None
    """None when neither plan nor manifest says what the samples are."""
    tops: dict[str, TopFacts]
    shards: tuple[ShardReport, ...]
    manifest_problems: tuple[str, ...]
    surface_problems: tuple[tuple[int, str], ...]
    """What is wrong with what the build keeps of each TOP's heights, by the TOP's number in the plan."""
    extra: tuple[str, ...]
    manifest: Manifest | None
    """None when there is none that can be believed."""
    mended: tuple[str, ...] = ()
    """What a repair has done, a few words for each file."""

    @property
    def bad(self) -> list[int]:
        """Numbers of the shards that are not as they should be."""
        return [shard.number for shard in self.shards if shard.problems]

    @property
    def findings(self) -> list[Finding]:
        """All that is wrong, the manifest first, then shard by shard."""
        manifest = self.folder / MANIFEST
        found = [Finding(manifest, problem) for problem in self.manifest_problems]
        found += [Finding(self.folder / shard.name, problem) for shard in self.shards for problem in shard.problems]
        found += [Finding(self.folder / name, "belongs to no shard of this folder") for name in self.extra]
        return found + [Finding(self.folder / SURFACES, problem) for _, problem in self.surface_problems]

    @cached_property
    def tally(self) -> Tally:
        """All its shards counted together."""
        return total(shard.tally for shard in self.shards)


def verify_domain(
    domain: DomainConfig, shards: ShardsConfig, *, need_label: bool, repair: bool = False, crew: Crew = ALONE
) -> FolderReport:
    """Check the shards that :func:`drdg.shards.build.build_shards` has built for the same arguments, and mend them.

    Only ``repair`` changes anything; see :func:`repair_folder`. Raises ``ValueError`` when the archive cannot be used
    or there are no such shards, and with ``repair`` whatever the build raises.
    """
    if domain.shards is not None:
        return verify_folder(_given_folder(domain.shards, repair), crew=crew)
    plan = crew.shared(lambda: make_plan(open_archive(domain.archive), domain, shards, need_label=need_label))
    report = verify_folder(shards.root / plan.name, plan, crew)
    if not repair:
        return report
    return repair_folder(report, plan, lambda: build_shards(domain, shards, need_label=need_label, crew=crew), crew)


def verify_folder(folder: Path, plan: Plan | None = None, crew: Crew = ALONE) -> FolderReport:
    """Check all of ``folder``, against ``plan`` if that is known; the ranks of ``crew`` share the shards.

    Raises ``ValueError`` only when the folder holds no shards at all.
    """
    return _verify(folder, plan, crew, kept={})


def repair_folder(report: FolderReport, plan: Plan, rebuild: Callable[[], object], crew: Crew = ALONE) -> FolderReport:
    """Have ``rebuild`` write what ``report`` found bad, check that again, and return the report of what is there now.

    ``rebuild`` builds the folder of ``plan`` on all ranks and keeps the shards that have an index
    (:func:`drdg.shards.build.build_shards`), so those that are whole are not touched.
    """
    if not report.findings:
        return report
    mended = crew.shared(lambda: _clear(report))
    rebuild()
    kept = {shard.number: shard for shard in report.shards if not shard.problems}
    now = _verify(report.folder, plan, crew, kept)
    if report.manifest is not None and now.manifest not in (None, report.manifest):
        mended.append(f"{report.folder}: was built with other bytes than before; its archive or a library has changed")
    return replace(now, mended=tuple(mended))


def _given_folder(place: str, repair: bool) -> Path:
    """The folder of shards that were built elsewhere."""
    if not Path(place).is_dir():
        raise ValueError(f"{place}: is no folder of this machine; run shards/verify.py --folder where it is one")
    if repair:
        raise ValueError(f"{place}: was built elsewhere, so it is mended there, with the configuration that built it")
    return Path(place)


def _verify(folder: Path, plan: Plan | None, crew: Crew, kept: dict[int, ShardReport]) -> FolderReport:
    """Check a folder, all but the shards that were checked before and are ``kept``."""
    inventory = crew.shared(lambda: take_inventory(folder, plan))
    mine: list[ShardReport] = []

    def audit(number: int) -> None:
        mine.append(audit_shard(folder, inventory.shards[number], inventory.rules, crew.poll))

    todo = [shard.number for shard in inventory.shards if shard.number not in kept]
    crew.run(todo, audit, f"{folder.name}: verify", done=len(kept))
    audited = {shard.number: shard for part in crew.gather(mine) for shard in part}
    reports = tuple((kept | audited)[shard.number] for shard in inventory.shards)
    return FolderReport(
        folder=folder,
        domain=inventory.rules.domain if inventory.rules else None,
        tops=dict(inventory.rules.tops) if inventory.rules else {},
        shards=reports,
        manifest_problems=(*inventory.problems, *_check_totals(inventory, reports, plan)),
        surface_problems=tuple(crew.shared(lambda: _check_surfaces(folder, plan, inventory))),
        extra=inventory.extra,
        manifest=inventory.manifest,
    )


def _check_totals(inventory: Inventory, reports: Iterable[ShardReport], plan: Plan | None) -> tuple[str, ...]:
    """What the manifest says of all shards together; of some that are damaged the sum is nobody's fault."""
    if inventory.manifest is None or any(shard.problems for shard in reports):
        return ()
    return tuple(check_totals(inventory.manifest, total(shard.tally for shard in reports), plan))


def _check_surfaces(folder: Path, plan: Plan | None, inventory: Inventory) -> list[tuple[int, str]]:
    """What a later repair would start from: the range of each TOP's heights as the build has noted it."""
    if plan is None or inventory.manifest is None or not plan.with_dsm:
        return []
    problems = []
    for number, planned in enumerate(plan.planned):
        said = inventory.manifest.tops[planned.id].dsm_range_m if planned.id in inventory.manifest.tops else None
        try:
            noted = tuple(height_range_m(plan, number, folder))
        except (*UNREADABLE, KeyError, TypeError) as error:
            problems.append((number, f"the heights of TOP {planned.id} cannot be read ({words(error)})"))
            continue
        if said is not None and noted != said:
            problems.append((number, f"the heights of TOP {planned.id} are said to be {noted}, not {said} m"))
    return problems


def _clear(report: FolderReport) -> list[str]:
    """Remove what keeps the build from writing the bad files anew; return what becomes of each."""
    names = [report.shards[number].name for number in report.bad]
    for name in names:
        # A shard counts only with its index; the tar is replaced when the new one is whole.
        index_path(report.folder / name).unlink(missing_ok=True)
    for name in report.extra:
        (report.folder / name).unlink(missing_ok=True)
    if report.manifest_problems or report.surface_problems:
        # Without it the folder is not finished, and the build looks for all that is missing.
        (report.folder / MANIFEST).unlink(missing_ok=True)
    for number, _ in report.surface_problems:
        for file in (report.folder / SURFACES).glob(f"{number:05d}-*"):
            file.unlink(missing_ok=True)
    built = [MANIFEST] * bool(report.manifest_problems) + names + [SURFACES] * bool(report.surface_problems)
    return [
        *(f"{report.folder / name}: was built again" for name in built),
        *(f"{report.folder / name}: was removed" for name in report.extra),
    ]
