"""``generator.upsampling``: what it computes, and that no grid is in it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from drdg.config import GeneratorConfig, Upsampling
from drdg.models.generator import Generator
from drdg.models.unet import SmoothUpsampling, upsampling

SIDES = st.integers(min_value=1, max_value=9)


def doubled_then_convolved(layer: SmoothUpsampling, x: Tensor) -> Tensor:
    """The same by its definition; a transposed convolution's kernel is turned, and has its inputs first."""
    kernel = layer.weight.transpose(0, 1).flip(2, 3)
    return F.conv2d(F.interpolate(x, scale_factor=2, mode="nearest"), kernel, layer.bias, padding=1)


@settings(deadline=None, max_examples=30)
@given(height=SIDES, width=SIDES, inputs=st.integers(1, 4), outputs=st.integers(1, 4), bias=st.booleans())
def test_smooth_is_doubling_and_a_convolution(height: int, width: int, inputs: int, outputs: int, bias: bool) -> None:
    layer = SmoothUpsampling(inputs, outputs, bias=bias).double()
    x = torch.randn(2, inputs, height, width, dtype=torch.float64)
    torch.testing.assert_close(layer(x), doubled_then_convolved(layer, x), rtol=0, atol=1e-12)
    (ours,) = torch.autograd.grad(layer(x).square().sum(), layer.weight)
    (plain,) = torch.autograd.grad(doubled_then_convolved(layer, x).square().sum(), layer.weight)
    torch.testing.assert_close(ours, plain, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("kind", "has_grid"), [("smooth", False), ("transposed", True)])
def test_where_nothing_is_to_be_seen_only_transposed_convolutions_see_a_grid(kind: Upsampling, has_grid: bool) -> None:
    torch.manual_seed(0)
    layer = upsampling(kind, 3, 2, bias=True).double()
    inside = layer(torch.ones(1, 3, 8, 8, dtype=torch.float64))[..., 2:-2, 2:-2]
    spread = inside.amax((2, 3)) - inside.amin((2, 3))
    assert bool((spread > 1e-3).all()) if has_grid else bool((spread < 1e-12).all())


@pytest.mark.parametrize(("kind", "expected"), [("smooth", SmoothUpsampling), ("transposed", nn.ConvTranspose2d)])
def test_a_generator_has_one_kind_in_both_decoders(kind: Upsampling, expected: type) -> None:
    generator = Generator(GeneratorConfig(width=1, upsampling=kind), 64, depth=True)
    found = [type(module) for module in generator.modules() if isinstance(module, nn.ConvTranspose2d)]
    assert found == [expected] * 14  # six levels and a head, twice
    translation = generator.eval()(torch.zeros(1, 3, 128, 128), depth=True)
    assert translation.image.shape == (1, 3, 64, 64)
    assert translation.depth is not None
    assert translation.depth.shape == (1, 1, 128, 128)
