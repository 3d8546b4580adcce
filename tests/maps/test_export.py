"""Exported networks: what a stranger gets who has the file and its card, and none of our code."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from drdg.config import Config
from drdg.maps import roundtrip
from drdg.maps.export import Order, export, order_of_row
from drdg.methods import build_translator
from drdg.models.segmentor import build_segmentor, load_segmentor, save_segmentor
from drdg.training.weights import load_translator, save_translator

onnxruntime = pytest.importorskip("onnxruntime", reason="pip install 'drdg[export]'")
CLASSES = ("water", "road", "tree")
UNET = ("segmentation.architecture=Unet", "segmentation.encoder=tu-test_resnet")


def saved_segmentor(path: Path, config: Config) -> Path:
    torch.manual_seed(0)
    segmentor = build_segmentor(config.segmentation, len(CLASSES), pretrained=False)
    # Batch norms that have seen nothing would hide a norm that was left out.
    for norm in (module for module in segmentor.modules() if isinstance(module, torch.nn.BatchNorm2d)):
        norm.running_mean.normal_(std=0.1)
        norm.running_var.uniform_(0.5, 1.5)
    save_segmentor(path, segmentor.state_dict(), CLASSES, config, 7)
    return path


def saved_translator(path: Path, config: Config, name: str) -> Path:
    torch.manual_seed(0)
    save_translator(path, build_translator(name, config), name, config, 5)
    return path


@pytest.fixture(scope="module")
def exported(archives, tmp_path_factory):
    """A segmentor whose every size is open, exported to both formats."""
    from drdg.config import load_config

    root = tmp_path_factory.mktemp("exported")
    named = ["segmentation.encoder_weights=none", "target.archive.kind=described", "target.archive.name=town"]
    named += ["target.archive.image=top/{id}.tif", "target.archive.root=/somewhere/private", "target.tile=128"]
    path = saved_segmentor(root / "segmentor.safetensors", load_config(None, [*UNET, *named]))
    scores = {"iou": {"water": 50.0, "road": 40.0}, "f1": {"water": 66.7, "road": 57.1}, "classes": list(CLASSES)}
    scores |= {"miou": 45.0, "mean_f1": 61.9, "oa": 70.0, "tops": ["a", "b"], "split": "test", "direction": "x_to_y"}
    (root / "metrics.json").write_text(json.dumps({**scores, "definition": "Percent of pixels.", "confusion": []}))
    order = Order(root / "out", segmentor=path, licence="CC BY 4.0, Town of T.", scores=root / "metrics.json")
    files = export(order)
    return path, root / "out", files


def test_a_segmentor_is_the_same_from_either_file_at_sizes_of_its_choice(exported):
    path, out, _ = exported
    segmentor, _ = load_segmentor(path)
    images = torch.rand(3, 3, 192, 160, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        wanted = segmentor(images)
        (found,) = torch.export.load(out / "segmentor.pt2").module()(images)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4 * float(wanted.abs().max()))
    session = onnxruntime.InferenceSession(out / "segmentor.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(["logits"], {"images": images.numpy()})
    np.testing.assert_allclose(found, wanted.numpy(), rtol=0, atol=1e-4 * float(wanted.abs().max()))
    assert session.get_inputs()[0].shape == ["batch", 3, "height", "width"]
    assert session.get_outputs()[0].shape == ["batch", 3, "height", "width"]


def test_the_card_says_what_a_stranger_must_know(exported):
    _, out, files = exported
    assert [path.name for path in files] == [f"segmentor.{end}" for end in ("pt2", "onnx", "json", "md")]
    card = json.loads((out / "segmentor.json").read_text())
    assert card["input"]["range"] == [0, 1]
    assert card["input"]["sides_are_multiples_of"] == 1
    assert card["classes"] == {"0": "water", "1": "road", "2": "tree"}
    assert card["updates"] == 7
    assert card["scores"]["miou"] == 45
    assert card["data_licence"] == "CC BY 4.0, Town of T."
    for file in card["files"]:
        assert file["open_axes"] == ["batch", "height", "width"]
        assert file["sides_are_multiples_of"] == 32, "the exporter's limit, not the network's"
        assert 0 <= file["largest_difference"] <= file["tolerance"] == 1e-4
        assert len(file["compared"]) == 4
        assert file["same_class"] > 0.999
    assert "/somewhere" not in (out / "segmentor.json").read_text(), "places on the machine that trained"
    text = (out / "segmentor.md").read_text()
    for said in (
        "bytes / 255",
        "multiples of 32",
        "| 2 | tree |",
        "CC BY 4.0, Town of T.",
        "onnxruntime",
        "sha256",
        "mIoU 45.0",
        "| road | 40.0 | 57.1 |",
    ):
        assert said in text, said
    model = onnxruntime.InferenceSession(out / "segmentor.onnx").get_modelmeta()
    assert json.loads(model.custom_metadata_map["card.json"])["input"] == card["input"]


@pytest.mark.parametrize("name", ["drdg", "cyclegan"])
def test_a_generator_with_its_resizing_and_heights(small, tmp_path, name, two_domains):
    config = small("cyclegan.width=2", "cyclegan.critic_width=2", "cyclegan.blocks=1", "generator.residual=1")
    path = saved_translator(tmp_path / "translator.safetensors", config, name)
    shards = (two_domains[0].location.name,)
    export(Order(tmp_path / "out", generator=path, shards=shards, formats=("onnx",)))
    card = json.loads((tmp_path / "out" / "generator.json").read_text())
    assert [given["name"] for given in card["outputs"]] == ["translated", "heights"][: 2 if name == "drdg" else 1]
    assert card["outputs"][0]["shape"] == ["batch", 3, 128, 128]
    assert card["data"][0]["archive"] == "here"
    assert card["gsd_m"] == 0.05
    assert any(what.startswith("real tiles") for what in card["files"][0]["compared"])
    tile = torch.from_numpy(two_domains[0][0].image.transpose(2, 0, 1).copy())[None] / 127.5 - 1
    session = onnxruntime.InferenceSession(tmp_path / "out/generator.onnx", providers=["CPUExecutionProvider"])
    found = session.run(None, {"images": tile.numpy()})
    translator = load_translator(path, config, torch.device("cpu"))
    np.testing.assert_allclose(found[0], translator.translate(tile).numpy(), rtol=0, atol=1e-4)
    if name == "drdg":
        np.testing.assert_allclose(found[1], translator.predict_depth(tile).numpy(), rtol=0, atol=1e-4)


def test_what_comes_out_wrong_at_another_size_is_exported_at_one_size(small, tmp_path, monkeypatch):
    # As PSPNet does, whose pooling the ONNX exporter gets right at the size it has seen, and wrong at others.
    path = saved_segmentor(tmp_path / "segmentor.safetensors", small(*UNET, "evaluation.window=128"))

    def wrong(subject, program, opening, notes):
        return b"file", lambda images: [value + 0.01 * (images.shape[2] != 128) for value in subject.network(images)]

    monkeypatch.setitem(roundtrip.ENCODERS, "pt2", wrong)
    monkeypatch.setattr(roundtrip, "_program", lambda *_: None)
    export(Order(tmp_path / "out", segmentor=path, formats=("pt2",)))
    (file,) = json.loads((tmp_path / "out" / "segmentor.json").read_text())["files"]
    assert (file["open_axes"], file["side"]) == (["batch"], 128)
    assert "batch, height, width open, it differs by" in file["refused"][0]
    assert "128 x 128 px only" in (tmp_path / "out" / "segmentor.md").read_text()


def test_a_file_that_computes_something_else_is_refused_and_not_left_there(small, tmp_path, monkeypatch):
    path = saved_segmentor(tmp_path / "segmentor.safetensors", small(*UNET))

    def wrong(subject, program, opening, notes):
        return b"", lambda images: [value + 0.01 for value in subject.network(images)]

    monkeypatch.setitem(roundtrip.ENCODERS, "pt2", wrong)
    monkeypatch.setattr(roundtrip, "_program", lambda *_: None)
    with pytest.raises(ValueError, match=r"segmentor\.safetensors: as pt2 this segmentor is not what it is in torch"):
        export(Order(tmp_path / "out", segmentor=path, formats=("pt2",)))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda root: Order(root), "there is nothing to export"),
        (lambda root: Order(root, segmentor=root / "none.safetensors"), "none.safetensors: no such file"),
        (lambda root: Order(root, generator=root / "s.safetensors"), "does not say which translator"),
        (lambda root: Order(root, segmentor=root / "s.safetensors", shards=(root / "no",)), "no: is not a finished"),
        (lambda root: Order(root, segmentor=root / "s.safetensors", scores=root / "m.json"), "m.json: no such file"),
        (lambda root: order_of_row(root / "no", Order(root)), "no: holds no trained network"),
    ],
)
def test_an_order_that_cannot_be_met_is_refused_in_one_sentence(small, tmp_path, made, said, monkeypatch):
    saved_segmentor(tmp_path / "s.safetensors", small(*UNET))
    monkeypatch.setattr(roundtrip, "ENCODERS", None)  # nothing is exported before all is known to be there
    with pytest.raises(ValueError, match=said) as caught:
        export(made(tmp_path))
    assert "\n" not in str(caught.value)


def test_without_onnx_the_cure_is_named(tmp_path, monkeypatch, small):
    path = saved_segmentor(tmp_path / "segmentor.safetensors", small(*UNET))
    find = sys.modules["importlib.util"].find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: None if name == "onnxscript" else find(name))
    with pytest.raises(ValueError, match=r"onnx needs onnxscript, not installed here; pip install 'drdg\[export\]'"):
        export(Order(tmp_path / "out", segmentor=path))


def test_the_lines_of_the_card_do_what_they_say(exported, monkeypatch):
    path, out, _ = exported
    lines = (out / "segmentor.md").read_text().split("```python\n")[1].split("```")[0]
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    monkeypatch.chdir(out)
    found = {"pixels": pixels}
    exec(lines, found)
    segmentor, _ = load_segmentor(path)
    with torch.no_grad():
        wanted = segmentor(torch.from_numpy(pixels.transpose(2, 0, 1).copy())[None] / 255).argmax(1)
    assert (found["ids"] == wanted.numpy()).mean() > 0.999


def test_a_segmentor_of_the_registry_is_fetched(small, tmp_path, monkeypatch):
    path = saved_segmentor(tmp_path / "kept" / "segmentor.safetensors", small(*UNET))

    def fetch(uri, into, *, store):
        assert (uri, store) == ("models:/town@best", "sqlite:///a.db")
        return Path(shutil.copytree(path.parent, into, dirs_exist_ok=True))

    monkeypatch.setattr("drdg.tracking.fetch_model", fetch)
    monkeypatch.setattr(roundtrip, "_program", lambda *_: None)
    monkeypatch.setitem(roundtrip.ENCODERS, "pt2", lambda subject, *_: (b"file", subject.network))
    export(Order(tmp_path / "out", segmentor="models:/town@best", formats=("pt2",), store="sqlite:///a.db"))
    assert (tmp_path / "out" / "segmentor.pt2").read_bytes() == b"file"


def test_a_row_gives_all_that_it_has(tmp_path):
    for place in ("segment/segmentor.safetensors", "gan/translator.safetensors", "evaluate/metrics.json"):
        (tmp_path / place).parent.mkdir()
        (tmp_path / place).touch()
    order = order_of_row(tmp_path, Order(tmp_path / "out", formats=("pt2",)))
    assert order.scores == tmp_path / "evaluate/metrics.json"
    assert order.shards == ()
    assert [path.name for path in order.files()] == [
        *("segmentor.pt2", "segmentor.json", "segmentor.md", "generator.pt2", "generator.json", "generator.md")
    ]
