"""What a call settles before it maps anything: the model, what heights mean, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from mosaic_scenes import CLASSES, random_image, save_tiny, write_scene

from drdg.config import load_config
from drdg.maps import run as command
from drdg.maps.products import class_map, confidence, heights, probabilities, translated
from drdg.maps.request import PRODUCTS, Request
from drdg.maps.run import find_weights, predict


@pytest.mark.parametrize(
    ("knobs", "with_dsm", "expected"),
    [
        # Trained by the lowest and highest of a whole data set, which the DSM of one place elsewhere does not say: the
        # heights were once stretched to that DSM's own range, metres that nobody had learnt.
        (["dsm.rule=dataset"], True, (0, 1, False)),
        (["dsm.rule=dataset", "dsm.range=symmetric"], True, (0, 1, False)),
        (["dsm.rule=top"], True, (80, 130, True)),
        (["dsm.rule=top", "dsm.range=symmetric"], True, (105, 130, True)),  # a sigmoid reaches the upper half
        (["dsm.rule=height_above_ground", "dsm.ceiling_m=40"], False, (0, 40, True)),
        (["dsm.rule=top"], False, (0, 1, False)),
    ],
)
def test_heights_are_metres_where_anybody_knows(
    tmp_path: Path, knobs: list[str], with_dsm: bool, expected: tuple[float, float, bool]
) -> None:
    scene = write_scene(tmp_path / "scene.tif", random_image(40, 50))
    dsm = write_scene(tmp_path / "dsm.tif", np.linspace(80, 130, 2000, dtype=np.float32).reshape(1, 40, 50))
    asked = Request("m", (str(scene),), tmp_path, generator=scene, dsm=dsm if with_dsm else None)
    assert command.heights_of(load_config(None, knobs), asked, scene) == expected


def test_a_folder_with_one_file_of_weights_is_a_model(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--model x: no file \*\.safetensors is there"):
        find_weights(tmp_path, "x")
    (tmp_path / "deep/er").mkdir(parents=True)
    for name in ("deep/er/a.safetensors", "deep/segmentor.safetensors"):
        (tmp_path / name).touch()
    assert find_weights(tmp_path, "x").name == "segmentor.safetensors"
    assert find_weights(tmp_path / "deep/er", "x").name == "a.safetensors"
    (tmp_path / "segmentor.safetensors").touch()
    with pytest.raises(ValueError, match=r"3 files \*\.safetensors are there.*name the file itself"):
        find_weights(tmp_path, "x")


def test_what_can_be_seen_before_is_refused_before_anything_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> bool:
        raise AssertionError("it is known already that this will fail")

    monkeypatch.setattr(command, "map_scene", never)
    other = write_scene(tmp_path / "other.tif", random_image(40, 50), crs="EPSG:32633")
    scene = str(write_scene(tmp_path / "wide.tif", random_image(40, 50)))
    model = str(save_tiny(tmp_path / "model.safetensors"))
    with pytest.raises(ValueError, match=r"other\.tif: is in another CRS than .*wide\.tif"):
        predict(
            load_config(None, ["evaluation.window=128"]),
            Request(model, (scene, str(other)), tmp_path / "maps", mosaic=tmp_path / "city.vrt"),
        )
    with monkeypatch.context() as patch:
        patch.setattr("drdg.maps.mosaic.MOST_BYTES", 1 << 20)
        words = r"wide\.tif: its GSD is 0\.1 m and the network's 0\.5 m, .* GiB; give a --gsd nearer"
        with pytest.raises(ValueError, match=words):
            predict(
                load_config(None, ["evaluation.window=128"]), Request(model, (scene,), tmp_path / "maps", gsd_m=0.5)
            )
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"polygons need shapely and pyogrio, not installed here"):
        predict(
            load_config(None, ["evaluation.window=128"]), Request(model, (scene,), tmp_path / "maps", polygons=True)
        )


def test_names_of_products_are_those_that_are_written() -> None:
    made = class_map(CLASSES, ((0, 0, 0),) * 3), probabilities(CLASSES), confidence(), translated()
    assert tuple(product.name for product in (*made, heights(0, 1, in_metres=False))) == PRODUCTS
