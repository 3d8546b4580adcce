"""Station 6, sweep: what a command asks for: which directions, rows and seeds, under which name."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

import drdg
from drdg.comparison.table import LABELS, TABLES
from drdg.config import Config, load_config
from drdg.datasets.direction import direction_of
from drdg.experiments import ROWS

CONFIGS = Path("configs")
SUFFIXES = (".yaml", ".yml")
# Of every training. Critics alone are no test of a generator: with more critic updates per generator update than
# iterations none of the latter would come, so the smoke test has one generator update, at its end.
SMOKE_ITERATIONS = 2
SMOKE = "-smoke"
LONGEST_NAME = 100


@dataclass(frozen=True)
class Asked:
    """What was typed, before any file is looked at."""

    config: str | None = None
    directions: str | None = None
    ablation: bool = False
    table1: bool = False
    rows: str | None = None
    seeds: str = "0,1,2"
    name: str | None = None
    smoke: bool = False
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True)
class Direction:
    """One adaptation of a sweep: its name and its configuration, which seeds and rows share."""

    name: str
    given_by: str
    """The file that says it, for messages."""
    config: Config


def rows_of(asked: Asked) -> tuple[str, ...]:
    """The rows that are asked for; those of the paper's tables in their order there, others as they were typed.

    Raises ``ValueError`` where that is not clear, and for a row that is none or is named twice.
    """
    tables = [name for name, wanted in (("main", asked.table1), ("ablation", asked.ablation)) if wanted]
    if bool(tables) == (asked.rows is not None):
        raise ValueError("say which rows to compare, by --table1, --ablation or both, or by --rows drdg,rdg alone")
    if asked.rows is None:
        union = {row for name in tables for row in TABLES[name]}
        return tuple(row for row in LABELS if row in union)
    names = parts(asked.rows, "--rows")
    for name in names:
        if name not in ROWS:
            near = difflib.get_close_matches(name, ROWS, n=1, cutoff=0.0)[0]
            raise ValueError(f"--rows: {name!r} is no row; did you mean {near!r}? There are {', '.join(ROWS)}")
    return names


def seeds_of(asked: Asked) -> tuple[int, ...]:
    """The seeds that are asked for, in the order they were typed. Raises ``ValueError`` for one that is none."""
    texts = parts(asked.seeds, "--seeds")
    for text in texts:
        if not (text.isascii() and text.isdigit()):
            raise ValueError(f"--seeds: {text!r} is no seed; write whole numbers from 0 on, as in --seeds 0,1,2")
    seeds = [int(text) for text in texts]
    if twice := sorted({seed for seed in seeds if seeds.count(seed) > 1}):
        raise ValueError(f"--seeds: {twice[0]} is named twice; name each seed once")
    return tuple(seeds)


def parts(text: str, option: str) -> tuple[str, ...]:
    """What stands between the commas. Raises ``ValueError`` where nothing does, and for what stands there twice."""
    found = tuple(part.strip() for part in text.split(","))
    if not all(found):
        raise ValueError(f"{option}: {text!r} has an empty entry; write names with a comma between them")
    if twice := [part for part in dict.fromkeys(found) if found.count(part) > 1]:
        raise ValueError(f"{option}: {twice[0]} is named twice; name each once")
    return found


def directions_of(asked: Asked) -> tuple[Direction, ...]:
    """The directions that are asked for, each with its file's configuration and all overrides.

    Raises ``ValueError`` as ``load_config`` does, and where two files are about one direction.
    """
    if asked.config is not None and asked.directions is not None:
        raise ValueError("--config names one direction and --directions several; give only one of the two")
    files: Sequence[Path | None] = [None if asked.config is None else Path(asked.config)]
    if asked.directions is not None:
        files = [_file_of(name) for name in parts(asked.directions, "--directions")]
    found: list[Direction] = []
    for file in files:
        config = load_config(file, asked.overrides)
        if asked.smoke:
            config = smoke_test(config)
        here = Direction(direction_of(config), "the paper's recipe" if file is None else str(file), config)
        for other in found:
            if other.name == here.name:
                raise ValueError(
                    f"{other.given_by} and {here.given_by} are both of direction {here.name}; take one of them, or "
                    "make them two sweeps by --name"
                )
        found.append(here)
    return tuple(found)


def _file_of(name: str) -> Path:
    """The file of a direction: as it was typed, or of that name in ``configs``, here or in the checkout."""
    if name.endswith(SUFFIXES) or "/" in name:
        return Path(name)
    folders = (CONFIGS, Path(drdg.__file__).parents[1] / CONFIGS)
    for folder in folders:
        if (path := folder / f"{name}.yaml").is_file():
            return path
    there = sorted({path.stem for folder in folders for path in folder.glob("*.yaml")})
    near = difflib.get_close_matches(name, there, n=1, cutoff=0.0)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"--directions: there is no {folders[0] / f'{name}.yaml'}{hint}")


def smoke_test(config: Config) -> Config:
    """The same with two iterations of every training, in an MLflow experiment of its own.

    Two thousand runs of two iterations would hide those that mean something.
    """
    gan = {"iterations": SMOKE_ITERATIONS, "n_critic": min(config.gan.n_critic, SMOKE_ITERATIONS)}
    segmentation = {"iterations": SMOKE_ITERATIONS}
    tracking = {"experiment": f"{config.tracking.experiment}{SMOKE}"}
    settings = {row: _shortened(own) for row, own in config.row_settings.items()}
    return config.model_copy(
        update={
            "gan": config.gan.model_copy(update=gan),
            "segmentation": config.segmentation.model_copy(update=segmentation),
            "tracking": config.tracking.model_copy(update=tracking),
            "row_settings": settings,
        }
    )


def _shortened(own: dict[str, Any]) -> dict[str, Any]:
    """A row's own settings without those that would make its smoke test a long one, or one without generators."""
    result = dict(own)
    for section in ("gan", "segmentation"):
        if isinstance(knobs := own.get(section), dict):
            kept = {key: value for key, value in knobs.items() if key not in ("iterations", "epochs")}
            if isinstance(kept.get("n_critic"), int):
                kept["n_critic"] = min(kept["n_critic"], SMOKE_ITERATIONS)
            result[section] = kept
    return result


def name_of(asked: Asked, directions: Sequence[Direction]) -> str:
    """The sweep's name, and its folder's. Raises ``ValueError`` where it can be none."""
    if asked.name is not None:
        name, option = asked.name, "--name"
    else:
        kind = {(True, True): "tables", (True, False): "table1", (False, True): "ablation"}
        runs = "_and_".join(dict.fromkeys(direction.config.run.name for direction in directions))
        name, option = f"{runs}-{kind.get((asked.table1, asked.ablation), 'sweep')}", "run.name"
    try:
        directions[0].config.run.model_validate({"name": name})
    except ValidationError as error:
        raise ValueError(
            f"{option}: {name!r} can be no folder's name; take letters, digits, '_', '-', '.' and spaces"
        ) from error
    if len(name) > LONGEST_NAME:
        raise ValueError(f"{option}: {name!r} is too long for a folder's name; give a shorter one by --name")
    return f"{name}{SMOKE}" if asked.smoke else name
