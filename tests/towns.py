"""Archives of noise with known pixels, and fixtures that give them; ``tests/conftest.py`` takes them in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import rasterio
import yaml
from affine import Affine

from drdg.config import DescribedArchive, DomainConfig, ShardsConfig

COLOURS = {"low": (0, 255, 255), "building": (0, 0, 255), "tree": (0, 255, 0)}
GSD_M = 0.5


@dataclass(frozen=True)
class Town:
    """What was written: arrays by TOP id, and the configuration that reads it."""

    root: Path
    images: dict[str, np.ndarray]
    heights: dict[str, np.ndarray]
    ids: dict[str, np.ndarray]

    def domain(self, **knobs: object) -> DomainConfig:
        archive = {
            "name": "town",
            "root": self.root,
            "image": "top/{id}.tif",
            "dsm": "dsm/{id}.tif",
            "label": "label/{id}.tif",
            "classes": COLOURS,
        } | knobs.pop("archive", {})  # type: ignore[operator]
        return DomainConfig(archive=DescribedArchive(**archive), **({"tile": 128, "stride": 96} | knobs))

    def shards(self, **knobs: object) -> ShardsConfig:
        return ShardsConfig(**({"root": self.root / "shards", "samples_per_shard": 5} | knobs))


def write_tiff(path: Path, array: np.ndarray, **options: object) -> None:
    """(H, W) or (H, W, bands) as GeoTIFF, by default north up with ``GSD_M`` metres a pixel."""
    bands = array[None] if array.ndim == 2 else np.moveaxis(array, -1, 0)
    profile = {"transform": Affine(GSD_M, 0, 1000, 0, -GSD_M, 2000)} | options
    profile = {key: value for key, value in profile.items() if value is not None}
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        path, "w", "GTiff", bands.shape[2], bands.shape[1], bands.shape[0], dtype=bands.dtype, **profile
    ) as file:
        file.write(bands)


def write_town(
    root: Path, tops: int = 3, height: int = 300, width: int = 420, seed: int = 0, **options: object
) -> Town:
    """``tops`` TOPs of noise, whose heights are a slope with blocks on it that their labels call buildings."""
    rng = np.random.default_rng(seed)
    town = Town(root, {}, {}, {})
    for number in range(tops):
        name = f"{number + 1}_{number + 9}"
        ids = rng.choice(np.array([0, 2, 255], np.uint8), size=(height, width))
        slope = np.linspace(40, 46, width, dtype=np.float32) + number
        heights = np.tile(slope, (height, 1)) + rng.uniform(0, 0.5, (height, width)).astype(np.float32)
        for row, col in rng.integers(0, (height - 30, width - 30), (8, 2)):
            heights[row : row + 24, col : col + 24] += 7
            ids[row : row + 24, col : col + 24] = 1
        colours = np.zeros((256, 3), np.uint8)
        colours[: len(COLOURS)] = list(COLOURS.values())
        town.images[name] = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        town.heights[name] = heights
        town.ids[name] = ids
        write_tiff(root / f"top/{name}.tif", town.images[name], **options)
        write_tiff(root / f"dsm/{name}.tif", heights, **options)
        write_tiff(root / f"label/{name}.tif", colours[ids], **options)
    return town


@pytest.fixture
def town(tmp_path: Path) -> Town:
    return write_town(tmp_path / "town")


@pytest.fixture
def make_town(tmp_path: Path) -> Callable[..., Town]:
    def make(name: str = "other", **options: object) -> Town:
        return write_town(tmp_path / name, **options)  # type: ignore[arg-type]

    return make


@pytest.fixture(scope="session")
def shared_town(tmp_path_factory: pytest.TempPathFactory) -> Town:
    """One that no test writes to, beyond building shards under its root."""
    return write_town(tmp_path_factory.mktemp("shared") / "town")


@pytest.fixture(scope="session")
def small_town(tmp_path_factory: pytest.TempPathFactory) -> Town:
    """One of two TOPs that hold three tiles each; no test writes to it."""
    return write_town(tmp_path_factory.mktemp("small") / "town", tops=2, height=128, width=300)


@pytest.fixture(name="write_tiff")
def _write_tiff() -> Callable[..., None]:
    return write_tiff


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(name="contents")
def _contents() -> Callable[[Path], dict[str, bytes]]:
    return contents


@pytest.fixture
def town_config(town: Town) -> Path:
    """A file that configures shards of ``town``, as source and, in other tiles, as target."""
    domain = town.domain().model_dump(mode="json")
    values = {
        "source": domain,
        "target": domain | {"stride": 128},
        "shards": town.shards().model_dump(mode="json"),
    }
    path = town.root / "config.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path
