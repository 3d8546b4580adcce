"""Trained networks come back from MLflow as functions of arrays, in a process that knows nothing else of them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from stores import TAGS, client

from drdg.config import Config
from drdg.inference.translate import to_bytes, to_unit
from drdg.models.segmentor import build_segmentor, load_segmentor, save_segmentor, side_multiple
from drdg.stages.served import open_generator, open_segmentor
from drdg.tracking import Tracking, log_generator, log_segmentor, register_best, sync
from drdg.training.weights import fresh_translator, load_translator, save_translator

CLASSES = ("low", "building", "tree", "car")
CPU = torch.device("cpu")
# A process of its own, in an empty folder.
PREDICT = """
import sys
import mlflow, numpy as np
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model(sys.argv[2])
np.save(sys.argv[4], model.predict(np.load(sys.argv[3])))
for wrong in (np.zeros((1, 8, 8, 3), np.float32), np.zeros((8, 8, 3), np.uint8)):
    try:
        model.predict(wrong)
    except Exception as error:
        print(type(error).__name__, error)
    else:
        sys.exit("took what it must not")
"""


@pytest.fixture
def config(small: Callable[..., Config]) -> Config:
    # What it takes must have sides of some multiple, unlike a PSPNet's.
    return small("segmentation.architecture=FPN")


@pytest.fixture
def segmentor(config: Config, tmp_path: Path) -> Path:
    torch.manual_seed(0)
    network = build_segmentor(config.segmentation, len(CLASSES))
    path = tmp_path / "segmentor.safetensors"
    save_segmentor(path, network.state_dict(), CLASSES, config, 7)
    return path


@pytest.fixture
def generator(config: Config, tmp_path: Path) -> Path:
    path = tmp_path / "translator.safetensors"
    save_translator(path, fresh_translator("drdg", config, CPU), "drdg", config, 7)
    return path


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, shape, dtype=np.uint8)


def predict(uri: str, model: str, images: np.ndarray, folder: Path) -> tuple[np.ndarray, str]:
    folder.mkdir()
    np.save(folder / "images.npy", images)
    command = [sys.executable, "-c", PREDICT, uri, model, str(folder / "images.npy"), str(folder / "out.npy")]
    done = subprocess.run(command, cwd=folder, text=True, stdout=subprocess.PIPE, check=False)
    assert done.returncode == 0
    return np.load(folder / "out.npy"), done.stdout


# ----------------------------------------------------------------------------------------------------------- functions


@torch.inference_mode()
def test_a_segmentor_says_of_images_that_fit_what_the_network_says(segmentor: Path) -> None:
    network, _ = load_segmentor(segmentor)
    images = noise(2, 64, 96, 3)
    wanted = network(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255).argmax(1).numpy()
    found = open_segmentor(segmentor)(images)
    assert found.dtype == np.uint8
    assert np.array_equal(found, wanted)


@torch.inference_mode()
def test_a_segmentor_takes_images_of_any_size_mirrored_at_their_ends(segmentor: Path) -> None:
    network, _ = load_segmentor(segmentor)
    multiple = side_multiple(network)
    assert multiple > 4
    height, width = 3 * multiple - 3, 5 * multiple - 1
    images = noise(1, height, width, 3)
    grown = np.concatenate([images, images[:, :-4:-1]], 1)
    grown = np.concatenate([grown, grown[:, :, :-2:-1]], 2)
    wanted = network(torch.from_numpy(grown.copy()).permute(0, 3, 1, 2).float() / 255)[:, :, :height, :width].argmax(1)
    found = open_segmentor(segmentor)(images)
    assert found.shape == (1, height, width)
    assert np.array_equal(found, wanted.numpy())
    assert open_segmentor(segmentor)(noise(1, 1, 5, 3)).shape == (1, 1, 5)


def test_a_generator_translates_as_the_stage_does(generator: Path, config: Config) -> None:
    images = noise(2, 256, 256, 3)
    translator = load_translator(generator, config, CPU)
    with torch.no_grad():
        wanted = np.concatenate([to_bytes(translator.translate(to_unit(image[None], CPU))) for image in images])
    found = open_generator(generator)(images)
    assert found.dtype == np.uint8
    assert found.shape == (2, 128, 128, 3)
    assert np.array_equal(found, wanted)


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((1, 8, 8, 3), np.float32),
        np.zeros((8, 8, 3), np.uint8),
        np.zeros((1, 3, 8, 8), np.uint8),
        np.zeros((0, 8, 8, 3), np.uint8),
    ],
)
def test_other_arrays_are_refused(images: np.ndarray, segmentor: Path, generator: Path) -> None:
    for function in (open_segmentor(segmentor), open_generator(generator)):
        with pytest.raises(ValueError, match=r"give them as uint8 \(N, H, W, 3\), 0 to 255, channels last"):
            function(images)


def test_a_generator_names_the_side_that_it_takes(generator: Path) -> None:
    with pytest.raises(ValueError, match=r"64 x 64 pixels, but this translator takes tiles of 256 x 256"):
        open_generator(generator)(noise(1, 64, 64, 3))


# -------------------------------------------------------------------------------------------------------------- MLflow


def test_a_logged_segmentor_predicts_in_a_fresh_process(tracking: Tracking, segmentor: Path, tmp_path: Path) -> None:
    with tracking.stage("segment", "p", TAGS, {}) as run:
        log_segmentor(run, segmentor)
        log_segmentor(run, segmentor)  # as a stage that is run again does
    segmentor_before = open_segmentor(segmentor)
    segmentor.unlink()
    images = noise(2, 50, 70, 3)
    found, refusals = predict(tracking.uri, f"runs:/{run.run_id}/segmentor", images, tmp_path / "fresh")
    assert found.dtype == np.uint8
    assert np.array_equal(found, segmentor_before(images))
    assert "does not match expected dtype uint8" in refusals
    assert "does not match expected shape (-1, -1, -1, 3)" in refusals
    (model,) = client(tracking).search_logged_models([tracking.store.experiment_id])
    assert model.source_run_id == run.run_id
    assert model.model_type == "segmentor"
    (output,) = client(tracking).get_run(run.run_id).outputs.model_outputs
    assert output.model_id == model.model_id


def test_a_logged_generator_predicts_in_a_fresh_process(tracking: Tracking, generator: Path, tmp_path: Path) -> None:
    with tracking.stage("gan", "p", TAGS, {}) as run:
        log_generator(run, generator)
    images = noise(1, 256, 256, 3)
    found, _ = predict(tracking.uri, f"runs:/{run.run_id}/generator", images, tmp_path / "fresh")
    assert np.array_equal(found, open_generator(generator)(images))


def test_the_best_is_a_version_by_its_result(tracking: Tracking, segmentor: Path) -> None:
    with tracking.stage("segment", "p", TAGS, {}) as run:
        log_segmentor(run, segmentor)
    for score, digest in ((40.0, "one"), (41.0, "two"), (40.0, "one")):
        register_best(tracking, "towns-segmentor", run.run_id, "segmentor", score, digest)
        best = client(tracking).get_model_version_by_alias("towns-segmentor", "best")
        assert best.tags["drdg.result"] == digest
        assert best.run_id == run.run_id
    assert len(client(tracking).search_model_versions("name = 'towns-segmentor'")) == 2
    with pytest.raises(ValueError, match="has no model generator to register"):
        register_best(tracking, "towns-segmentor", run.run_id, "generator", 1.0, "x")


def test_a_model_waits_in_the_spool_and_is_registered_from_a_server(
    away: Tracking, server: str, spool: Path, segmentor: Path, tmp_path: Path
) -> None:
    with away.stage("segment", "p", TAGS | {"drdg.digest": "spooled"}, {}) as run:
        log_segmentor(run, segmentor)
    function = open_segmentor(segmentor)
    segmentor.unlink()
    there = Tracking(server, "towns", tmp_path)
    assert sync(spool, there) == 1
    run_id = there.find_stage("p", "gan", "spooled")
    assert run_id is not None
    register_best(there, "served", run_id, "segmentor", 40.0, "one")
    images = noise(1, 32, 32, 3)
    found, _ = predict(server, "models:/served@best", images, tmp_path / "fresh")
    assert np.array_equal(found, function(images))
    assert [path.name for path in spool.iterdir() if not path.name.startswith(".")] == ["runs"]


def test_weights_that_are_not_there_are_named(tracking: Tracking, away: Tracking, tmp_path: Path) -> None:
    for place in (tracking, away):
        run = place.stage("segment", "p", TAGS, {})
        with run, pytest.raises(ValueError, match=r"none\.safetensors is not there"):
            log_segmentor(run, tmp_path / "none.safetensors")


def test_a_model_opens_by_functions_of_ours_only(tmp_path: Path) -> None:
    from drdg.tracking.pyfunc import _load_pyfunc

    (tmp_path / "opener.json").write_text(json.dumps({"opener": "os:system"}))
    with pytest.raises(ValueError, match="os:system is no function of drdg"):
        _load_pyfunc(str(tmp_path))
