from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from drdg.shards.build import build_shards

COMMAND = Path(__file__).parents[2] / "shards/build.py"
# Runs the command as a script does, then says what it has imported.
TELLING = (
    "import runpy, sys\n"
    "sys.argv = sys.argv[1:]\n"
    "try:\n    runpy.run_path(sys.argv[0], run_name='__main__')\n"
    "finally:\n    print('torch' in sys.modules, 'rasterio' in sys.modules)\n"
)


def run(*arguments: object, code: str | None = None) -> subprocess.CompletedProcess[str]:
    start = [sys.executable, *(["-c", code] if code else []), str(COMMAND)]
    return subprocess.run([*start, *map(str, arguments)], capture_output=True, text=True, check=False)


def test_help_waits_for_nothing() -> None:
    done = run("--help", code=TELLING)
    assert "--dry-run" in done.stdout
    assert "--domain {source,target,both}" in done.stdout
    assert done.stdout.splitlines()[-1] == "False False"
    assert done.returncode == 0


def test_a_dry_run_prints_the_plan_without_torch(town_config: Path, town: Any) -> None:
    done = run("--config", town_config, "--dry-run", code=TELLING)
    source, target, end = done.stdout.splitlines()
    assert source.startswith("source: 3 TOPs, 24 tiles, 5 shards, 2.4 MB to ")
    assert target.startswith("target: 3 TOPs, 18 tiles, 4 shards, 1.5 MB to ")
    assert end == "False True"
    assert done.returncode == 0
    assert not (town.root / "shards").exists()


def test_the_configuration_is_printed(town_config: Path) -> None:
    done = run("--config", town_config, "--print-config", "source.stride=100")
    assert yaml.safe_load(done.stdout)["source"]["stride"] == 100
    assert done.returncode == 0


def test_it_builds_and_prints_the_folders(town_config: Path, town: Any) -> None:
    done = run("--config", town_config, "--domain", "target")
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.strip())
    assert folder == build_shards(town.domain(stride=128), town.shards(), need_label=False)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["source.tile=200"], ["source.tile", "not a multiple of 128", "take"]),
        (["source.tile=384"], ["no window of tile=384", "1_9.tif"]),
        (["source.archive.root=/nowhere"], ["/nowhere", "archive.root"]),
        (["source.archive.label=null"], ["label", "1_9.tif"]),
        (["source.strid=4"], ["source.strid", "source.stride"]),
    ],
)
def test_what_a_user_can_mend_is_one_sentence(town_config: Path, arguments: list[str], words: list[str]) -> None:
    done = run("--config", town_config, *arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1, done.stderr
    for word in words:
        assert word in done.stderr


def test_killed_while_it_writes_and_built_again(
    town_config: Path, town: Any, tmp_path: Path, contents: Callable[[Path], dict[str, bytes]]
) -> None:
    """The real command; the kills at every other moment are in test_build.py."""
    domain = town.domain(stride=48)
    wanted = contents(build_shards(domain, town.shards(root=tmp_path / "whole"), need_label=True))
    rng = random.Random(0)
    arguments = ["--config", town_config, "--domain", "source", "source.stride=48"]
    child = subprocess.Popen([sys.executable, COMMAND, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    goal = rng.randint(1, 6)
    while child.poll() is None and len(list(town.root.glob("shards/*/*.tar"))) < goal:
        time.sleep(0.002)
    time.sleep(rng.uniform(0, 0.02))
    child.kill()
    child.communicate()
    assert list(town.root.glob("shards/*/*.tar"))
    assert contents(build_shards(domain, town.shards(), need_label=True)) == wanted
