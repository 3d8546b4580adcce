"""The command: as a person types it, on two ranks, killed and started again, on bad input."""

from __future__ import annotations

import json
import os
import re
import runpy
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from mosaic_scenes import CLASSES, random_image, save_tiny, write_scene
from rasterio.transform import from_origin
from safetensors.torch import load_file

from drdg.config import Config, load_config
from drdg.inference.translate import to_bytes, to_unit
from drdg.maps import run as command
from drdg.maps.inputs import Reading
from drdg.maps.ours import is_ours
from drdg.maps.request import Request
from drdg.maps.run import predict
from drdg.methods import Translator
from drdg.models.resize import resized
from drdg.models.segmentor import read_learnt
from drdg.training.weights import fresh_translator, save_translator

REPOSITORY = Path(__file__).parents[2]
KNOBS = ["evaluation.window=128", "evaluation.batch_size=4", "distributed.threads=1"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}


@pytest.fixture(scope="module")
def city(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, a generator, two scenes, ``long`` of 18 bands and ``wide`` beside it, and their maps."""
    folder = tmp_path_factory.mktemp("a city")
    save_tiny(folder / "model.safetensors")
    save_generator(folder / "translator.safetensors")
    image = random_image(4400, 200)
    image[:, 600:1800, :150] = 0
    write_scene(folder / "in/long.tif", image, nodata=0)
    write_scene(folder / "in/wide.tif", random_image(300, 700), transform=from_origin(500020, 5e6, 0.1, 0.1))
    predict(settings(), request(folder, "maps"))
    return folder


def save_generator(path: Path, rule: str = "dataset") -> Translator:
    knobs = ["source.tile=256", "target.tile=128", "generator.width=2", "critic.width=2", f"dsm.rule={rule}"]
    trained = load_config(None, knobs)
    translator = fresh_translator("drdg", trained, torch.device("cpu"))
    save_translator(path, translator, "drdg", trained, 1)
    return translator


def settings(*overrides: str) -> Config:
    return load_config(None, [*KNOBS, *overrides])


def request(city: Path, out: str, **changes: object) -> Request:
    given = {"confidence": True, "generator": city / "translator.safetensors", **changes}
    return Request(str(city / "model.safetensors"), (str(city / "in"),), city / out, **given)  # type: ignore[arg-type]


def arguments(city: Path, out: Path) -> list[str]:
    given = ["--model", str(city / "model.safetensors"), "--input", str(city / "in"), "--output", str(out)]
    return ["launch/predict.py", *given, "--confidence", "--generator", str(city / "translator.safetensors"), *KNOBS]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_every_input_gets_its_map(city: Path) -> None:
    products = ("", "_confidence", "_translated", "_dsm")
    made = {name for name in contents(city / "maps") if name.endswith(".tif")}
    assert made == {f"{scene}{product}.tif" for scene in ("long", "wide") for product in products}
    with rasterio.open(city / "maps/long.tif") as file:
        assert file.shape == (4400, 200)
        assert len(np.unique(file.read(1))) > 2


def test_two_ranks_give_the_same_bytes_as_one(city: Path, tmp_path: Path) -> None:
    start = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    done = subprocess.run(
        [*start, *arguments(city, tmp_path / "maps")], cwd=REPOSITORY, env=ENVIRONMENT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert contents(tmp_path / "maps") == contents(city / "maps")


def test_a_killed_mosaic_continues_to_the_same_bytes(city: Path, tmp_path: Path) -> None:
    out = tmp_path / "maps"
    start = {"cwd": REPOSITORY, "env": ENVIRONMENT, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, *arguments(city, out)], **start) as process:  # type: ignore[call-overload]
        while not (pieces := list(out.glob(".long-*/map-*.tif"))) and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL
    assert pieces
    assert not (out / "long.tif").exists()
    (folder,) = out.glob(".long-*")
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*-0000-*.tif")}
    whole = {path for path in before if folder / path.name.replace("map-", "confidence-") in before}
    assert len([path for path in whole if path.name.startswith("map-")]) < 18
    seen: dict[Path, int] = {}
    original = command.map_scene

    def look(path: Path, *rest: object, **more: object) -> bool:
        seen.update({piece: piece.stat().st_mtime_ns for piece in whole if piece.exists()})
        return original(path, *rest, **more)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "map_scene", look)
        predict(settings(), request(city, str(out)))
    assert seen == {path: before[path] for path in whole}
    assert contents(out) == contents(city / "maps")


def test_what_an_interrupted_run_has_finished_is_not_computed_again(
    city: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import drdg.maps.mosaic as mosaic

    kept: list[tuple[str, int]] = []
    keep = mosaic.Journal.keep

    def breaking(self, product, piece, pixels):
        if len(kept) == 7:  # in the middle of a piece: its map is there, its confidence is not
            raise KeyboardInterrupt
        kept.append((product.name, piece.band))
        keep(self, product, piece, pixels)

    monkeypatch.setattr(mosaic.Journal, "keep", breaking)
    with pytest.raises(KeyboardInterrupt):
        predict(settings(), request(city, str(tmp_path / "maps")))
    assert kept[-1] == ("", 3)
    again: list[int] = []

    def noting(self, product, piece, pixels):
        again.append(piece.band)
        keep(self, product, piece, pixels)

    monkeypatch.setattr(mosaic.Journal, "keep", noting)
    predict(settings(), request(city, str(tmp_path / "maps")))
    assert again[:30] == [band for band in range(3, 18) for _ in range(2)]
    assert contents(tmp_path / "maps") == contents(city / "maps")


def test_a_mosaic_and_what_goes_with_it(
    city: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    called: list[tuple[object, ...]] = []
    images: list[np.ndarray] = []

    def stand_in(name: str) -> None:
        module = types.ModuleType(f"drdg.maps.{name}")
        function = {"vectors": "write_polygons", "preview": "write_preview", "viewer": "write_viewer"}[name]

        def write(*given: object, **knobs: object) -> object:
            if name == "viewer":
                assert isinstance(given[0], dict)
                with rasterio.open(given[0]["image"]) as file:
                    images.append(file.read())
                given = (list(given[0]), *given[1:])
            called.append((name, *given, knobs))
            return given[1]

        setattr(module, function, write)
        module.require_libraries = lambda: None  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, f"drdg.maps.{name}", module)

    for name in ("vectors", "preview", "viewer"):
        stand_in(name)
    whole = city / "whole/city.tif"
    more = {"polygons": True, "minimum_m2": 2.0, "simplify_m": 0.5, "preview": True, "viewer": True}
    maps = predict(settings(), request(city, "maps", mosaic=whole, **more))
    assert [path.name for path in maps] == ["long.tif", "wide.tif"]
    palette = ((255, 0, 0), (255, 255, 255), (0, 255, 0))
    beside = city / "maps/city"
    assert called == [
        ("vectors", whole, beside.with_suffix(".gpkg"), CLASSES, {"minimum_m2": 2.0, "simplify_m": 0.5}),
        ("preview", whole, beside.with_suffix(".png"), CLASSES, palette, {"title": "city"}),
        ("viewer", ["image", "map"], beside.with_suffix(".html"), CLASSES, palette, {"title": "city"}),
    ]
    with rasterio.open(whole) as file, rasterio.open(maps[1]) as wide:
        assert file.shape == (4400, 900)
        np.testing.assert_array_equal(file.read(1)[:300, 200:], wide.read(1))
    with rasterio.open(city / "in/wide.tif") as file:
        np.testing.assert_array_equal(images[0][:, :300, 200:], file.read())
    called.clear()
    predict(settings(), request(city, "maps", preview=True, viewer=True))
    assert [call[1] for call in called[::2]] == maps
    assert called[1][1] == ["image", "translated", "dsm", "confidence", "map"]
    assert not list((city / "maps").glob(".image-*"))
    # Of an earlier run, perhaps of another model: named, but not shown with this run's map.
    capsys.readouterr()
    called.clear()
    predict(settings(), request(city, "maps", viewer=True, generator=None))
    assert called[0][1] == ["image", "confidence", "map"]
    (said,) = [line for line in capsys.readouterr().err.splitlines() if "earlier run" in line]
    assert said.endswith("maps: long_translated.tif and 3 more of an earlier run with other settings stay as they are")


def test_the_gsd_comes_from_the_model_or_the_command(
    city: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = save_tiny(tmp_path / "model.safetensors", gsd_m=0.2)
    assert read_learnt(model) == (CLASSES, ((255, 0, 0), (255, 255, 255), (0, 255, 0)), 0.2)
    ids = {}
    for name, gsd in (("model", None), ("command", 0.2), ("own", 0.0), ("same", 0.1), ("near", 0.103)):
        out = tmp_path / name
        given = str(model) if name != "command" else str(city / "model.safetensors")
        predict(settings(), Request(given, (str(city / "in/wide.tif"),), out, gsd_m=gsd))
        with rasterio.open(out / "wide.tif") as file:
            ids[name] = file.read(1)
    said = capsys.readouterr().err
    assert re.search(r"map wide\.tif: 2/2, .*/s, 0 s left, .* Mpixel/s\n", said)
    told = "map wide.tif: resampled from its pixels of 0.1 m to 0.2 m, as the network knows"
    assert [line for line in said.splitlines() if "resampled" in line] == [told] * 2
    np.testing.assert_array_equal(ids["model"], ids["command"])
    np.testing.assert_array_equal(ids["own"], ids["same"])
    np.testing.assert_array_equal(ids["own"], ids["near"])  # tiles of one data set differ so much by their own notes
    assert (ids["model"] != ids["own"]).any()


def test_flips_and_scales_change_the_map(city: Path, tmp_path: Path) -> None:
    ids = {}
    for name, more in (("plain", {}), ("flips", {"flips": True}), ("scales", {"scales": (0.75, 1.0, 1.25)})):
        out = tmp_path / name
        predict(settings(), Request(str(city / "model.safetensors"), (str(city / "in/wide.tif"),), out, **more))  # type: ignore[arg-type]
        with rasterio.open(out / "wide.tif") as file:
            ids[name] = file.read(1)
    assert (ids["plain"] != ids["flips"]).any()
    assert (ids["plain"] != ids["scales"]).any()
    assert np.mean(ids["plain"] != ids["flips"]) < 0.9


def test_a_generator_gives_the_translated_image_and_heights(
    city: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "translator.safetensors"
    translator = save_generator(path, "top")  # by the rule "dataset" no DSM of the place says what 0 and 1 are
    scene = write_scene(tmp_path / "in/scene.tif", random_image(256, 256))
    dsm = write_scene(
        tmp_path / "dsm/scene.tif", np.linspace(80, 130, 256 * 256, dtype=np.float32).reshape(1, 256, 256)
    )
    more = {"generator": path, "dsm": dsm.parent}
    asked = Request(str(city / "model.safetensors"), (str(scene),), tmp_path / "maps", **more)  # type: ignore[arg-type]
    predict(settings(), asked)
    with rasterio.open(tmp_path / "maps/scene_translated.tif") as file:
        image = file.read()
        assert file.colorinterp[0].name == "red"
    with rasterio.open(tmp_path / "maps/scene_dsm.tif") as file:
        found = file.read(1)
        assert file.units == ("metre",)
        assert file.nodata == -9999
    unit = to_unit(random_image(256, 256).transpose(1, 2, 0)[None], torch.device("cpu"))
    expected = to_bytes(resized(translator.translate(unit).clamp(-1, 1), 256))[0].clip(min=1)
    np.testing.assert_allclose(image.transpose(1, 2, 0).astype(int), expected.astype(int), atol=1)
    depth = translator.predict_depth(unit)
    assert depth is not None
    np.testing.assert_allclose(found, 80 + 50 * depth[0, 0].numpy(), atol=1e-3)
    assert "--dsm" not in capsys.readouterr().err
    save_generator(path, "dataset")
    predict(settings(), asked)
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("--dsm ")]
    assert said == [f"--dsm {dsm.parent}: dsm.rule=dataset makes no use of it, heights are 0 to 1"]
    with rasterio.open(tmp_path / "maps/scene_dsm.tif") as file:
        assert file.units[0] in (None, "")
        np.testing.assert_allclose(file.read(1), (found - 80) / 50, atol=1e-3)


def test_pieces_that_another_rank_wrote_elsewhere_are_missed(
    city: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("drdg.maps.mosaic.share", lambda pieces, rank, world_size: list(pieces[:1]))
    with pytest.raises(ValueError, match=r"pieces of other ranks are not there; let all ranks see --output"):
        predict(settings(), request(city, str(tmp_path / "maps")))


def test_training_writes_what_the_map_needs_to_know(city: Path) -> None:
    assert load_file(city / "model.safetensors")
    assert read_learnt(city / "model.safetensors").gsd_m is None


def ended(
    city: Path, *more: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["predict.py", *more])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(REPOSITORY / "launch/predict.py"), run_name="__main__")
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return int(stopped.value.code or 0), said


def test_bad_input_ends_with_one_sentence(
    city: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scene, model = str(city / "in/wide.tif"), str(city / "model.safetensors")
    nowhere = write_scene(tmp_path / "nowhere.tif", random_image(20, 30), crs=None)
    cases: list[tuple[list[str], str]] = [
        (
            ["--model", str(tmp_path / "no.safetensors"), "--input", scene],
            "no.safetensors: there is no trained segmentor",
        ),
        (["--model", model, "--input", scene, str(nowhere)], "nowhere.tif: has no CRS"),
        (["--model", model, "--input", str(tmp_path / "x*.tif")], r"x\*.tif: no such file, and no file matches it"),
        (["--model", model, "--input", scene, "--bands", "1,2"], "--bands 1,2: the network takes three bands"),
        (["--model", model, "--input", scene, "--bands", "r,g,b"], "r,g,b are no numbers of bands"),
        (["--model", model, "--input", scene, "--scales", "0,1"], "0,1 are no factors from 0.1 to 10"),
        (["--model", model, "--input", scene, "--gsd", "-1"], "-1 is no number of 0 or more"),
        (["--model", model, "--input", scene, "--generator", model], "does not say which translator's weights"),
        (["--model", model, "--input", scene, "run.seed=1"], "run.seed=1: no such file, .*; write it before --input"),
        (
            ["tracking.uri=sqlite:////no/such.db", "--model", "models:/x@y", "--input", scene],
            "there is no MLflow store",
        ),
    ]
    for given, words in cases:
        status, said = ended(city, *given, "--output", str(tmp_path / "maps"), monkeypatch=monkeypatch, capsys=capsys)
        assert status == 2, given
        assert re.search(words, said), said
        assert len([line for line in said.splitlines() if "error: " in line]) == 1
    assert not (tmp_path / "maps").exists()


def test_a_dry_run_says_what_and_loads_no_torch(city: Path, tmp_path: Path) -> None:
    look = "import atexit, sys, json; atexit.register(lambda: print(json.dumps('torch' in sys.modules)))"
    given = ["predict.py", *arguments(city, tmp_path / "maps")[1:], "--dry-run"]
    code = f"{look}; sys.argv = {given!r}; import runpy; runpy.run_path('launch/predict.py', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    said, loaded = done.stdout.splitlines()
    assert said.startswith("would map 2 rasters, long.tif to wide.tif, by ")
    assert not json.loads(loaded)
    assert not (tmp_path / "maps").exists()


def test_a_registered_model_is_fetched_by_its_alias(
    city: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from drdg.tracking import Tracking

    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    tracking = Tracking(store, "drdg", tmp_path)
    with tracking.parent("run", {}, {}) as run:
        run.artifact(city / "model.safetensors")
        run_id = run.environment()["MLFLOW_RUN_ID"]
    client = tracking._store.client  # type: ignore[union-attr]
    client.create_registered_model("city")
    version = client.create_model_version("city", source=f"runs:/{run_id}/", run_id=run_id)
    client.set_registered_model_alias("city", "champion", version.version)
    for name in ("champion", "nobody"):
        asked = Request(f"models:/city@{name}", (str(city / "in/wide.tif"),), tmp_path / "maps", confidence=True)
        if name == "champion":
            predict(settings(f"tracking.uri={store}"), asked)
            assert (tmp_path / "maps/wide.tif").read_bytes() == (city / "maps/wide.tif").read_bytes()
        else:
            with pytest.raises(ValueError, match=r"models:/city@nobody: cannot be had from the MLflow store .*correct"):
                predict(settings(f"tracking.uri={store}"), asked)


def test_polygons_preview_and_page_are_really_written(city: Path, tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "in/deep.tif", random_image(300, 260).astype(np.uint16) * 20)
    reading = Reading((3, 1, 2), (0, 5100))
    more = {"polygons": True, "minimum_m2": 0.5, "simplify_m": 0.1, "preview": True, "viewer": True, "confidence": True}
    model = str(city / "model.safetensors")
    predict(settings(), Request(model, (str(scene),), tmp_path / "maps", reading, **more))  # type: ignore[arg-type]
    names = {path.name for path in (tmp_path / "maps").iterdir()}
    assert {"deep.tif", "deep.gpkg", "deep.png", "deep.html", "deep_tiles"} <= names
    # What is its own, the same command replaces.
    assert all(is_ours(tmp_path / "maps" / name) for name in names if not name.endswith(".aux.xml"))
    predict(settings(), Request(model, (str(scene),), tmp_path / "maps", reading, **more))  # type: ignore[arg-type]


def test_pieces_that_a_killed_process_left_after_its_end_are_removed(city: Path) -> None:
    left = city / "maps" / f".wide-map-{'0' * 16}.parts"
    left.mkdir()
    predict(settings(), request(city, "maps"))
    assert not left.exists()
