"""A segmentor's dropout and stochastic depth: functions of the samples, whatever torch's global generator does."""

from __future__ import annotations

import copy
import itertools
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from drdg.config import SegmentationConfig
from drdg.models.keyed import sample_keys
from drdg.models.segmentor import build_segmentor
from drdg.models.segmentor_randomness import KeyedDropout, make_keyed, refuse_other_randomness, seed_randomness
from drdg.models.smp import import_smp

ARCHITECTURES = ("DeepLabV3", "DeepLabV3Plus", "Unet", "FPN", "PSPNet", "Segformer", "UPerNet")
ENCODERS = ("resnet18", "mit_b0", "tu-resnet18")
# What draws by itself in the library's other encoders: a function in one, layers of timm in the other.
OTHERS = (("Unet", "efficientnet-b0"), ("Unet", "timm-tf_efficientnet_lite0"))
DROPS = {"DeepLabV3", "DeepLabV3Plus", "FPN", "PSPNet"}
EVERY = [*itertools.product(ARCHITECTURES, ENCODERS), *OTHERS]


def keys_of(*positions: int) -> Tensor:
    return sample_keys(7, torch.tensor(positions), 1)


def fresh(architecture: str, encoder: str) -> nn.Module:
    torch.manual_seed(0)
    return build_segmentor(
        SegmentationConfig(architecture=architecture, encoder=encoder, encoder_weights="none"), 3
    ).train()


def still(network: nn.Module) -> nn.Module:
    """With some batch's statistics from now on, so that a sample's output is a function of the sample alone."""
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = 1.0
    forward(network, torch.rand(4, 3, 64, 64), keys_of(0, 1, 2, 3))
    for norm in norms:
        norm.eval()
    return network


@torch.no_grad()
def forward(network: nn.Module, images: Tensor, keys: Tensor) -> Tensor:
    seed_randomness(network, keys)
    return network(images)


@pytest.mark.parametrize(("architecture", "encoder"), EVERY)
@pytest.mark.filterwarnings("ignore:`timm-` encoders:DeprecationWarning")
def test_only_the_keys_decide(architecture: str, encoder: str) -> None:
    network = fresh(architecture, encoder)
    names = list(network.state_dict())
    images = torch.rand(2, 3, 64, 64)
    evaluated = copy.deepcopy(network).eval()(images)
    assert make_keyed(network) is network
    assert list(network.state_dict()) == names
    outputs = []
    for seed, keys in ((1, keys_of(0, 1)), (2, keys_of(0, 1)), (1, keys_of(2, 3))):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        outputs.append(forward(network, images, keys))
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(outputs[0], outputs[1])
    is_random = architecture in DROPS or encoder not in ("resnet18", "tu-resnet18")
    assert torch.equal(outputs[0], outputs[2]) != is_random
    assert any(isinstance(module, KeyedDropout) for module in network.modules()) == is_random
    fitted = copy.deepcopy(network)
    fitted.load_state_dict(fresh(architecture, encoder).state_dict())
    assert torch.equal(fitted.eval()(images), evaluated)
    refuse_other_randomness(network, 64)


@pytest.mark.parametrize(
    ("architecture", "encoder"), [("DeepLabV3Plus", "tu-resnet18"), ("FPN", "mit_b0"), ("Unet", "efficientnet-b0")]
)
def test_a_sample_gets_the_same_in_any_batch(architecture: str, encoder: str) -> None:
    network = still(make_keyed(fresh(architecture, encoder))).double()
    images = torch.rand(4, 3, 64, 64, dtype=torch.float64)
    together = forward(network, images, keys_of(0, 1, 2, 3))
    for rank in range(2):
        here = [rank * 2, rank * 2 + 1]
        torch.testing.assert_close(
            forward(network, images[here], keys_of(*here)), together[here], rtol=1e-10, atol=1e-10
        )
    assert not torch.allclose(together, forward(network, images, keys_of(1, 0, 2, 3)), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("layer", "shape", "own"),
    [
        (nn.Dropout(0.3), (4000, 6), 1),
        (nn.Dropout(0.3, inplace=True), (400, 6, 2, 5), 3),
        (nn.Dropout1d(0.3), (4000, 6, 3), 1),
        (nn.Dropout2d(0.3), (4000, 6, 3, 2), 1),
        (nn.Dropout3d(0.3), (4000, 6, 3, 2, 2), 1),
        ("DropPath", (20000, 6, 3, 2), 0),
        ("DropPath without scale", (20000, 9, 2), 0),
    ],
)
def test_masks_are_those_of_the_layer_that_was_there(layer: nn.Module | str, shape: tuple[int, ...], own: int) -> None:
    import_smp()
    from timm.layers import DropPath

    scaled = layer != "DropPath without scale"
    network = make_keyed(nn.Sequential(DropPath(0.3, scaled) if isinstance(layer, str) else layer))
    keys = sample_keys(3, torch.arange(shape[0]), 1)
    ones = torch.ones(shape)
    found = forward(network, ones, keys)
    masks = found.reshape(*shape[: 1 + own], -1)
    assert torch.equal(masks, masks[..., :1].expand_as(masks))
    chosen = masks[..., 0]
    factor = 1 / 0.7 if scaled else 1.0
    assert torch.allclose(chosen[chosen != 0], torch.tensor(factor))
    kept = (chosen != 0).double().mean().item()
    assert abs(kept - 0.7) < 5 * (0.21 / chosen.numel()) ** 0.5
    assert torch.equal(network.eval()(ones), ones)


def test_layers_and_calls_draw_for_themselves() -> None:
    shared = nn.Dropout(0.5)
    network = make_keyed(nn.Sequential(shared, nn.Dropout(0.5), nn.Sequential(shared)))
    assert network[0] is network[2][0]
    ones, keys = torch.ones(2, 1000), keys_of(0, 1)
    seed_randomness(network, keys)
    masks = [network[0](ones), network[1](ones), network[2](ones)]
    for one, other in itertools.combinations(masks, 2):
        assert 0.4 < (one == other).double().mean() < 0.6
    seed_randomness(network, keys)
    assert torch.equal(network[0](ones), masks[0])


def test_what_is_not_random_stays() -> None:
    layers = [nn.Dropout(0.0), nn.Linear(2, 2), nn.Dropout(0.5).eval()]
    network = make_keyed(nn.Sequential(*layers))
    assert list(network)[:2] == layers[:2]
    assert not network[2].training
    assert torch.equal(network[2](torch.ones(3, 2)), torch.ones(3, 2))
    seed_randomness(nn.Linear(2, 2), keys_of(0))


def test_all_is_dropped_at_rate_one() -> None:
    network = make_keyed(nn.Sequential(nn.Dropout(1.0)))
    assert not forward(network, torch.ones(2, 5), keys_of(0, 1)).any()


@given(st.integers(1, 5), st.integers(1, 5))
def test_keys_must_be_as_many_as_samples(samples: int, keys: int) -> None:
    network = make_keyed(nn.Sequential(nn.Dropout(0.5)))
    seed_randomness(network, keys_of(*range(keys)))
    if samples == keys:
        network(torch.ones(samples, 2))
        return
    with pytest.raises(AssertionError, match=f"{keys} keys for a batch of {samples}"):
        network(torch.ones(samples, 2))


def test_without_keys_nothing_is_dropped_by_chance() -> None:
    with pytest.raises(AssertionError, match="seed_randomness was not called"):
        make_keyed(nn.Sequential(nn.Dropout(0.5)))(torch.ones(2, 2))


def test_a_copy_has_keys_of_its_own() -> None:
    network = make_keyed(fresh("Unet", "efficientnet-b0"))
    images, here = torch.rand(2, 3, 32, 32), keys_of(0, 1)
    for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        before = forward(other, images, here)
        seed_randomness(network, keys_of(5, 6))
        other.load_state_dict(network.state_dict())
        assert torch.equal(forward(other, images, here), before)
    make_keyed(network)  # a second time, which changes nothing
    assert torch.equal(forward(network, images, here), before)


def test_what_cannot_be_keyed_is_refused() -> None:
    with pytest.raises(ValueError, match=r"class AlphaDropout.* take another encoder"):
        make_keyed(nn.Sequential(nn.AlphaDropout(0.1)))
    hidden = nn.Sequential(nn.Conv2d(3, 3, 1), nn.RReLU())
    before = torch.get_rng_state()
    with pytest.raises(ValueError, match="draws random numbers in a way"):
        refuse_other_randomness(make_keyed(hidden), 32)
    assert torch.equal(torch.get_rng_state(), before)
