"""The command that checks shards: what it prints, its exit status, alone and as several processes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from drdg.shards.build import build_shards
from drdg.shards.crew import Alone

COMMAND = Path(__file__).parents[2] / "shards/verify.py"
QUIET = Alone(quiet=True)
BAD = "shard-000002.tar"
TARGET = ["--config", "{config}", "--domain", "target"]


@pytest.fixture
def folder(small_town: Any, tmp_path: Path) -> Path:
    """A target's shards: three, of two tiles each."""
    return build_shards(domain(small_town), shards(small_town, tmp_path), need_label=False, crew=QUIET)


@pytest.fixture
def config(small_town: Any, tmp_path: Path) -> Path:
    values = {
        "source": domain(small_town).model_dump(mode="json"),
        "target": domain(small_town).model_dump(mode="json"),
        "shards": shards(small_town, tmp_path).model_dump(mode="json"),
    }
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


def domain(town: Any) -> Any:
    return town.domain(stride=128, edge="shift")


def shards(town: Any, root: Path) -> Any:
    return town.shards(root=root / "shards", samples_per_shard=2)


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, COMMAND, *map(str, arguments)], capture_output=True, text=True, check=False)


def damage(folder: Path) -> None:
    text = bytearray((folder / BAD).read_bytes())
    text[5000] ^= 16
    (folder / BAD).write_bytes(text)


def test_whole_shards_end_with_a_table_and_status_0(config: Path, folder: Path) -> None:
    done = run("--config", config, "--domain", "target")
    assert done.returncode == 0, done.stderr
    lines = {line.split("  ")[0]: line.split("  ", 1)[-1].strip() for line in done.stdout.splitlines()}
    assert lines["shards"] == "3"
    assert lines["samples"] == "6"
    assert lines["codec"] == "raw"
    assert lines["result"] == "whole"
    assert lines["DSM"].endswith(" m")
    assert lines["georeference"] == "no CRS, 50 cm per pixel"


def test_a_damaged_shard_is_named_and_the_status_is_1(config: Path, folder: Path, tmp_path: Path) -> None:
    damage(folder)
    for arguments in (["--config", config, "--domain", "target"], ["--folder", folder]):
        done = run(*arguments, "--json", tmp_path / "found.json")
        assert done.returncode == 1
        assert f"\n{folder / BAD}: its checksum is not the one in the manifest and its index\n" in done.stdout
        assert done.stderr.splitlines()[-1].startswith("error: of 1 folders 1 are not as built, with 1 bad shards; ")
        assert "Traceback" not in done.stderr
        (found,) = json.loads((tmp_path / "found.json").read_bytes())["folders"].values()
        assert found["bad_shards"] == [BAD]
        assert {finding["file"] for finding in found["findings"]} == {str(folder / BAD)}
        assert found["ok"] is False


def test_a_repair_ends_with_status_0(config: Path, folder: Path, contents: Callable[[Path], dict[str, bytes]]) -> None:
    wanted = contents(folder)
    damage(folder)
    done = run("--config", config, "--domain", "target", "--repair")
    assert done.returncode == 0, done.stderr
    assert f"{folder / BAD}: was built again\n" in done.stdout
    assert "whole again" in done.stdout
    assert contents(folder) == wanted


def test_several_processes_find_and_mend_the_same(
    config: Path, folder: Path, mpiexec: Any, contents: Callable[[Path], dict[str, bytes]]
) -> None:
    wanted = contents(folder)
    damage(folder)
    alone = run("--config", config, "--domain", "target")
    together = mpiexec(2, COMMAND, "--config", config, "--domain", "target")
    assert together.returncode == 1
    assert together.stdout.rstrip() == alone.stdout.rstrip()
    assert together.stderr.count("error: ") == 1, together.stderr
    mended = mpiexec(2, COMMAND, "--config", config, "--domain", "target", "--repair")
    assert mended.returncode == 0, mended.stderr
    assert contents(folder) == wanted


def test_both_domains_are_columns_of_one_table(config: Path, folder: Path, small_town: Any, tmp_path: Path) -> None:
    build_shards(domain(small_town), shards(small_town, tmp_path), need_label=True, crew=QUIET)
    done = run("--config", config)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[0].split() == ["source", "target"]
    (shares,) = (line.split()[1:] for line in done.stdout.splitlines() if line.startswith("building"))
    assert len(shares) == 2, "one number and its %: a target has no labels"


def test_an_archive_without_georeference_is_noted(make_town: Callable[..., Any], tmp_path: Path) -> None:
    town = make_town(tops=1, height=128, width=128, transform=None)
    done = run("--folder", build_shards(domain(town), shards(town, tmp_path), need_label=True, crew=QUIET))
    assert done.returncode == 0, done.stderr
    assert "note: its TOPs have no georeference" in done.stdout


def test_a_dry_run_says_what_would_be_checked(config: Path, small_town: Any) -> None:
    done = run("--config", config, "--dry-run", "--repair")
    assert done.returncode == 0, done.stderr
    assert [line.split(" in ")[0] for line in done.stdout.splitlines()] == [
        "source: would check 3 shards",
        "target: would check 3 shards",
    ]
    assert done.stdout.count("and mend what is bad") == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--folder", "{folder}", "--repair"], ["--repair", "--config"]),
        (["--folder", "{folder}", "--config", "{config}"], ["--folder", "without a configuration"]),
        (["--folder", "{folder}", "target.stride=64"], ["--folder", "overrides"]),
        (["--folder", "/nowhere"], ["/nowhere", "holds no shards"]),
        (["--config", "{config}", "--domain", "source"], ["not built", "shards/build.py"]),
        ([*TARGET, "target.archive.root=/nowhere"], ["/nowhere", "archive.root"]),
        ([*TARGET, "target.shards=http://a.test/"], ["http://a.test/", "--folder"]),
        ([*TARGET, "target.shards={folder}", "--repair"], ["{folder}", "built elsewhere"]),
    ],
)
def test_what_a_user_can_mend_is_one_sentence(
    config: Path, folder: Path, arguments: list[str], words: list[str]
) -> None:
    done = run(*(argument.format(config=config, folder=folder) for argument in arguments))
    assert done.returncode == 2, done.stdout
    assert done.stdout == ""
    (sentence,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    for word in words:
        assert word.format(folder=folder) in sentence
