"""The build as several MPI processes: the same bytes as one, and one sentence from all of them when it must end."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from affine import Affine

from drdg.shards.build import build_shards

COMMAND = Path(__file__).parents[2] / "shards/build.py"
Run = Callable[..., "subprocess.CompletedProcess[str]"]
Contents = Callable[[Path], dict[str, bytes]]
# The scratch of the town's TOPs is some 3 MB, and so are its shards: room for the one and a part of the other.
SMALL_DISK, LARGE_DISK = "5m", "100m"


def wanted(town: Any, root: Path, contents: Contents, **knobs: object) -> dict[str, bytes]:
    """What one process, without MPI, writes for both domains."""
    build_shards(town.domain(), town.shards(root=root, **knobs), need_label=True)
    build_shards(town.domain(stride=128), town.shards(root=root, **knobs), need_label=False)
    return contents(root)


@pytest.mark.parametrize(("size", "codec"), [(1, "raw"), (2, "raw"), (3, "raw"), (2, "zstd"), (3, "zstd")])
def test_the_bytes_do_not_depend_on_the_number_of_processes(
    size: int, codec: str, mpiexec: Run, town_config: Path, town: Any, tmp_path: Path, contents: Contents
) -> None:
    root = tmp_path / f"by {size}"
    done = mpiexec(size, COMMAND, "--config", town_config, f"shards.root={root}", f"shards.codec={codec}")
    assert done.returncode == 0, done.stderr
    assert contents(root) == wanted(town, tmp_path / "alone", contents, codec=codec)
    folders = [Path(line) for line in done.stdout.splitlines()]
    assert sorted(folders) == sorted(root.iterdir())
    assert len(folders) == 2
    # Of both domains the progress of both steps, each shown by one process.
    assert len(done.stderr.splitlines()) == 4, done.stderr


def test_a_dry_run_is_printed_once(mpiexec: Run, town_config: Path, town: Any) -> None:
    done = mpiexec(2, COMMAND, "--config", town_config, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert [line.partition(":")[0] for line in done.stdout.splitlines()] == ["source", "target"]
    assert not (town.root / "shards").exists()


def test_a_build_goes_on_with_another_number_of_processes(
    mpiexec: Run, town_config: Path, town: Any, tmp_path: Path, contents: Contents
) -> None:
    """Of a build by two, some shards are lost, one is cut, and the manifest is missing."""
    whole = wanted(town, tmp_path / "alone", contents)
    assert mpiexec(2, COMMAND, "--config", town_config).returncode == 0
    for folder in (town.root / "shards").iterdir():
        (folder / "manifest.json").unlink()
        shards = sorted(folder.glob("*.tar"))
        shards[0].with_suffix(".index.json").unlink()
        shards[1].unlink()
        os.truncate(shards[2], 1000)
    done = mpiexec(3, COMMAND, "--config", town_config)
    assert done.returncode == 0, done.stderr
    assert contents(town.root / "shards") == whole


def test_builds_whose_ranks_are_killed_go_on_to_the_same_bytes(
    mpiexec: Run, town_config: Path, town: Any, tmp_path: Path, contents: Contents
) -> None:
    """Of two or three ranks a random one is killed after a random number of shards; others go on, in the end alone."""
    whole = wanted(town, tmp_path / "alone", contents)
    rng = random.Random(0)
    killed = 0
    for _ in range(6):
        shutil.rmtree(town.root / "shards", ignore_errors=True)
        for size in (2, 3):
            killed += killed_build(town_config, town.root / "shards", size, rng.randrange(1, 5), rng)
        done = mpiexec(rng.choice((1, 2)), COMMAND, "--config", town_config)
        assert done.returncode == 0, done.stderr
        assert contents(town.root / "shards") == whole
    assert killed >= 6


def killed_build(town_config: Path, root: Path, size: int, shards: int, rng: random.Random) -> bool:
    """Whether a rank was killed when there were ``shards`` more, and ended the build."""
    begun = len(list(root.glob("*/*.index.json")))
    start = [Path(sys.prefix, "bin/mpiexec"), "-n", str(size), sys.executable, COMMAND, "--config", town_config]
    build = subprocess.Popen(start, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while build.poll() is None and len(list(root.glob("*/*.index.json"))) < begun + shards:
        time.sleep(0.001)
    ranks = ranks_under(build.pid)
    if build.poll() is None and ranks:
        os.kill(rng.choice(ranks), signal.SIGKILL)
    status = build.wait()
    while any(map(is_alive, ranks)):  # which the launcher kills, but may not wait for
        time.sleep(0.01)
    return status != 0


def is_alive(process: int) -> bool:
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def ranks_under(launcher: int) -> list[int]:
    """The Python processes that a launcher, or what it has started, has started."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in listed.splitlines()]
    family, ranks = {launcher}, []
    for pid, parent, arguments in sorted(rows, key=lambda row: int(row[0])):
        if int(parent) in family:
            family.add(int(pid))
            if arguments.startswith(sys.executable):
                ranks.append(int(pid))
    return ranks


def cut_a_raster(town: Any, *_: object) -> str:
    path = town.root / "dsm/2_10.tif"
    os.truncate(path, path.stat().st_size // 2)
    return "2_10.tif"


def change_a_gsd(town: Any, write_tiff: Callable[..., None]) -> str:
    write_tiff(town.root / "top/2_10.tif", town.images["2_10"], transform=Affine(0.8, 0, 1000, 0, -0.8, 2000))
    return "2_10"


def put_a_file_in_the_way(town: Any, *_: object) -> str:
    (town.root / "shards").write_text("")
    return "shards"


def take_the_archive_away(town: Any, *_: object) -> str:
    shutil.rmtree(town.root / "top")
    return "top/{id}.tif"


@pytest.mark.parametrize("spoil", [cut_a_raster, change_a_gsd, put_a_file_in_the_way, take_the_archive_away])
def test_bad_input_ends_all_processes_with_one_sentence(
    spoil: Callable[..., str], mpiexec: Run, town_config: Path, town: Any, write_tiff: Callable[..., None]
) -> None:
    named = spoil(town, write_tiff)
    done = mpiexec(3, COMMAND, "--config", town_config)
    assert done.returncode == 2
    assert done.stdout == ""
    said = [line for line in done.stderr.splitlines() if ", 0 s left" not in line]
    assert len(said) == 1, done.stderr
    assert said[0].startswith("error: ")
    assert named in said[0]


def test_a_mended_raster_lets_the_build_go_on(
    mpiexec: Run, town_config: Path, town: Any, tmp_path: Path, contents: Contents
) -> None:
    whole = wanted(town, tmp_path / "alone", contents)
    path = town.root / "dsm/2_10.tif"
    good = path.read_bytes()
    cut_a_raster(town)
    assert mpiexec(2, COMMAND, "--config", town_config).returncode == 2
    path.write_bytes(good)
    assert mpiexec(2, COMMAND, "--config", town_config).returncode == 0
    # The folder of the plan with the cut file has another name, and is none of finished shards.
    folders = [folder for folder in (town.root / "shards").iterdir() if (folder / "manifest.json").exists()]
    built = {f"{folder.name}/{name}": data for folder in folders for name, data in contents(folder).items()}
    assert built == whole


@pytest.fixture
def own_mounts() -> list[str]:
    """The start of a command line that may mount what nobody else sees."""
    start = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"]), "--"]
    try:
        may = subprocess.run([*start, "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no unshare(1) here")
    if may.returncode:
        pytest.skip(f"no file system can be mounted here: {may.stderr.decode().strip()}")
    return start


def test_a_full_disk_keeps_what_was_whole(
    own_mounts: list[str], mpiexec: Run, town_config: Path, town: Any, tmp_path: Path, contents: Contents
) -> None:
    whole = wanted(town, tmp_path / "alone", contents)
    disk = tmp_path / "disk"
    disk.mkdir()
    build = (
        f'"{sys.prefix}/bin/mpiexec" -n 2 "{sys.executable}" "{COMMAND}" --config "{town_config}" shards.root="{disk}"'
    )
    lines = f"""
        cd "{tmp_path}"
        mount -t tmpfs -o size={SMALL_DISK} none disk
        {build} > said 2>&1
        echo $? > status
        cp -r disk full
        mount -o remount,size={LARGE_DISK} disk
        {build} && cp -r disk roomy
    """
    done = subprocess.run([*own_mounts, "sh", "-c", lines], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "status").read_text() == "2\n"
    said = [line for line in (tmp_path / "said").read_text().splitlines() if ", 0 s left" not in line]
    assert len(said) == 1, said
    assert "No space left on device" in said[0]
    assert "make room" in said[0]
    left = contents(tmp_path / "full")
    indexes = [name for name in left if name.endswith(".index.json")]
    assert indexes
    for name in indexes:
        tar = name.replace(".index.json", ".tar")
        assert left[name] == whole[name]
        assert left[tar] == whole[tar]
        assert json.loads(left[name])["bytes"] == len(left[tar])
    assert contents(tmp_path / "roomy") == whole
