"""Tests: the method's equations once more, as plain float64 functions that share nothing with ``drdg``.

Written from the paper (arXiv 2208.09823, section II, equations 1-7) and from what is known of the released code at
commit 1dc0be8 where the paper is silent (norms, dropout, penalty, optimisers), without reading ``drdg/models``,
``drdg/losses.py`` or ``drdg/methods``. Nothing is an ``nn.Module``; a network is a dictionary of tensors. The only
borrowed arithmetic is ``conv2d``, ``conv_transpose2d``, ``pad`` and elementwise functions; norm, resizing, BerHu,
penalty, Adam and RMSprop are their formulas.

Names of a generator's tensors (w: base width)
    ``enc1.weight`` .. ``enc7.weight``            (out, in, 4, 4); out = w, 2w, 4w, 8w, 8w, 8w, 8w
    ``enc2.gamma``, ``enc2.beta`` .. level 6      (out,), scale and shift of the instance norm; levels 1, 7 have none
    ``dec1.weight`` .. ``dec6.weight``            (in, out, 4, 4); out = 8w, 8w, 8w, 4w, 2w, w
    ``dec1.gamma``, ``dec1.beta`` .. level 6      (out,)
    ``head.weight``, ``head.bias``                (2w, 3, 4, 4), (3,): last layer of the image
    ``k``                                         (): factor of the residual, equation 1 has 1
    ``depth_dec1.*`` .. ``depth_dec6.*``          as ``dec*``, only with an own depth decoder
    ``depth_head.weight``, ``depth_head.bias``    (2w, 1, 4, 4), (1,): last layer of the depth
Names of a critic's tensors
    ``conv1.weight``, ``conv1.bias`` .. level 6   out = w, 2w, 4w, 8w, 8w, 1
    ``conv2.gamma``, ``conv2.beta`` .. level 5    (out,)
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Weights = dict[str, Tensor]
Shapes = dict[str, tuple[int, ...]]
DepthMode = Literal["none", "own", "shared"]
Masks = Sequence[Tensor] | None

LEAK = 0.2  # slope of every LeakyReLU (released code)
GENERATOR_NORM_EPS = 1e-5  # InstanceNorm2d's default (released code)
ENCODER_DROPOUT = (4, 5, 6, 7)  # levels followed by dropout (released code)
DECODER_DROPOUT = (1, 2, 3)


# -------------------------------------------------------------------------------------------------------------- layers


def instance_norm(x: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> Tensor:
    """Per sample and channel: (x - mean) / sqrt(variance + eps) * gamma + beta, variance over H*W (not H*W - 1)."""
    mean = x.sum((2, 3), keepdim=True) / (x.shape[2] * x.shape[3])
    variance = ((x - mean) ** 2).sum((2, 3), keepdim=True) / (x.shape[2] * x.shape[3])
    return (x - mean) / torch.sqrt(variance + eps) * gamma.view(1, -1, 1, 1) + beta.view(1, -1, 1, 1)


def leaky_relu(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, LEAK * x)


def relu(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, torch.zeros_like(x))


@functools.cache
def resize_matrix(rule: str, old: int, new: int) -> Tensor:
    """(new, old) float64 weights that carry one axis of ``old`` pixels to ``new``.

    ``bilinear``: pixel centres aligned (half-pixel), edge repeated, no antialiasing: two taps at any ratio.
    ``area``: the unweighted mean of every pixel that the output pixel touches (adaptive average pooling, which is what
    torch calls area; it is the exact area mean only where the ratio is whole).
    ``legacy_nearest``: the pixel at floor(i * old / new), which leans to the upper left.
    """
    matrix = torch.zeros(new, old, dtype=torch.float64)
    for i in range(new):
        if rule == "bilinear":
            position = max((i + 0.5) * old / new - 0.5, 0.0)
            low = min(math.floor(position), old - 1)
            high = min(low + 1, old - 1)
            matrix[i, low] += 1 - (position - low)
            matrix[i, high] += position - low
        elif rule == "area":
            first, last = (i * old) // new, -((-(i + 1) * old) // new)
            matrix[i, first:last] = 1 / (last - first)
        elif rule == "legacy_nearest":
            matrix[i, (i * old) // new] = 1
        else:
            raise AssertionError(rule)
    return matrix


def resize(x: Tensor, height: int, width: int, rule: str) -> Tensor:
    """(N, C, h, w) -> (N, C, height, width); every rule is separable."""
    rows, columns = resize_matrix(rule, x.shape[2], height), resize_matrix(rule, x.shape[3], width)
    return torch.einsum("ih,nchw,jw->ncij", rows, x, columns)


# ------------------------------------------------------------------------------------------------------------ networks


def generator_shapes(width: int, mode: DepthMode) -> Shapes:
    """Name -> shape of every tensor of a generator, in the order of this file's docstring."""
    w = width
    down = [3, w, 2 * w, 4 * w, 8 * w, 8 * w, 8 * w, 8 * w]
    up_out = [8 * w, 8 * w, 8 * w, 4 * w, 2 * w, w]
    shapes: Shapes = {}
    for level in range(1, 8):
        shapes[f"enc{level}.weight"] = (down[level], down[level - 1], 4, 4)
        if 2 <= level <= 6:
            shapes[f"enc{level}.gamma"] = shapes[f"enc{level}.beta"] = (down[level],)
    for prefix in ["dec"] + ["depth_dec"] * (mode == "own"):
        below = down[7]
        for level in range(1, 7):
            shapes[f"{prefix}{level}.weight"] = (below, up_out[level - 1], 4, 4)
            shapes[f"{prefix}{level}.gamma"] = shapes[f"{prefix}{level}.beta"] = (up_out[level - 1],)
            below = up_out[level - 1] + down[7 - level]  # the skip comes from encoder level 7 - level
    shapes["head.weight"], shapes["head.bias"], shapes["k"] = (below, 3, 4, 4), (3,), ()
    if mode != "none":
        shapes["depth_head.weight"], shapes["depth_head.bias"] = (below, 1, 4, 4), (1,)
    return shapes


def critic_shapes(width: int) -> Shapes:
    """Name -> shape of every tensor of a critic."""
    channels = [3, width, 2 * width, 4 * width, 8 * width, 8 * width, 1]
    shapes: Shapes = {}
    for level in range(1, 7):
        shapes[f"conv{level}.weight"] = (channels[level], channels[level - 1], 4, 4)
        shapes[f"conv{level}.bias"] = (channels[level],)
        if 2 <= level <= 5:
            shapes[f"conv{level}.gamma"] = shapes[f"conv{level}.beta"] = (channels[level],)
    return shapes


def critic_side(side: int) -> int:
    """Side of the critic's patch map for a square input: five halvings, one pixel of padding, a 4-wide kernel."""
    for _ in range(5):
        side = (side + 2 * 1 - 4) // 2 + 1
    return side + 1 - 4 + 1


def count(shapes: Shapes) -> int:
    return sum(math.prod(shape) for shape in shapes.values())


def random_weights(shapes: Shapes, seed: int, scale: float = 0.15) -> Weights:
    """Numbers far enough from 0, 1 and each other that a swapped or forgotten tensor shows."""
    random = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in shapes.items():
        values = torch.randn(shape, generator=random, dtype=torch.float64)
        weights[name] = 1 + 0.2 * values if name.endswith("gamma") or name == "k" else scale * values
    return weights


def mask_shapes(width: int, side: int, batch: int, mode: DepthMode) -> list[tuple[int, int, int, int]]:
    """Shapes of the dropout masks in the order ``generator`` consumes them.

    Encoder levels 4, 5, 6, 7, then the image decoder's levels 1, 2, 3, then the depth decoder's (its own or the second
    run of the shared one) levels 1, 2, 3.
    """
    encoder = [(batch, 8 * width, side >> level, side >> level) for level in ENCODER_DROPOUT]
    decoder = [(batch, 8 * width, side >> (7 - level), side >> (7 - level)) for level in DECODER_DROPOUT]
    return encoder + decoder + decoder * (mode != "none")


def _encoder(weights: Weights, x: Tensor, masks: list[Tensor] | None) -> list[Tensor]:
    levels = []
    for level in range(1, 8):
        x = F.conv2d(x, weights[f"enc{level}.weight"], stride=2, padding=1)
        if 2 <= level <= 6:
            x = instance_norm(x, weights[f"enc{level}.gamma"], weights[f"enc{level}.beta"], GENERATOR_NORM_EPS)
        x = leaky_relu(x)
        if masks is not None and level in ENCODER_DROPOUT:
            x = x * masks[ENCODER_DROPOUT.index(level)]
        levels.append(x)
    return levels


def _decoder(weights: Weights, prefix: str, levels: list[Tensor], masks: list[Tensor] | None) -> Tensor:
    x = levels[6]
    for level in range(1, 7):
        name = f"{prefix}{level}"
        x = F.conv_transpose2d(x, weights[f"{name}.weight"], stride=2, padding=1)
        x = relu(instance_norm(x, weights[f"{name}.gamma"], weights[f"{name}.beta"], GENERATOR_NORM_EPS))
        if masks is not None and level in DECODER_DROPOUT:
            x = x * masks[DECODER_DROPOUT.index(level)]
        x = torch.cat([x, levels[6 - level]], 1)
    return x


def generator(
    weights: Weights,
    x: Tensor,
    size: tuple[int, int] | None = None,
    *,
    mode: DepthMode,
    keep_masks: Masks = None,
) -> tuple[Tensor, Tensor | None]:
    """Equation 1: resize(tanh(decoder(encoder(x))) + k x), and the depth sigmoid(depth decoder(encoder(x))).

    ``x`` (N, 3, h, w) in [-1, 1] -> image (N, 3, *size) in [-1 - k, 1 + k] and depth (N, 1, h, w) in (0, 1), of the
    input's size. ``mode``: ``none`` no depth; ``own`` the paper's decoder beside the image's (section II-B1);
    ``shared`` the image decoder run again with a last layer of its own (released code). ``keep_masks``: multiplicative
    dropout masks (0 or 1 / (1 - p)) in the order of ``mask_shapes``, or None for no dropout.
    """
    masks = None if keep_masks is None else list(keep_masks)
    assert masks is None or len(masks) >= (7 if mode == "none" else 10), len(masks)
    levels = _encoder(weights, x, masks and masks[:4])
    features = _decoder(weights, "dec", levels, masks and masks[4:7])
    residual = torch.tanh(F.conv_transpose2d(features, weights["head.weight"], weights["head.bias"], 2, 1))
    image = residual + weights["k"] * x
    if size is not None:
        image = resize(image, *size, "bilinear")
    if mode == "none":
        return image, None
    features = _decoder(weights, "depth_dec" if mode == "own" else "dec", levels, masks and masks[7:10])
    logit = F.conv_transpose2d(features, weights["depth_head.weight"], weights["depth_head.bias"], 2, 1)
    return image, 1 / (1 + torch.exp(-logit))


def critic(weights: Weights, x: Tensor, eps: float) -> Tensor:
    """(N, 3, h, w) -> (N, 1, h/32 - 2, w/32 - 2), a patch map without activation (section II-C; released code)."""
    for level in range(1, 6):
        x = F.conv2d(x, weights[f"conv{level}.weight"], weights[f"conv{level}.bias"], stride=2, padding=1)
        if level > 1:
            x = instance_norm(x, weights[f"conv{level}.gamma"], weights[f"conv{level}.beta"], eps)
        x = leaky_relu(x)
    x = F.pad(x, (1, 0, 1, 0))  # left and top only
    return F.conv2d(x, weights["conv6.weight"], weights["conv6.bias"])


# -------------------------------------------------------------------------------------------------------------- losses


@dataclass(frozen=True)
class Recipe:
    """The numbers of one method: equation 7's weights and everything the losses and the step depend on."""

    mode: DepthMode = "own"
    adversarial: float = 5.0
    cycle: float = 10.0
    depth_supervised: float = 2.0
    depth_cycle_consistency: float = 1.0
    gradient_penalty: float = 1.0
    critic_eps: float = 1e-5
    fraction: float = 0.2
    scope: Literal["image", "batch"] = "image"
    live_threshold: bool = False
    additive_eps: float = 0.0
    depth_resize: Literal["bilinear", "area", "legacy_nearest"] = "bilinear"
    n_critic: int = 5
    generator_lr: float = 5e-4
    betas: tuple[float, float] = (0.5, 0.999)
    critic_lr: float = 5e-4
    learn_k: bool = False


PAPER = Recipe()
AUTHORS = Recipe(
    mode="shared",
    critic_eps=0.8,
    scope="batch",
    live_threshold=True,
    additive_eps=1e-4,
    depth_resize="legacy_nearest",
)


def berhu(
    residual: Tensor,
    fraction: float = 0.2,
    scope: str = "image",
    live_threshold: bool = False,
    additive_eps: float = 0.0,
) -> Tensor:
    """Equation 5, averaged over all pixels of the batch (N, 1, h, w): a scalar.

    |r| where |r| <= L, else (r**2 + L**2) / (2 L + additive_eps); L = fraction * max|r| over each image or the batch.
    """
    total = residual.new_zeros(())
    groups = [residual] if scope == "batch" else [residual[n] for n in range(residual.shape[0])]
    for group in groups:
        size = torch.abs(group)
        threshold = fraction * torch.max(size)
        if not live_threshold:
            threshold = threshold.detach()
        small = size <= threshold
        total = total + size[small].sum()
        if not bool(small.all()):  # so threshold > 0: an all-zero residual is all small and adds 0
            total = total + ((size[~small] ** 2 + threshold**2) / (2 * threshold + additive_eps)).sum()
    return total / residual.numel()


def gradient_penalty(function: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, alpha: Tensor) -> Tensor:
    """Mean over the batch of (||grad of sum f(x_hat)||_2 - 1)**2 at x_hat = alpha real + (1 - alpha) fake.

    ``alpha`` (N,), one number per sample; the norm is over a sample's channels and pixels. Differentiable.
    """
    a = alpha.reshape(-1, 1, 1, 1)
    mixed = (a * real + (1 - a) * fake).detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(function(mixed).sum(), mixed, create_graph=True)
    norms = torch.sqrt((gradient**2).sum((1, 2, 3)))
    return ((norms - 1) ** 2).sum() / real.shape[0]


@dataclass
class Networks:
    """The four networks; ``g_st`` carries source images to the target's look and size, ``d_s`` judges source images."""

    g_st: Weights
    g_ts: Weights
    d_s: Weights
    d_t: Weights


@dataclass(frozen=True)
class Batch:
    """x_S, x_T (N, 3, side, side) in [-1, 1]; z_S, z_T (N, 1, side, side)."""

    x_s: Tensor
    x_t: Tensor
    z_s: Tensor | None = None
    z_t: Tensor | None = None


@dataclass(frozen=True)
class CriticNoise:
    """Dropout masks of the two translations and the penalty's mixing numbers (N,) of the two domains."""

    alpha_s: Tensor
    alpha_t: Tensor
    s_to_t: Masks = None
    t_to_s: Masks = None


@dataclass(frozen=True)
class GeneratorNoise:
    """Dropout masks of the two translations and of the two ways back."""

    s_to_t: Masks = None
    t_to_s: Masks = None
    s_to_t_to_s: Masks = None
    t_to_s_to_t: Masks = None


def _side(x: Tensor) -> tuple[int, int]:
    return x.shape[2], x.shape[3]


def critic_loss(nets: Networks, batch: Batch, noise: CriticNoise, recipe: Recipe) -> dict[str, Tensor]:
    """Negated equation 2 plus the penalty, both domains summed under ``total``; lambda_adv has no part in it.

    The fakes are made with dropout and without gradient.
    """
    with torch.no_grad():
        fake_t, _ = generator(nets.g_st, batch.x_s, _side(batch.x_t), mode="none", keep_masks=noise.s_to_t)
        fake_s, _ = generator(nets.g_ts, batch.x_t, _side(batch.x_s), mode="none", keep_masks=noise.t_to_s)
    parts: dict[str, Tensor] = {}
    for domain, weights, real, fake, alpha in (
        ("s", nets.d_s, batch.x_s, fake_s, noise.alpha_s),
        ("t", nets.d_t, batch.x_t, fake_t, noise.alpha_t),
    ):

        def judge(x: Tensor, weights: Weights = weights) -> Tensor:
            return critic(weights, x, recipe.critic_eps)

        parts[f"wasserstein_{domain}"] = judge(fake).mean() - judge(real).mean()
        parts[f"penalty_{domain}"] = gradient_penalty(judge, real, fake, alpha)
    parts["total"] = (
        parts["wasserstein_s"]
        + parts["wasserstein_t"]
        + recipe.gradient_penalty * (parts["penalty_s"] + parts["penalty_t"])
    )
    return parts


def generator_loss(nets: Networks, batch: Batch, noise: GeneratorNoise, recipe: Recipe) -> dict[str, Tensor]:
    """Equation 7 as its terms (unweighted) and their weighted sum ``total``.

    DCCL reads the depth that the same pass gives which makes the reconstruction, against the DSM resized to the
    translated image; nothing is detached, so it reaches both generators.
    """
    mode = recipe.mode
    if recipe.depth_supervised == 0 and recipe.depth_cycle_consistency == 0:
        mode = "none"

    def make(weights: Weights, x: Tensor, like: Tensor, masks: Masks) -> tuple[Tensor, Tensor | None]:
        # A pass whose depth no term reads may bring no masks for it.
        wanted = "none" if masks is not None and len(masks) == 7 else mode
        return generator(weights, x, _side(like), mode=wanted, keep_masks=masks)

    fake_t, depth_s = make(nets.g_st, batch.x_s, batch.x_t, noise.s_to_t)
    fake_s, depth_t = make(nets.g_ts, batch.x_t, batch.x_s, noise.t_to_s)
    back_s, depth_st = make(nets.g_ts, fake_t, batch.x_s, noise.s_to_t_to_s)
    back_t, depth_ts = make(nets.g_st, fake_s, batch.x_t, noise.t_to_s_to_t)

    def distance(depth: Tensor | None, dsm: Tensor | None) -> Tensor:
        assert depth is not None
        assert dsm is not None
        assert depth.shape == dsm.shape
        return berhu(depth - dsm, recipe.fraction, recipe.scope, recipe.live_threshold, recipe.additive_eps)

    parts = {
        "adversarial": -critic(nets.d_s, fake_s, recipe.critic_eps).mean()
        - critic(nets.d_t, fake_t, recipe.critic_eps).mean(),
        "cycle": torch.abs(back_s - batch.x_s).mean() + torch.abs(back_t - batch.x_t).mean(),
    }
    total = recipe.adversarial * parts["adversarial"] + recipe.cycle * parts["cycle"]
    if recipe.depth_supervised:
        parts["depth_supervised"] = distance(depth_s, batch.z_s) + distance(depth_t, batch.z_t)
        total = total + recipe.depth_supervised * parts["depth_supervised"]
    if recipe.depth_cycle_consistency:
        assert batch.z_s is not None
        assert batch.z_t is not None
        z_s_small = resize(batch.z_s, *_side(fake_t), recipe.depth_resize)
        z_t_large = resize(batch.z_t, *_side(fake_s), recipe.depth_resize)
        parts["depth_cycle_consistency"] = distance(depth_st, z_s_small) + distance(depth_ts, z_t_large)
        total = total + recipe.depth_cycle_consistency * parts["depth_cycle_consistency"]
    parts["total"] = total
    return parts


# ----------------------------------------------------------------------------------------------------------- one step


@dataclass
class Moments:
    """What an optimiser remembers of each tensor: steps taken, mean gradient, mean squared gradient."""

    steps: int = 0
    first: Weights = field(default_factory=dict)
    second: Weights = field(default_factory=dict)


def adam_step(
    weights: Weights,
    gradients: Weights,
    moments: Moments,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
) -> Weights:
    """New weights: w - lr * (m / (1 - b1**t)) / (sqrt(v / (1 - b2**t)) + eps); ``moments`` moves on."""
    moments.steps += 1
    moved = dict(weights)
    for name, g in gradients.items():
        m = betas[0] * moments.first.get(name, torch.zeros_like(g)) + (1 - betas[0]) * g
        v = betas[1] * moments.second.get(name, torch.zeros_like(g)) + (1 - betas[1]) * g * g
        moments.first[name], moments.second[name] = m, v
        unbiased_m, unbiased_v = m / (1 - betas[0] ** moments.steps), v / (1 - betas[1] ** moments.steps)
        moved[name] = weights[name] - lr * unbiased_m / (torch.sqrt(unbiased_v) + eps)
    return moved


def rmsprop_step(
    weights: Weights, gradients: Weights, moments: Moments, lr: float, alpha: float = 0.99, eps: float = 1e-8
) -> Weights:
    """New weights: w - lr * g / (sqrt(v) + eps), v = alpha v + (1 - alpha) g**2, no momentum, not centred."""
    moments.steps += 1
    moved = dict(weights)
    for name, g in gradients.items():
        v = alpha * moments.second.get(name, torch.zeros_like(g)) + (1 - alpha) * g * g
        moments.second[name] = v
        moved[name] = weights[name] - lr * g / (torch.sqrt(v) + eps)
    return moved


def _learning(weights: Weights, learn_k: bool) -> Weights:
    return {name: w.detach().requires_grad_(True) for name, w in weights.items() if name != "k" or learn_k}


def _gradients(loss: Tensor, leaves: Weights) -> Weights:
    return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))


def critic_gradients(
    nets: Networks, batch: Batch, noise: CriticNoise, recipe: Recipe
) -> tuple[dict[str, Tensor], Weights, Weights]:
    """The critic phase's loss parts and its gradients for ``d_s`` and ``d_t``."""
    s, t = _learning(nets.d_s, True), _learning(nets.d_t, True)
    parts = critic_loss(Networks(nets.g_st, nets.g_ts, s, t), batch, noise, recipe)
    both = {**{f"s/{n}": w for n, w in s.items()}, **{f"t/{n}": w for n, w in t.items()}}
    found = _gradients(parts["total"], both)
    return _values(parts), {n: found[f"s/{n}"] for n in s}, {n: found[f"t/{n}"] for n in t}


def generator_gradients(
    nets: Networks, batch: Batch, noise: GeneratorNoise, recipe: Recipe
) -> tuple[dict[str, Tensor], Weights, Weights]:
    """The generator phase's loss parts and its gradients for ``g_st`` and ``g_ts``; the critics are constants."""
    st, ts = _learning(nets.g_st, recipe.learn_k), _learning(nets.g_ts, recipe.learn_k)
    learning = Networks({**nets.g_st, **st}, {**nets.g_ts, **ts}, nets.d_s, nets.d_t)
    parts = generator_loss(learning, batch, noise, recipe)
    both = {**{f"st/{n}": w for n, w in st.items()}, **{f"ts/{n}": w for n, w in ts.items()}}
    found = _gradients(parts["total"], both)
    return _values(parts), {n: found[f"st/{n}"] for n in st}, {n: found[f"ts/{n}"] for n in ts}


def _values(parts: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in parts.items()}


@dataclass
class Training:
    """Networks, what the optimisers remember (one per critic; the one Adam is two equal halves) and the step."""

    nets: Networks
    critics: tuple[Moments, Moments] = field(default_factory=lambda: (Moments(), Moments()))
    generators: tuple[Moments, Moments] = field(default_factory=lambda: (Moments(), Moments()))
    step: int = 0


def train_step(
    state: Training, batch: Batch, critic_noise: CriticNoise, generator_noise: GeneratorNoise | None, recipe: Recipe
) -> dict[str, dict[str, Tensor]]:
    """One iteration; ``state`` moves on. Returns the loss parts of the phases that ran.

    The critics learn first; where step % n_critic == 0 (so also at the first step) the generators learn next, on the
    same batch, judged by the critics as they now are.
    """
    nets = state.nets
    losses, of_s, of_t = critic_gradients(nets, batch, critic_noise, recipe)
    report = {"critic": losses}
    nets = Networks(
        nets.g_st,
        nets.g_ts,
        rmsprop_step(nets.d_s, of_s, state.critics[0], recipe.critic_lr),
        rmsprop_step(nets.d_t, of_t, state.critics[1], recipe.critic_lr),
    )
    if state.step % recipe.n_critic == 0:
        assert generator_noise is not None
        report["generator"], of_st, of_ts = generator_gradients(nets, batch, generator_noise, recipe)
        nets = Networks(
            adam_step(nets.g_st, of_st, state.generators[0], recipe.generator_lr, recipe.betas),
            adam_step(nets.g_ts, of_ts, state.generators[1], recipe.generator_lr, recipe.betas),
            nets.d_s,
            nets.d_t,
        )
    state.nets = nets
    state.step += 1
    return report
