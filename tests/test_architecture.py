"""The house keeps its plan: who may import whom, and the few places where an outside world may be touched.

``ROOMS`` is the table of README.md, section *Layout*. A room may import what it names and what those may import, as
each station knows the stations before it. Imports are read from the source, so those inside functions and those for
type checkers count too.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Everybody may import these; they import nothing of ours.
EVERYBODYS = {"progress", "files"}
# Room -> the rooms before it that it builds on.
ROOMS: dict[str, set[str]] = {
    "": set(),  # drdg/__init__.py
    "progress": {"files"},
    "files": set(),
    "config": set(),
    "datasets": {"config"},
    "tiles": {"datasets"},
    "shards": {"tiles"},
    "verify": {"shards"},
    "models": {"config"},
    "losses": {"config"},
    "methods": {"models", "losses"},
    "distributed": {"config"},
    "metrics": set(),
    "training": {"methods", "distributed", "shards"},
    "inference": {"models", "shards", "distributed", "metrics"},
    "tracking": {"config"},
    "experiments": {"config"},
    "panels": set(),
    "gallery": {"verify", "panels"},
    "report": {"metrics", "tracking", "panels"},
    "published": set(),
    "comparison": {"report", "published"},
    "cli": {"config"},
    "sweep": {"experiments", "tracking", "shards", "comparison"},
    "stages": {"training", "inference", "sweep", "cli"},
    "cluster": {"stages"},
    "maps": {"inference", "training", "tracking", "panels"},
    "bench": {"tracking", "maps"},
    "doctor": {"stages"},
}
COMMANDS = ("launch", "shards")  # what a person types; may import all of drdg
# Outside package -> the one room that may import it.
OWNERS = {"mlflow": "tracking", "submitit": "cluster", "mpi4py": "distributed", "deepspeed": "distributed"}
# These load torch when they are imported, which takes seconds.
LOAD_TORCH = {"torch", "torchvision", "webdataset", "segmentation_models_pytorch", "timm", "deepspeed"}
# Rooms whose modules must be importable without torch, and the modules of them that stand above that line.
WITHOUT_TORCH = {
    "config",
    "progress",
    "files",
    "datasets",
    "tiles",
    "shards",
    "verify",
    "metrics",
    "experiments",
    "tracking",
    "report",
    "panels",
    "gallery",
    "published",
    "comparison",
    "sweep",
    "cluster",
    "cli",
    "doctor",
}
ABOVE_TORCH = {"drdg.shards.stream", "drdg.shards.adaptation", "drdg.shards.buffers", "drdg.shards.prepare"}
TOPOLOGY = "drdg.distributed.topology"
LAUNCHER_PREFIXES = ("SLURM_", "OMPI_", "MV2_", "PMI_", "PMIX_", "MPI_LOCAL", "TORCHELASTIC_")
LAUNCHER_NAMES = {"RANK", "LOCAL_RANK", "GROUP_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}


@dataclass(frozen=True)
class Import:
    """One imported name, in full, and where."""

    name: str
    line: int
    at_load: bool
    """Whether it happens when the importing module is loaded."""


@dataclass(frozen=True)
class Module:
    """A source file: its dotted name, its imports, and the environment variables it seems to read."""

    name: str
    path: Path
    imports: tuple[Import, ...]
    variables: tuple[tuple[str, int], ...]

    @property
    def room(self) -> str | None:
        """The room in ``drdg``, or None for a command."""
        parts = self.name.split(".")
        return None if parts[0] != "drdg" else (parts[1] if len(parts) > 1 else "")


def read_tree(root: Path) -> dict[str, Module]:
    """Return every module of drdg, launch and shards under ``root`` by its name."""
    modules = {}
    for top in ("drdg", *COMMANDS):
        for path in sorted((root / top).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            package = parts[:-1]
            name = ".".join(package if parts[-1] == "__init__" else parts)
            tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
            modules[name] = Module(name, path, tuple(imports_of(tree, package)), tuple(variables_of(tree)))
    return modules


def imports_of(tree: ast.Module, package: tuple[str, ...]) -> Iterator[Import]:
    """Yield what is imported; ``from a import b`` counts as ``a.b``, which may be a module."""

    def visit(node: ast.AST, at_load: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno, at_load) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            whole = ".".join([*base, *([node.module] if node.module else [])])
            yield from (Import(f"{whole}.{alias.name}", node.lineno, at_load) for alias in node.names)
        elif isinstance(node, ast.If) and is_type_checking(node.test):
            for child in node.body:
                yield from visit(child, False)
            for child in node.orelse:
                yield from visit(child, at_load)
        else:
            inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            for child in ast.iter_child_nodes(node):
                yield from visit(child, at_load and not inside)

    yield from visit(tree, True)


def is_type_checking(test: ast.expr) -> bool:
    return ast.unparse(test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def variables_of(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Yield texts that name a launcher's variable, unless they are a docstring or are being set for others."""
    excused: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr):
            excused.add(id(node.value))
        elif isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Load):
            excused.add(id(node.slice))
        elif isinstance(node, ast.Dict):
            excused.update(id(key) for key in node.keys)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in excused:
            name = node.value
            if name in LAUNCHER_NAMES or (name.startswith(LAUNCHER_PREFIXES) and name.isupper() and " " not in name):
                yield name, node.lineno


def allowed(room: str) -> set[str]:
    """Return every room that ``room`` may import: those it names, and theirs."""
    reached: set[str] = set()
    ahead = [room]
    while ahead:
        ahead += (new := ROOMS[ahead.pop()] - reached)
        reached |= new
    return reached | {room, ""} | (set() if room in EVERYBODYS else EVERYBODYS)


def broken_rules(root: Path) -> list[str]:
    """Return one sentence per rule that a file under ``root`` breaks."""
    modules = read_tree(root)
    found = []
    for module in modules.values():
        place = f"{module.path.relative_to(root)}"
        if module.room is not None and module.room not in ROOMS:
            found.append(f"{place}: the room drdg.{module.room} is not in the plan")
            continue
        for item in module.imports:
            top = item.name.split(".")[0]
            where = f"{place}:{item.line}"
            if top in COMMANDS:
                found.append(f"{where}: nothing imports {top}/")
            if top in OWNERS and module.room != OWNERS[top]:
                found.append(f"{where}: only drdg.{OWNERS[top]} imports {top}")
            if top == "drdg" and module.room is not None:
                target = room_of(item.name, modules)
                if target not in allowed(module.room):
                    found.append(f"{where}: drdg.{module.room} must not import drdg.{target}")
        if module.name != TOPOLOGY:
            found += [f"{place}:{line}: only {TOPOLOGY} reads {name}" for name, line in module.variables]
        if module.room in WITHOUT_TORCH and module.name not in ABOVE_TORCH and (chain := way_to_torch(module, modules)):
            found.append(f"{place}: loads torch by way of {' -> '.join(chain)}")
    return found


def room_of(name: str, modules: dict[str, Module]) -> str:
    """Return the room of an imported name; ``drdg.__version__`` and the like belong to the door, ``""``."""
    second = name.split(".")[1] if "." in name else ""
    return second if second in ROOMS or f"drdg.{second}" in modules else ""


def way_to_torch(module: Module, modules: dict[str, Module]) -> list[str]:
    """Return the imports by which loading ``module`` loads torch; empty if it does not."""
    ways: dict[str, list[str]] = {module.name: []}
    ahead = [module.name]
    while ahead:
        current = ahead.pop()
        # Loading a module loads the packages that it lies in.
        parents = [current.rpartition(".")[0]] if "." in current else []
        for name in [*(item.name for item in modules[current].imports if item.at_load), *parents]:
            if name.split(".")[0] in LOAD_TORCH:
                return [*ways[current], name]
            loaded = name if name in modules else name.rpartition(".")[0]
            if loaded in modules and loaded not in ways:
                ways[loaded] = [*ways[current], loaded]
                ahead.append(loaded)
    return []


def test_the_house_keeps_its_plan() -> None:
    assert broken_rules(ROOT) == []


def test_the_plan_has_no_circle() -> None:
    for room, named in ROOMS.items():
        assert all(room not in allowed(other) for other in named), room


GOOD = {
    "drdg/__init__.py": "__version__ = '1'",
    "drdg/progress.py": "import rich",
    "drdg/config/__init__.py": "from drdg.config.schema import Config",
    "drdg/config/schema.py": "from drdg import __version__",
    "drdg/tiles/__init__.py": "",
    "drdg/tiles/windows.py": "from drdg.datasets import VOID\nfrom drdg.config import Config",
    "drdg/shards/__init__.py": "",
    "drdg/shards/plan.py": "from drdg.tiles.windows import grid\nfrom .store import read",
    "drdg/shards/store.py": "def read():\n    import torch, webdataset",
    "drdg/shards/stream.py": "import torch",
    "drdg/datasets/__init__.py": "from drdg.progress import progress",
    "drdg/models/__init__.py": "import torch",
    "drdg/tracking.py": "def f():\n    import mlflow",
    "drdg/cluster.py": "import submitit",
    "drdg/distributed/__init__.py": "'''Reads no RANK.'''\nfrom drdg.distributed.topology import rank",
    "drdg/distributed/topology.py": "import os\nrank = os.environ['RANK']",
    "drdg/distributed/group.py": "import os\nos.environ['MASTER_ADDR'] = 'a'\nx = {'MASTER_PORT': '1'}",
    "launch/train.py": "from drdg.tracking import f\nfrom drdg.shards import stream",
    "shards/build.py": "import drdg",
}


def plant(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def test_a_good_house_passes(tmp_path: Path) -> None:
    plant(tmp_path, GOOD)
    assert broken_rules(tmp_path) == []


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("drdg/tiles/bad.py", "from drdg.models import x", "drdg.tiles must not import drdg.models"),
        ("drdg/tiles/bad.py", "from drdg import models", "drdg.tiles must not import drdg.models"),
        ("drdg/tiles/bad.py", "from .. import models", "drdg.tiles must not import drdg.models"),
        ("drdg/tiles/bad.py", "from ..models import x", "drdg.tiles must not import drdg.models"),
        ("drdg/tiles/bad.py", "import drdg.models as m", "drdg.tiles must not import drdg.models"),
        ("drdg/tiles/bad.py", "def f():\n    import drdg.models", "drdg.tiles must not import drdg.models"),
        (
            "drdg/tiles/bad.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from drdg.models import x",
            "drdg.tiles must not import drdg.models",
        ),
        ("drdg/config/bad.py", "import drdg.datasets", "drdg.config must not import drdg.datasets"),
        ("drdg/models/bad.py", "from drdg.distributed import x", "drdg.models must not import drdg.distributed"),
        ("drdg/training/bad.py", "from drdg.inference import x", "drdg.training must not import drdg.inference"),
        ("drdg/training/bad.py", "from drdg.stages import x", "drdg.training must not import drdg.stages"),
        ("drdg/progress.py", "from drdg.config import Config", "drdg.progress must not import drdg.config"),
        ("drdg/cellar/__init__.py", "", "the room drdg.cellar is not in the plan"),
        ("drdg/training/bad.py", "import mlflow.entities", "only drdg.tracking imports mlflow"),
        ("launch/bad.py", "from mlflow import MlflowClient", "only drdg.tracking imports mlflow"),
        ("drdg/training/bad.py", "def f():\n    import submitit", "only drdg.cluster imports submitit"),
        ("drdg/tiles/bad.py", "def f():\n    from mpi4py import MPI", "only drdg.distributed imports mpi4py"),
        ("drdg/training/bad.py", "def f():\n    import deepspeed", "only drdg.distributed imports deepspeed"),
        ("drdg/training/bad.py", "from launch.train import main", "nothing imports launch/"),
        ("launch/bad.py", "import shards.build", "nothing imports shards/"),
        ("drdg/training/bad.py", "import os\nos.environ.get('SLURM_JOB_ID')", "reads SLURM_JOB_ID"),
        ("drdg/training/bad.py", "import os\nos.environ['RANK']", "reads RANK"),
        ("drdg/training/bad.py", "NAMES = ('OMPI_COMM_WORLD_RANK', 'PMI_RANK')", "reads OMPI_COMM_WORLD_RANK"),
        ("shards/bad.py", "import os\nif 'PMI_RANK' in os.environ: pass", "reads PMI_RANK"),
        ("shards/bad.py", "import os\nsize = os.environ['MV2_COMM_WORLD_SIZE']", "reads MV2_COMM_WORLD_SIZE"),
        ("drdg/tiles/bad.py", "import torch.nn", "loads torch by way of torch.nn"),
        ("drdg/tiles/bad.py", "from webdataset import TarWriter", "loads torch by way of webdataset.TarWriter"),
        ("drdg/tiles/bad.py", "class A:\n    import torch", "loads torch by way of torch"),
        ("drdg/shards/bad.py", "from drdg.shards.stream import x", "loads torch by way of drdg.shards.stream -> torch"),
        ("drdg/shards/__init__.py", "from .stream import x", "plan.py: loads torch by way of drdg.shards -> "),
    ],
)
def test_a_broken_rule_is_found(tmp_path: Path, file: str, text: str, said: str) -> None:
    plant(tmp_path, GOOD | {file: text})
    found = broken_rules(tmp_path)
    assert any(said in sentence for sentence in found), found
