"""What several tests share: a small pair of archives and their shards."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import settings
from rasterio.transform import from_origin
from towns import _contents, _write_tiff, make_town, shared_town, small_town, town, town_config

from drdg.config import Config, load_config
from drdg.shards.build import build_shards
from drdg.shards.store import ShardStore

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may wait for a download
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the same tests on every machine

__all__ = [
    "_contents",
    "_write_tiff",
    "make_town",
    "shared_town",
    "small_town",
    "town",
    "town_config",
]  # fixtures of many tests

# No wall-clock limits: a busy machine is no error of ours.
settings.register_profile("drdg", deadline=None)
settings.load_profile("drdg")

PALETTE = np.array([[255, 0, 0], [255, 255, 255], [255, 255, 0], [0, 255, 0], [0, 255, 255], [0, 0, 255]], np.uint8)


LAYERS = {"image": "top", "dsm": "dsm", "label": "label"}


def write_raster(path: Path, bands: np.ndarray, gsd_m: float) -> None:
    """A GeoTIFF of (bands, H, W)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = bands.shape
    shape = {"count": count, "height": height, "width": width, "dtype": bands.dtype}
    with rasterio.open(
        path, "w", driver="GTiff", crs="EPSG:32632", transform=from_origin(5e5, 5e6, gsd_m, gsd_m), **shape
    ) as file:
        file.write(bands)


def write_archive(root: Path, name: str, tops: int, side: int, gsd_m: float, seed: int) -> None:
    """A described archive of random blocks whose colour, height and label go together."""
    random = np.random.default_rng(seed)
    tint = random.integers(-40, 40, size=(3, 1, 1))
    for number in range(tops):
        classes = random.integers(0, 6, size=(side // 32 + 1, side // 32 + 1)).repeat(32, 0).repeat(32, 1)[:side, :side]
        noise = random.integers(-20, 20, size=(3, side, side))
        image = PALETTE[classes].transpose(2, 0, 1).astype(int) // 2 + 60 + tint + noise
        write_raster(root / f"top/{name}_{number}.tif", image.clip(0, 255).astype(np.uint8), gsd_m)
        heights = (100 + 3.0 * classes + random.random((side, side)))[None]
        write_raster(root / f"dsm/{name}_{number}.tif", heights.astype(np.float32), gsd_m)
        write_raster(root / f"label/{name}_{number}.tif", PALETTE[classes].transpose(2, 0, 1), gsd_m)


@pytest.fixture
def mpiexec() -> Callable[..., subprocess.CompletedProcess[str]]:
    """``mpiexec -n N python ARGUMENTS``, of the MPI in this environment, to its end; ``variables`` are added."""
    command = Path(sys.prefix, "bin/mpiexec")
    if not command.is_file():
        pytest.skip("there is no mpiexec in this environment; pip install 'drdg[mpi]'")

    def run(
        processes: int, *arguments: object, variables: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        start = [command, "-n", str(processes), sys.executable, *map(str, arguments)]
        return subprocess.run(start, capture_output=True, text=True, check=False, env=os.environ | (variables or {}))

    return run


@pytest.fixture(scope="session")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two described archives, ``here`` (3 TOPs of 320 px) and ``there`` (2 TOPs of 192 px)."""
    root = tmp_path_factory.mktemp("archives")
    write_archive(root / "here", "here", tops=3, side=320, gsd_m=0.05, seed=1)
    write_archive(root / "there", "there", tops=2, side=192, gsd_m=0.09, seed=2)
    return root


@pytest.fixture
def small(archives: Path, tmp_path: Path) -> Callable[..., Config]:
    """A configuration over the two archives, so narrow and short that a stage takes seconds; overrides come on top."""

    def make(*overrides: str) -> Config:
        place = [
            f"{domain}.archive.{key}={value}"
            for domain, name in (("source", "here"), ("target", "there"))
            for key, value in {
                "kind": "described",
                "name": name,
                "root": archives / name,
                **{layer: f"{folder}/{name}_{{id}}.tif" for layer, folder in LAYERS.items()},
            }.items()
        ]
        narrow = [
            "source.tile=256",
            "source.stride=64",
            "target.tile=128",
            "target.stride=64",
            "generator.width=2",
            "critic.width=2",
            "gan.iterations=2",
            "gan.workers=0",
            "distributed.threads=1",
            "segmentation.architecture=PSPNet",
            "segmentation.encoder=tu-test_resnet",
            "segmentation.encoder_weights=none",
            "segmentation.crop=128",
            "segmentation.batch_size=2",
            "segmentation.iterations=2",
            "segmentation.workers=0",
            "evaluation.window=128",
            f"shards.root={tmp_path / 'some shards'}",
            "shards.samples_per_shard=5",
            f"run.root={tmp_path / 'my runs'}",
        ]
        return load_config(None, [*place, *narrow, *overrides])

    return make


@pytest.fixture(scope="session")
def two_domains(archives: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[ShardStore, ShardStore]:
    """The shards of both archives: 12 labelled source tiles of 256 px, 8 target tiles of 128 px."""
    root = tmp_path_factory.mktemp("shards")
    stores = []
    for name, tile, domain in (("here", 256, "source"), ("there", 128, "target")):
        place = {
            "image": f"top/{name}_{{id}}.tif",
            "dsm": f"dsm/{name}_{{id}}.tif",
            "label": f"label/{name}_{{id}}.tif",
        }
        overrides = [f"{domain}.archive.{key}={value}" for key, value in place.items()]
        overrides += [f"{domain}.archive.kind=described", f"{domain}.archive.name={name}"]
        overrides += [f"{domain}.archive.root={archives / name}", f"{domain}.tile={tile}", f"{domain}.stride=64"]
        config = load_config(None, [*overrides, f"shards.root={root}", "shards.samples_per_shard=5"])
        folder = build_shards(getattr(config, domain), config.shards, need_label=domain == "source")
        stores.append(ShardStore(folder))
    return stores[0], stores[1]
