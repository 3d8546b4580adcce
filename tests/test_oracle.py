"""Tests: the oracle itself, against numbers worked out by hand."""

from __future__ import annotations

import math

import oracle
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def image(rows: list[list[float]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)[None, None]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ------------------------------------------------------------------------------------------------------------- layers


def test_instance_norm_by_hand():
    # mean 2.5, variance 5/4 over four pixels
    found = oracle.instance_norm(image([[1, 2], [3, 4]]), tensor(2), tensor(10), eps=0.0)
    expected = 10 + 2 * (torch.tensor([[1.0, 2], [3, 4]], dtype=torch.float64) - 2.5) / math.sqrt(1.25)
    torch.testing.assert_close(found[0, 0], expected, rtol=1e-14, atol=0)


def test_instance_norm_knows_samples_and_channels_apart():
    x = normal(2, 3, 4, 4) * torch.arange(1, 7, dtype=torch.float64).view(2, 3, 1, 1) + 5
    y = oracle.instance_norm(x, tensor(1, 1, 1), tensor(0, 0, 0), eps=1e-300)
    torch.testing.assert_close(y.mean((2, 3)), torch.zeros(2, 3, dtype=torch.float64), rtol=0, atol=1e-13)
    torch.testing.assert_close(y.var((2, 3), unbiased=False), torch.ones(2, 3, dtype=torch.float64))


def test_large_eps_shrinks_a_normed_map():
    # variance 1: 1/sqrt(1 + 0.8)
    y = oracle.instance_norm(image([[-1, 1], [1, -1]]), tensor(1), tensor(0), eps=0.8)
    assert y.abs().max().item() == pytest.approx(1 / math.sqrt(1.8), rel=1e-14)


def test_activations():
    assert oracle.leaky_relu(tensor(-10, 0, 3)).tolist() == [-2, 0, 3]
    assert oracle.relu(tensor(-10, 0, 3)).tolist() == [0, 0, 3]


@pytest.mark.parametrize(
    ("rule", "old", "new", "expected"),
    [
        ("bilinear", [0, 1, 2, 3], 2, [0.5, 2.5]),
        ("bilinear", [0, 1], 4, [0, 0.25, 0.75, 1]),
        ("bilinear", [0, 10, 20], 2, [2.5, 17.5]),  # sample positions 0.25 and 1.75
        ("area", [0, 1, 2, 3], 2, [0.5, 2.5]),
        ("area", [0, 10, 20], 2, [5, 15]),  # each output touches two inputs
        ("legacy_nearest", [0, 1, 2, 3], 2, [0, 2]),
        ("legacy_nearest", [5, 6, 7], 2, [5, 6]),
        ("legacy_nearest", [5, 6], 3, [5, 5, 6]),
    ],
)
def test_resize_by_hand(rule: str, old: list[float], new: int, expected: list[float]):
    row = image([old])
    assert oracle.resize(row, 1, new, rule)[0, 0, 0].tolist() == pytest.approx(expected, abs=1e-15)
    column = row.transpose(2, 3)
    assert oracle.resize(column, new, 1, rule)[0, 0, :, 0].tolist() == pytest.approx(expected, abs=1e-15)


def test_legacy_nearest_leans_to_the_upper_left():
    picks = oracle.resize(image([list(range(896))]), 1, 512, "legacy_nearest")[0, 0, 0, :6]
    assert picks.tolist() == [0, 1, 3, 5, 7, 8]  # a centred pick would be 0, 2, 4, 6, 7, 9


@pytest.mark.parametrize(("old", "new"), [(7, 4), (4, 7), (256, 128), (128, 256), (14, 8), (5, 5)])
def test_resize_is_what_torch_calls_so(old: int, new: int):
    x = normal(2, 1, old, old)
    for rule, name, options in (
        ("bilinear", "bilinear", {"align_corners": False, "antialias": False}),
        ("area", "area", {}),
        ("legacy_nearest", "nearest", {}),
    ):
        expected = F.interpolate(x, size=(new, new), mode=name, **options)
        torch.testing.assert_close(oracle.resize(x, new, new, rule), expected, rtol=1e-12, atol=1e-12)


# ----------------------------------------------------------------------------------------------------------- networks


def test_generator_parameters_at_the_papers_width():
    image_part = oracle.count(oracle.generator_shapes(64, "none"))
    shared = oracle.count(oracle.generator_shapes(64, "shared"))
    own = oracle.count(oracle.generator_shapes(64, "own"))
    assert image_part == 41_828_996
    assert shared - image_part == 2_049
    assert own - image_part == 26_482_561
    assert own == 68_311_557  # also what the released code builds, 26,480,512 of it without a gradient


def test_critic_parameters_at_the_papers_width():
    assert oracle.count(oracle.critic_shapes(64)) == 6_962_369


@pytest.mark.parametrize(("side", "patches"), [(896, 26), (512, 14), (256, 6), (128, 2)])
def test_critic_sides(side: int, patches: int):
    assert oracle.critic_side(side) == patches


def test_critic_map_has_the_computed_side():
    weights = oracle.random_weights(oracle.critic_shapes(2), 0)
    for height, width in ((128, 128), (256, 128)):
        found = oracle.critic(weights, normal(2, 3, height, width), 1e-5)
        assert found.shape == (2, 1, oracle.critic_side(height), oracle.critic_side(width))


def test_critic_pads_left_and_top_only():
    # With only the last convolution's first tap set, patch (i, j) reads level-5 pixel (i - 1, j - 1): the first row and
    # column read the padding, so they show the bias alone.
    weights = oracle.random_weights(oracle.critic_shapes(2), 1)
    tap = torch.zeros_like(weights["conv6.weight"])
    tap[:, :, 0, 0] = 1
    weights["conv6.weight"] = tap
    found = oracle.critic(weights, normal(1, 3, 128, 128), 1e-5)[0, 0]
    bias = weights["conv6.bias"].item()
    assert found[0].tolist() == [bias, bias]
    assert found[:, 0].tolist() == [bias, bias]
    assert found[1, 1].item() != bias


@pytest.mark.parametrize("mode", ["none", "own", "shared"])
def test_generator_sides_and_ranges(mode: oracle.DepthMode):
    weights = oracle.random_weights(oracle.generator_shapes(2, mode), 2)
    weights["k"] = tensor(1)[0]
    x = torch.rand(2, 3, 256, 256, generator=torch.Generator().manual_seed(3), dtype=torch.float64) * 2 - 1
    out, depth = oracle.generator(weights, x, (128, 128), mode=mode)
    assert out.shape == (2, 3, 128, 128)
    assert out.abs().max() <= 2
    if mode == "none":
        assert depth is None
    else:
        assert depth is not None
        assert depth.shape == (2, 1, 256, 256)
        assert depth.min() > 0
        assert depth.max() < 1


def test_generator_with_silent_head_is_the_resized_residual():
    weights = oracle.random_weights(oracle.generator_shapes(2, "none"), 4)
    weights["head.weight"] = torch.zeros_like(weights["head.weight"])
    weights["k"] = tensor(0.5)[0]
    x = normal(1, 3, 256, 256)
    found, _ = oracle.generator(weights, x, (128, 128), mode="none")
    halved = (x[:, :, ::2, ::2] + x[:, :, 1::2, ::2] + x[:, :, ::2, 1::2] + x[:, :, 1::2, 1::2]) / 4
    expected = torch.tanh(weights["head.bias"]).view(1, 3, 1, 1) + 0.5 * halved
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-14)


def test_shared_depth_is_the_image_decoder_with_another_last_layer():
    weights = oracle.random_weights(oracle.generator_shapes(2, "shared"), 5)
    own = {**weights, **{f"depth_{n}": w for n, w in weights.items() if n.startswith("dec")}}
    x = normal(1, 3, 128, 128)
    assert torch.equal(oracle.generator(weights, x, mode="shared")[1], oracle.generator(own, x, mode="own")[1])


def test_own_depth_decoder_leaves_the_image_alone():
    weights = oracle.random_weights(oracle.generator_shapes(2, "own"), 6)
    x = normal(1, 3, 128, 128)
    first, depth = oracle.generator(weights, x, mode="own")
    weights["depth_dec3.weight"] = weights["depth_dec3.weight"] * 2 + 1
    second, other = oracle.generator(weights, x, mode="own")
    assert torch.equal(first, second)
    assert not torch.equal(depth, other)


def test_every_mask_matters_and_masks_of_one_are_none():
    weights = oracle.random_weights(oracle.generator_shapes(2, "own"), 7)
    x = normal(1, 3, 128, 128)
    ones = [torch.ones(s, dtype=torch.float64) for s in oracle.mask_shapes(2, 128, 1, "own")]
    assert len(ones) == 10
    plain = oracle.generator(weights, x, mode="own")
    for found, expected in zip(oracle.generator(weights, x, mode="own", keep_masks=ones), plain, strict=True):
        assert torch.equal(found, expected)
    for place in range(10):
        # Not the whole mask: the instance norm after it would hide a factor that all entries share.
        masks = [m.clone() for m in ones]
        masks[place].view(-1)[::2] = 0
        out, depth = oracle.generator(weights, x, mode="own", keep_masks=masks)
        changed = (not torch.equal(out, plain[0]), not torch.equal(depth, plain[1]))
        assert changed == (place < 7, place < 4 or place >= 7)


# ------------------------------------------------------------------------------------------------------------- losses


def test_berhu_by_hand():
    # L = 0.2 * 1 = 0.2: |0.1| and |-0.2| (on the threshold) are linear; 0.5 -> (0.25 + 0.04)/0.4, -1 -> (1 + 0.04)/0.4
    found = oracle.berhu(image([[0.1, -0.2], [0.5, -1.0]]))
    assert found.item() == pytest.approx((0.1 + 0.2 + 0.725 + 2.6) / 4, rel=1e-14)


def test_berhu_with_the_released_codes_denominator():
    found = oracle.berhu(image([[0.1, -0.2], [0.5, -1.0]]), additive_eps=1e-4)
    assert found.item() == pytest.approx((0.1 + 0.2 + 0.29 / 0.4001 + 1.04 / 0.4001) / 4, rel=1e-14)


def test_berhu_scopes():
    # Second image: alone L = 0.02, all but 0.01 quadratic; with the first image L = 0.2 and all linear.
    residual = torch.cat([image([[0.1, -0.2], [0.5, -1.0]]), image([[0.1, 0.05], [0.01, 0.1]])])
    first = 0.1 + 0.2 + 0.725 + 2.6
    second = 2 * (0.01 + 0.0004) / 0.04 + (0.0025 + 0.0004) / 0.04 + 0.01
    assert oracle.berhu(residual, scope="image").item() == pytest.approx((first + second) / 8, rel=1e-14)
    assert oracle.berhu(residual, scope="batch").item() == pytest.approx((first + 0.26) / 8, rel=1e-14)


@pytest.mark.parametrize("scope", ["image", "batch"])
@pytest.mark.parametrize("live", [False, True])
def test_berhu_of_nothing_is_nothing(scope: str, live: bool):
    residual = torch.zeros(2, 1, 2, 2, dtype=torch.float64, requires_grad=True)
    value = oracle.berhu(residual, scope=scope, live_threshold=live)
    value.backward()
    assert value.item() == 0
    assert residual.grad is not None
    assert torch.equal(residual.grad, torch.zeros_like(residual))


def berhu_gradient(residual: Tensor, live: bool) -> Tensor:
    leaf = residual.clone().requires_grad_(True)
    oracle.berhu(leaf, scope="batch", live_threshold=live, additive_eps=0.0).backward()
    assert leaf.grad is not None
    return leaf.grad


def test_a_live_threshold_pushes_the_worst_pixel_the_wrong_way():
    # Recorded from the released code: residual 2.59 gets +0.039 detached (5/128, so 128 pixels) and -0.288 live. The
    # others are not recorded; 1.05 each is the spread that gives these numbers. L = 0.518. Detached: r / L / 128.
    # Live adds 0.2 * (sum over the quadratic pixels of 1/2 - r^2 / (2 L^2)) / 128.
    residual = torch.full((2, 1, 8, 8), 1.05, dtype=torch.float64)
    residual[1, 0, 3, 4] = 2.59
    threshold = 0.2 * 2.59
    detached = berhu_gradient(residual, live=False)
    live = berhu_gradient(residual, live=True)
    assert detached[1, 0, 3, 4].item() == pytest.approx(5 / 128, rel=1e-13)
    through = 127 * (0.5 - 1.05**2 / (2 * threshold**2)) + (0.5 - 25 / 2)
    assert live[1, 0, 3, 4].item() == pytest.approx((5 + 0.2 * through) / 128, rel=1e-13)
    assert live[1, 0, 3, 4].item() == pytest.approx(-0.288, abs=1e-3)
    others = torch.ones_like(residual, dtype=torch.bool)
    others[1, 0, 3, 4] = False
    assert torch.equal(live[others], detached[others])


def test_penalty_of_a_linear_critic():
    # The gradient of w.x is w for any x, so each sample gives (||w|| - 1)^2, here (5 - 1)^2, whatever alpha is.
    w = torch.zeros(1, 3, 2, 2, dtype=torch.float64)
    w[0, 0, 0, 0], w[0, 2, 1, 1] = 3, 4

    def linear(x: Tensor) -> Tensor:
        return (w * x).sum((1, 2, 3))

    found = oracle.gradient_penalty(linear, normal(2, 3, 2, 2), normal(2, 3, 2, 2, seed=1), tensor(0.2, 0.9))
    assert found.item() == pytest.approx(16, rel=1e-14)


def test_penalty_of_a_quadratic_critic_sees_alpha_per_sample():
    # f = x^2/2 has gradient x_hat. Norms: 0.25*2 + 0.75*6 = 5 and 0.5*4 + 0.5*0 = 2.
    real, fake = tensor(2, 4).view(2, 1, 1, 1), tensor(6, 0).view(2, 1, 1, 1)
    found = oracle.gradient_penalty(lambda x: x**2 / 2, real, fake, tensor(0.25, 0.5))
    assert found.item() == pytest.approx(((5 - 1) ** 2 + (2 - 1) ** 2) / 2, rel=1e-14)


def test_penalty_takes_the_sum_of_the_map():
    # Two patches that both see the same pixel: their gradients add up before the norm.
    weight = tensor(1.5, 2.0).view(2, 1, 1, 1)
    found = oracle.gradient_penalty(
        lambda x: F.conv2d(x, weight), torch.ones(1, 1, 1, 1).double(), torch.zeros(1, 1, 1, 1).double(), tensor(0.5)
    )
    assert found.item() == pytest.approx((3.5 - 1) ** 2, rel=1e-14)


def test_penalty_teaches_the_critic():
    # d/dw (|w| - 1)^2 = 2 (w - 1) at w = 3
    w = tensor(3).requires_grad_(True)
    ones = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    oracle.gradient_penalty(lambda x: w * x, ones, 0 * ones, tensor(0.3)).backward()
    assert w.grad is not None
    assert w.grad.item() == pytest.approx(4, rel=1e-14)


# --------------------------------------------------------------------------------------------------------- optimisers


def test_adams_first_step_is_the_learning_rate():
    g = tensor(3, -0.001, 50)
    moved = oracle.adam_step({"w": tensor(1, 1, 1)}, {"w": g}, oracle.Moments(), 5e-4, (0.5, 0.999))
    torch.testing.assert_close(moved["w"], 1 - 5e-4 * torch.sign(g), rtol=1e-7, atol=0)


def test_rmsprops_first_step_is_ten_learning_rates():
    # v = 0.01 g^2, so g / sqrt(v) = 10
    g = tensor(3, -0.001)
    moved = oracle.rmsprop_step({"w": tensor(1, 1)}, {"w": g}, oracle.Moments(), 5e-4)
    torch.testing.assert_close(moved["w"], 1 - 5e-3 * torch.sign(g), rtol=1e-6, atol=0)


def test_second_steps_by_hand():
    # Adam, g = 1 then 2, betas 0.5, 0.75: m = 0.5, 1.25 and v = 0.25, 1.1875, divided by 0.75 and 0.4375.
    weights, moments = {"w": tensor(0)}, oracle.Moments()
    for g in (1, 2):
        weights = oracle.adam_step(weights, {"w": tensor(g)}, moments, 0.1, (0.5, 0.75), eps=0.0)
    assert weights["w"].item() == pytest.approx(-0.1 - 0.1 * (1.25 / 0.75) / math.sqrt(1.1875 / 0.4375), rel=1e-14)
    # RMSprop, alpha 0.75: v = 0.25, 1.1875
    weights, moments = {"w": tensor(0)}, oracle.Moments()
    for g in (1, 2):
        weights = oracle.rmsprop_step(weights, {"w": tensor(g)}, moments, 0.1, alpha=0.75, eps=0.0)
    assert weights["w"].item() == pytest.approx(-0.1 / 0.5 - 0.1 * 2 / math.sqrt(1.1875), rel=1e-14)


@pytest.mark.parametrize("name", ["adam", "rmsprop"])
def test_optimisers_are_torchs(name: str):
    start, gradients = normal(5), [normal(5, seed=s) * 10.0 ** (-s) for s in range(1, 6)]
    leaf = start.clone().requires_grad_(True)
    torchs: torch.optim.Optimizer
    if name == "adam":
        torchs = torch.optim.Adam([leaf], lr=5e-4, betas=(0.5, 0.999))
    else:
        torchs = torch.optim.RMSprop([leaf], lr=5e-4)
    weights, moments = {"w": start}, oracle.Moments()
    for g in gradients:
        leaf.grad = g.clone()
        torchs.step()
        if name == "adam":
            weights = oracle.adam_step(weights, {"w": g}, moments, 5e-4, (0.5, 0.999))
        else:
            weights = oracle.rmsprop_step(weights, {"w": g}, moments, 5e-4)
    torch.testing.assert_close(weights["w"], leaf.detach(), rtol=1e-13, atol=1e-15)


# ---------------------------------------------------------------------------------------------------------- whole step


def small_nets(mode: oracle.DepthMode) -> oracle.Networks:
    return oracle.Networks(
        oracle.random_weights(oracle.generator_shapes(2, mode), 11),
        oracle.random_weights(oracle.generator_shapes(2, mode), 12),
        oracle.random_weights(oracle.critic_shapes(2), 13),
        oracle.random_weights(oracle.critic_shapes(2), 14),
    )


def small_batch() -> oracle.Batch:
    random = torch.Generator().manual_seed(15)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=random, dtype=torch.float64)

    return oracle.Batch(
        uniform(1, 3, 256, 256) * 2 - 1,
        uniform(1, 3, 128, 128) * 2 - 1,
        uniform(1, 1, 256, 256),
        uniform(1, 1, 128, 128),
    )


def test_losses_are_the_weighted_sums_of_their_terms():
    nets, batch = small_nets("own"), small_batch()
    parts = oracle.critic_loss(nets, batch, oracle.CriticNoise(tensor(0.3), tensor(0.6)), oracle.PAPER)
    assert parts["total"].item() == pytest.approx(
        sum(parts[f"{term}_{domain}"].item() for term in ("wasserstein", "penalty") for domain in "st"), rel=1e-12
    )
    parts = oracle.generator_loss(nets, batch, oracle.GeneratorNoise(), oracle.PAPER)
    expected = (
        5 * parts["adversarial"]
        + 10 * parts["cycle"]
        + 2 * parts["depth_supervised"]
        + parts["depth_cycle_consistency"]
    )
    assert parts["total"].item() == pytest.approx(expected.item(), rel=1e-12)


def test_identity_generators_close_the_cycle():
    # Silent heads and k = 1: a target image comes back as up- then downsampled, a flat source image as itself.
    nets = small_nets("none")
    for g in (nets.g_st, nets.g_ts):
        g["head.weight"], g["head.bias"] = torch.zeros_like(g["head.weight"]), torch.zeros_like(g["head.bias"])
        g["k"] = tensor(1)[0]
    flat = oracle.Batch(
        torch.full((1, 3, 256, 256), 0.3, dtype=torch.float64), torch.full((1, 3, 128, 128), -0.4, dtype=torch.float64)
    )
    parts = oracle.generator_loss(
        nets, flat, oracle.GeneratorNoise(), oracle.Recipe(mode="none", depth_supervised=0, depth_cycle_consistency=0)
    )
    assert parts["cycle"].item() == pytest.approx(0, abs=1e-14)
    fooled = (
        oracle.critic(nets.d_s, flat.x_s * 0 - 0.4, 1e-5).mean()
        + oracle.critic(nets.d_t, flat.x_t * 0 + 0.3, 1e-5).mean()
    )
    assert parts["adversarial"].item() == pytest.approx(-fooled.item(), rel=1e-12)
    assert set(parts) == {"adversarial", "cycle", "total"}


def test_depth_cycle_consistency_reaches_both_generators():
    nets, batch = small_nets("own"), small_batch()
    only = oracle.Recipe(adversarial=0, cycle=0, depth_supervised=0)
    leaves = {n: w.requires_grad_(True) for n, w in nets.g_st.items()}
    loss = oracle.generator_loss(nets, batch, oracle.GeneratorNoise(), only)["total"]
    gradients = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
    assert gradients["head.weight"].abs().max() > 0  # through the translated image, which is not detached
    assert gradients["depth_head.weight"].abs().max() > 0


def test_generators_learn_on_every_fifth_step_after_the_critics():
    recipe = oracle.Recipe(mode="none", depth_supervised=0, depth_cycle_consistency=0)
    batch, noise = small_batch(), oracle.CriticNoise(tensor(0.3), tensor(0.6))
    state = oracle.Training(small_nets("none"))
    before = state.nets
    report = oracle.train_step(state, batch, noise, oracle.GeneratorNoise(), recipe)
    after = state.nets
    assert set(report) == {"critic", "generator"}
    for name in ("enc1.weight", "dec6.gamma", "head.bias"):
        torch.testing.assert_close(
            (after.g_st[name] - before.g_st[name]).abs(), torch.full_like(before.g_st[name], 5e-4), rtol=1e-3, atol=0
        )
    assert torch.equal(before.g_st["k"], after.g_st["k"])
    # The generators were judged by the critics as they are after their own update.
    late = oracle.Networks(before.g_st, before.g_ts, after.d_s, after.d_t)
    judged = oracle.generator_loss(late, batch, oracle.GeneratorNoise(), recipe)
    assert report["generator"]["adversarial"].item() == pytest.approx(judged["adversarial"].item(), rel=1e-14)
    for _ in range(4):
        assert set(oracle.train_step(state, batch, noise, None, recipe)) == {"critic"}
    assert state.nets.g_st is after.g_st
    assert state.step == 5
