"""Station 6, doctor: versions of what ranks compute with, which must be the same, and how long it takes to load."""

from __future__ import annotations

import hashlib
import os
import platform
import sys
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from drdg.config import Config
from drdg.doctor.answers import Answer, groups, named
from drdg.doctor.context import Context
from drdg.doctor.finding import Finding, bad, ok, warning

CHECK = "software"
# Other releases of these compute other sums, or do not understand each other; the rest only may.
MUST_MATCH = ("python", "torch", "drdg", "its code")
SHOULD_MATCH = ("numpy", "deepspeed", "mpi4py", "mlflow")
ABSENT = "none"
# From a disk of the node or a warm cache it takes three seconds.
SLOW_IMPORT_S = 30.0


def probe(context: Context) -> dict[str, Any]:
    """Versions by name, and the seconds that torch takes to load."""
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # as in training: see drdg/stages/rank.py
    began = time.perf_counter()
    import torch

    seconds = time.perf_counter() - began
    versions = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "its code": code(),
        **{name: release(name) for name in ("drdg", *SHOULD_MATCH)},
    }
    return {"versions": versions, "torch_s": seconds, "python": sys.executable}


def judge(config: Config, answers: Sequence[Answer]) -> list[Finding]:
    """Whether all ranks have the same, and what they need."""
    found = []
    for name in (*MUST_MATCH, *SHOULD_MATCH):
        by_version = groups(answers, lambda value, name=name: str(value["versions"][name]))  # type: ignore[misc]
        if len(by_version) < 2:
            continue
        each = "; ".join(f"{found_} for {named(ranks)}" for found_, ranks in by_version.items())
        cure = "let all nodes use one environment on a shared disk (DRDG_VENV), or install the same on each"
        needed = name in MUST_MATCH or (name == "deepspeed" and config.distributed.backend == "deepspeed")
        found.append((bad if needed else warning)(CHECK, f"{name} differs: {each}", cure))
    without = [answer.who for answer in answers if answer.value["versions"]["deepspeed"] == ABSENT]
    if config.distributed.backend == "deepspeed" and without:
        cure = "pip install 'drdg[deepspeed]', or set distributed.backend=ddp"
        found.append(bad(CHECK, f"distributed.backend=deepspeed, but it is not installed for {named(without)}", cure))
    slowest = max(answers, key=lambda answer: float(answer.value["torch_s"]))
    seconds = float(slowest.value["torch_s"])
    if seconds > SLOW_IMPORT_S:
        cure = (
            "keep the environment on a fast disk, with compiled .pyc files (python -m compileall) and without "
            "PYTHONDONTWRITEBYTECODE"
        )
        measured = f"import torch took {seconds:.0f} s for {named([slowest.who])}"
        found.append(warning(CHECK, measured, cure, torch_import_s=seconds))
    if found:
        return found
    first = answers[0].value["versions"]
    names = [name for name in ("python", "torch", "deepspeed", "mpi4py") if first[name] != ABSENT]
    same = ", the same on all ranks" if len(answers) > 1 else ""
    measured = f"{', '.join(f'{name} {first[name]}' for name in names)}{same}; import torch at most {seconds:.1f} s"
    return [ok(CHECK, measured, torch_import_s=seconds, **{name: first[name] for name in names})]


def release(package: str) -> str:
    """The installed version of a package, without loading it."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ABSENT


def code() -> str:
    """Eight hex digits that name this suite's source files, wherever they lie."""
    folder = Path(__file__).parents[1]
    hasher = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        hasher.update(path.relative_to(folder).as_posix().encode())
        hasher.update(path.read_bytes())
    return hasher.hexdigest()[:8]
