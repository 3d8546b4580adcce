"""The segmentor: what the library builds for us, its weights, and what is said when it cannot."""

from __future__ import annotations

import importlib.abc
import socket
import sys
import time

import numpy as np
import pytest
import torch
from huggingface_hub import constants

from drdg.config import EvaluationConfig, SegmentationConfig
from drdg.datasets import VOID
from drdg.inference.sliding import predict_top
from drdg.losses import cross_entropy_loss
from drdg.models.encoder_weights import hub_answers_or_is_left_alone
from drdg.models.segmentor import build_segmentor, load_segmentor, side_multiple
from drdg.models.smp import import_smp

SMALL = {"architecture": "DeepLabV3Plus", "encoder": "tu-tf_mobilenetv3_small_100", "encoder_weights": "none"}


class Pixels:
    """An image in memory, to be slid over."""

    def __init__(self, image):
        self.image = image
        self.height, self.width = image.shape[:2]

    def read_image(self, window):
        return self.image[window.rows, window.cols]


def config(**changes):
    return SegmentationConfig(**{**SMALL, **changes})


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    """A hub client that is off, with an empty cache, so that no test reaches out or finds a developer's weights."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.mark.parametrize(
    "changes",
    [{}, {"architecture": "Unet"}, {"architecture": "DeepLabV3"}, {"encoder": "resnet18"}],
    ids=lambda changes: "-".join(changes.values()) or "small",
)
def test_logits_have_the_image_size_and_every_parameter_learns(changes):
    torch.manual_seed(0)
    segmentor = build_segmentor(config(**changes), 5)
    logits = segmentor(torch.rand(2, 3, 64, 96))
    assert logits.shape == (2, 5, 64, 96)
    (logits.log_softmax(1)[:, 0] ** 2).mean().backward()
    assert all(parameter.grad is not None for parameter in segmentor.parameters())
    multiple = side_multiple(segmentor)
    assert segmentor.eval()(torch.rand(1, 3, multiple, 2 * multiple)).shape == (1, 5, multiple, 2 * multiple)
    assert multiple in (1, 8, 16)
    if multiple > 1:
        with pytest.raises(RuntimeError):
            segmentor(torch.rand(1, 3, multiple + 1, multiple))
    else:
        assert segmentor(torch.rand(1, 3, 67, 45)).shape == (1, 5, 67, 45)


@pytest.mark.parametrize("encoder", ["resnet18", "mit_b0", "tu-resnet18"])
@pytest.mark.parametrize("architecture", ["DeepLabV3", "DeepLabV3Plus", "Unet", "FPN", "Segformer", "UPerNet"])
def test_what_segmenters_are_compared_by_trains_and_slides(architecture, encoder):
    """Two updates on a batch, and then a window over an image that is larger than it."""
    torch.manual_seed(0)
    segmentor = build_segmentor(config(architecture=architecture, encoder=encoder), 3).train()
    assert type(segmentor).__name__ == architecture
    images, labels = torch.rand(2, 3, 64, 64), torch.randint(0, 3, (2, 64, 64))
    optimizer = torch.optim.Adam(segmentor.parameters(), lr=1e-3)
    before = [parameter.detach().clone() for parameter in segmentor.parameters()]
    for _ in range(2):  # timm's residual branches begin with a scale of 0, so at first only that learns
        optimizer.zero_grad()
        loss = cross_entropy_loss(segmentor(images), labels, VOID, lambda count: count)
        loss.backward()
        optimizer.step()
    assert loss.isfinite()
    assert not any(torch.equal(old, new) for old, new in zip(before, segmentor.parameters(), strict=True))
    top = Pixels(np.random.default_rng(0).integers(0, 256, (150, 140, 3), dtype=np.uint8))
    ids = predict_top(segmentor.eval(), top, EvaluationConfig(window=128), quiet=True)
    assert (ids.shape, ids.dtype) == ((150, 140), np.uint8)
    assert ids.max() < 3


@pytest.mark.parametrize(
    ("typed", "built"),
    [("UNet", "Unet"), ("unet", "Unet"), ("SegFormer", "Segformer"), ("DEEPLABV3PLUS", "DeepLabV3Plus")],
)
def test_an_architecture_is_known_however_it_is_capitalised(typed, built):
    encoder = "mit_b0" if built == "Segformer" else "resnet18"
    assert type(build_segmentor(config(architecture=typed, encoder=encoder), 3)).__name__ == built


def test_default_is_deeplabv3_on_resnet34_with_its_published_size():
    segmentor = build_segmentor(SegmentationConfig(encoder_weights="none"), 6)
    assert type(segmentor).__name__ == "DeepLabV3"
    # torchvision's ResNet-34 has 21,797,672 parameters, 513,000 of them in the classifier that is dropped here.
    assert sum(p.numel() for p in segmentor.encoder.parameters()) == 21_797_672 - 513_000
    assert segmentor.encoder.output_stride == 8


def test_one_seed_gives_one_network():
    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        states.append(torch.cat([p.flatten() for p in build_segmentor(config(), 3).parameters()]))
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("encoder", ["resnet18", "tu-tf_mobilenetv3_small_100"])
def test_encoder_comes_from_a_file_and_a_classifier_in_it_is_dropped(tmp_path, encoder, suffix):
    torch.manual_seed(3)
    state = {k: v.clone() for k, v in build_segmentor(config(encoder=encoder), 3).encoder.state_dict().items()}
    given = {**state, "fc.weight": torch.zeros(2, 2), "fc.bias": torch.zeros(2)}
    path = tmp_path / f"encoder{suffix}"
    _save(given, path)
    loaded = build_segmentor(config(encoder=encoder, encoder_weights=str(path)), 3).encoder.state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[name], state[name]) for name in state)


def test_timm_names_without_the_librarys_prefix_fit(tmp_path):
    state = build_segmentor(config(), 3).encoder.state_dict()
    bare = {name.removeprefix("model."): value for name, value in state.items() if "num_batches" not in name}
    _save({**bare, "classifier.weight": torch.zeros(1)}, tmp_path / "timm.pt")
    loaded = build_segmentor(config(encoder_weights=str(tmp_path / "timm.pt")), 3).encoder.state_dict()
    assert all(torch.equal(loaded[name], state[name]) for name in state if "num_batches" not in name)


def _save(state, path):
    if path.suffix == ".safetensors":
        from safetensors.torch import save_file

        save_file(state, path)
    else:
        torch.save(state, path)


def _without_one(state):
    state.pop("layer1.0.conv1.weight")


def _with_another(state):
    state["layer9.conv.weight"] = torch.zeros(1)
    state["layer9.conv.bias"] = torch.zeros(1)


def _of_another_shape(state):
    state["conv1.weight"] = torch.zeros(1)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_without_one, r"lacks 'layer1.0.conv1.weight': it is not of segmentation.encoder"),
        (_with_another, r"has in excess 'layer9.conv.weight' and 1 more"),
        (_of_another_shape, r"has in another shape 'conv1.weight'"),
    ],
)
def test_a_state_dict_that_does_not_fit_says_where(tmp_path, spoil, message):
    path = tmp_path / "encoder.pt"
    state = dict(build_segmentor(config(encoder="resnet18"), 3).encoder.state_dict())
    spoil(state)
    torch.save(state, path)
    with pytest.raises(ValueError, match=message) as raised:
        build_segmentor(config(encoder="resnet18", encoder_weights=str(path)), 3)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize("name", ["rubbish.pt", "rubbish.safetensors"])
def test_a_file_that_is_no_state_dict_is_named(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"not weights at all")
    with pytest.raises(ValueError, match="cannot be read") as raised:
        build_segmentor(config(encoder_weights=str(path)), 3)
    assert str(path) in str(raised.value)


def test_a_whole_checkpoint_is_not_taken_for_a_state_dict(tmp_path):
    torch.save({"state_dict": {"a": torch.zeros(1)}, "step": 1}, tmp_path / "run.pt")
    with pytest.raises(ValueError, match="is not a state dict"):
        build_segmentor(config(encoder_weights=str(tmp_path / "run.pt")), 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "DeepLabV"}, r"segmentation.architecture='DeepLabV' is unknown; did you mean 'DeepLabV3'"),
        ({"architecture": "nn"}, r"there are .*DeepLabV3Plus.*Unet"),
        ({"encoder": "resnet43"}, r"segmentation.encoder='resnet43' is unknown; did you mean 'resnet34'"),
        ({"encoder": "tu-resnet1"}, r"segmentation.encoder='tu-resnet1' is unknown; did you mean 'tu-resnet"),
        pytest.param(
            {"encoder": "timm-nothing"},
            r"segmentation.encoder='timm-nothing'",
            marks=pytest.mark.filterwarnings("ignore:`timm-` encoders:DeprecationWarning"),
        ),
        ({"encoder": "vgg11"}, r"segmentation.encoder='vgg11' does not go with segmentation.architecture"),
        ({"encoder_weights": "imagnet"}, r"segmentation.encoder_weights=imagnet is no such file; write imagenet, none"),
    ],
)
def test_what_cannot_be_built_is_said_in_one_sentence(changes, message):
    with pytest.raises(ValueError, match=message) as raised:
        build_segmentor(config(**changes), 3)
    assert "\n" not in str(raised.value)


def test_a_machine_without_network_is_not_kept_waiting(monkeypatch, tmp_path):
    with socket.socket() as unanswered:  # bound but not listening: whoever connects is refused
        unanswered.bind(("127.0.0.1", 0))
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{unanswered.getsockname()[1]}")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        slept = []
        monkeypatch.setattr(time, "sleep", slept.append)
        with pytest.raises(ValueError, match="could not be downloaded"):
            build_segmentor(config(encoder="resnet18", encoder_weights="imagenet"), 3)
        assert not slept


@pytest.mark.parametrize("encoder", ["resnet18", "tu-tf_mobilenetv3_small_100"])
@pytest.mark.usefixtures("no_network")
def test_imagenet_without_network_fails_with_the_cure(encoder):
    with pytest.raises(ValueError, match=r"segmentation.encoder_weights=imagenet could not be downloaded \(") as raised:
        build_segmentor(config(encoder=encoder, encoder_weights="imagenet"), 3)
    assert "set it to none, or to the path of a state dict" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_hub_that_does_not_answer_is_asked_once_and_not_retried(monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    asked = []

    class Silent:
        def head(self, url, timeout):
            asked.append((url, timeout))
            raise TimeoutError

    monkeypatch.setattr("huggingface_hub.utils.get_session", Silent)
    slept = []
    monkeypatch.setattr(time, "sleep", slept.append)
    with pytest.raises(ValueError, match="could not be downloaded"):
        build_segmentor(config(encoder="resnet18", encoder_weights="imagenet"), 3)
    assert len(asked) == 1
    assert asked[0][1] <= 5
    assert not slept
    assert constants.HF_HUB_OFFLINE is False


def test_a_hub_that_answers_is_used(monkeypatch):
    class Answering:
        def head(self, url, timeout):
            return None

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.utils.get_session", Answering)
    with hub_answers_or_is_left_alone():
        assert constants.HF_HUB_OFFLINE is False


def test_imagenet_weights_are_asked_of_the_library_by_its_own_words(monkeypatch):
    smp = import_smp()
    asked = []

    class Recorded(smp.DeepLabV3Plus):
        def __init__(self, *args, encoder_weights, **kwargs):
            asked.append(encoder_weights)
            super().__init__(*args, encoder_weights=None, **kwargs)

    monkeypatch.setattr(smp, "DeepLabV3Plus", Recorded)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    build_segmentor(config(encoder="resnet18", encoder_weights="imagenet"), 3)
    build_segmentor(config(encoder_weights="imagenet"), 3)
    assert asked == [None, "imagenet", None, True]


def test_another_fault_of_torchvision_is_not_covered_up(monkeypatch):
    class Broken(importlib.abc.MetaPathFinder):
        def find_spec(self, name, path, target=None):
            if name == "torchvision":
                raise RuntimeError("torchvision was compiled for another torch")

    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    with pytest.raises(RuntimeError, match="compiled for another torch"):
        import_smp()


def test_loading_what_is_not_there_says_so(tmp_path):
    with pytest.raises(ValueError, match="there is no trained segmentor"):
        load_segmentor(tmp_path / "segmentor.safetensors")
