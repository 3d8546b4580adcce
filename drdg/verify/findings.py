"""Station 2, findings: what ``drdg.verify.folders`` has found, for people and as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from drdg.datasets.base import VOID
from drdg.verify.folders import FolderReport
from drdg.verify.summary import class_lines, ground_resolution, heights, megabytes, print_table


def print_reports(reports: Mapping[str, FolderReport], console: Console | None = None) -> None:
    """Print a table with a column for each report, then a line for each thing that was mended, noted or is wrong."""
    each = list(reports.values())
    lines = {
        "folder": [report.folder.name for report in each],
        "shards": [f"{len(report.shards)}" for report in each],
        "samples": [f"{report.tally.samples}" for report in each],
        "size": [megabytes(report.tally.bytes) for report in each],
        "codec": [report.domain.codec if report.domain else "" for report in each],
        "tile": [f"{report.domain.tile} px" if report.domain else "" for report in each],
        "georeference": [georeference(report) for report in each],
        "DSM": [heights(report.tally.range_m) for report in each],
        **class_lines([pixels_by_class(report) for report in each]),
        "result": [_verdict(report) for report in each],
    }
    print_table(list(reports), lines, console)
    for report in each:
        for done in report.mended:
            print(done)
        for note in notes(report):
            print(f"{report.folder}: note: {note}")
        for finding in report.findings:
            print(finding)


def pixels_by_class(report: FolderReport) -> dict[str, int]:
    """Label pixels of each class, and of none (``void``) where there are such; empty without labels."""
    if report.domain is None or not report.domain.label:
        return {}
    counts = report.tally.label_pixels
    pixels = {name: int(count) for name, count in zip(report.domain.classes, counts, strict=False)}
    return pixels | ({"void": int(counts[VOID])} if counts[VOID] else {})


def georeference(report: FolderReport) -> str:
    """Where on the ground the samples are said to be."""
    tally = report.tally
    if tally.samples == 0 or report.domain is None:
        return ""
    if not tally.georeferenced:
        return "none"
    crs = sorted({top.crs for top in report.tops.values() if top.crs is not None})
    names = (", ".join(crs) if len(crs) < 3 and all(len(name) < 40 for name in crs) else "yes") if crs else "no CRS"
    part = "" if tally.georeferenced == tally.samples else f"{tally.georeferenced} of {tally.samples} samples, "
    return f"{part}{names}, {ground_resolution(report.domain.gsd_m)} per pixel"


def notes(report: FolderReport) -> list[str]:
    """What is no damage but good to know."""
    tally = report.tally
    if report.domain is None or not tally.samples:
        return []
    if not tally.georeferenced:
        return [
            "its TOPs have no georeference, so nothing made of it can be laid on a map, and heights have no ground; "
            "put world files beside them and build again if that is wanted"
        ]
    if not tally.with_crs:
        return ["its TOPs have coordinates but no CRS, so these are taken to be metres"]
    return []


def as_plain_values(reports: Mapping[str, FolderReport]) -> dict[str, Any]:
    """All of it, for JSON."""
    return {
        "ok": not any(report.findings for report in reports.values()),
        "folders": {name: _as_plain_values(report) for name, report in reports.items()},
    }


def _as_plain_values(report: FolderReport) -> dict[str, Any]:
    tally = report.tally
    return {
        "folder": str(report.folder),
        "ok": not report.findings,
        "shards": len(report.shards),
        "bad_shards": [report.shards[number].name for number in report.bad],
        "samples": tally.samples,
        "bytes": tally.bytes,
        "codec": report.domain.codec if report.domain else None,
        "class_pixels": pixels_by_class(report),
        "dsm_range_m": tally.range_m,
        "georeferenced": tally.georeferenced,
        "with_crs": tally.with_crs,
        "gsd_m": report.domain.gsd_m if report.domain else None,
        "notes": notes(report),
        "mended": list(report.mended),
        "findings": [{"file": str(finding.file), "problem": finding.problem} for finding in report.findings],
    }


def _verdict(report: FolderReport) -> str:
    if not report.findings:
        return "whole again" if report.mended else "whole"
    bad = len(report.bad)
    return f"{bad} bad shard{'s' * (bad != 1)}" if bad else "damaged"
