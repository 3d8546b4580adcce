"""Tests: the compared translators once more, as plain float64 functions that share nothing with ``drdg``.

Written from the papers' equations and from what is known of their released codes (CycleGAN: arXiv 1703.10593; Benjdira:
doi 10.3390/rs11111369; DualGAN: arXiv 1704.02510), without biases that a norm takes away again. As in ``oracle.py``,
whose norm, penalty and optimisers are used, a network is a dictionary of tensors and the only borrowed arithmetic is
``conv2d``, ``conv_transpose2d``, ``pad`` with zeros and elementwise functions.

Names of a generator's tensors, w the base width, ``.weight`` and where there is one ``.bias``, ``.gamma``, ``.beta``
    CycleGAN    ``in``, ``down1``, ``down2``, ``block1a``, ``block1b``, .. , ``up1``, ``up2``, ``out``
    Benjdira's  ``down1`` .. ``down4``, ``up1`` .. ``up3``, ``out``
    DualGAN     as the generator of ``oracle.py``, without ``k``
Names of a critic's tensors
    CycleGAN and Benjdira's  ``conv1`` .. ``conv5``; DualGAN as the critic of ``oracle.py``, without idle biases
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import oracle
import torch
from oracle import Moments, Shapes, Weights
from torch import Tensor
from torch.nn import functional as F

Network = Callable[[Weights, Tensor], Tensor]
Show = Callable[[Tensor], Tensor]
"""What a critic is shown for translated images."""
NETWORKS = ("to_target", "to_source", "source_critic", "target_critic")


# -------------------------------------------------------------------------------------------------------------- layers


def antialiased(old: int, new: int) -> Tensor:
    """(new, old) weights of a triangle as wide as the ratio, at least two pixels, around each new pixel's centre."""
    ratio = old / new
    centres = (torch.arange(new, dtype=torch.float64) + 0.5) * ratio
    distance = (torch.arange(old, dtype=torch.float64) + 0.5)[None, :] - centres[:, None]
    weights = (1 - distance.abs() / max(ratio, 1.0)).clamp(min=0)
    return weights / weights.sum(1, keepdim=True)


def to_side(x: Tensor, side: int) -> Tensor:
    rows, columns = antialiased(x.shape[2], side), antialiased(x.shape[3], side)
    return torch.einsum("ih,nchw,jw->ncij", rows, x, columns)


def mirrored(x: Tensor, width: int) -> Tensor:
    """``width`` more pixels on each side, mirrored at the outermost ones, which are not repeated."""
    height, breadth = x.shape[2], x.shape[3]

    def places(length: int) -> Tensor:
        inside = torch.arange(-width, length + width).abs()
        return torch.where(inside >= length, 2 * (length - 1) - inside, inside)

    return x[:, :, places(height)][:, :, :, places(breadth)]


def plain_norm(x: Tensor) -> Tensor:
    ones = torch.ones(x.shape[1], dtype=x.dtype)
    return oracle.instance_norm(x, ones, 0 * ones, 1e-5)


def learned_norm(x: Tensor, weights: Weights, name: str) -> Tensor:
    return oracle.instance_norm(x, weights[f"{name}.gamma"], weights[f"{name}.beta"], 1e-5)


def doubled(x: Tensor) -> Tensor:
    return x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)


# ------------------------------------------------------------------------------------------------------------ CycleGAN


def resnet_shapes(width: int, blocks: int) -> Shapes:
    inner = 4 * width
    shapes: Shapes = {
        "in.weight": (width, 3, 7, 7),
        "down1.weight": (2 * width, width, 3, 3),
        "down2.weight": (inner, 2 * width, 3, 3),
    }
    for block in range(1, blocks + 1):
        shapes |= {f"block{block}{half}.weight": (inner, inner, 3, 3) for half in "ab"}
    shapes |= {"up1.weight": (inner, 2 * width, 3, 3), "up2.weight": (2 * width, width, 3, 3)}
    return shapes | {"out.weight": (3, width, 7, 7), "out.bias": (3,)}


def resnet(weights: Weights, x: Tensor) -> Tensor:
    x = oracle.relu(plain_norm(F.conv2d(mirrored(x, 3), weights["in.weight"])))
    for name in ("down1", "down2"):
        x = oracle.relu(plain_norm(F.conv2d(x, weights[f"{name}.weight"], stride=2, padding=1)))
    block = 1
    while f"block{block}a.weight" in weights:
        inner = oracle.relu(plain_norm(F.conv2d(mirrored(x, 1), weights[f"block{block}a.weight"])))
        x = x + plain_norm(F.conv2d(mirrored(inner, 1), weights[f"block{block}b.weight"]))
        block += 1
    for name in ("up1", "up2"):
        grown = F.conv_transpose2d(x, weights[f"{name}.weight"], stride=2, padding=1, output_padding=1)
        x = oracle.relu(plain_norm(grown))
    return torch.tanh(F.conv2d(mirrored(x, 3), weights["out.weight"], weights["out.bias"]))


def patch70_shapes(width: int) -> Shapes:
    channels = [3, width, 2 * width, 4 * width, 8 * width, 1]
    shapes: Shapes = {f"conv{n}.weight": (channels[n], channels[n - 1], 4, 4) for n in range(1, 6)}
    return shapes | {"conv1.bias": (width,), "conv5.bias": (1,)}


def patch70(weights: Weights, x: Tensor) -> Tensor:
    x = oracle.leaky_relu(F.conv2d(x, weights["conv1.weight"], weights["conv1.bias"], stride=2, padding=1))
    for level, stride in ((2, 2), (3, 2), (4, 1)):
        x = F.conv2d(x, weights[f"conv{level}.weight"], stride=stride, padding=1)
        x = oracle.leaky_relu(plain_norm(x))
    return F.conv2d(x, weights["conv5.weight"], weights["conv5.bias"], stride=1, padding=1)


@dataclass
class History:
    """The image pool as Python's lists: one for each place of the global batch, all of one capacity.

    ``numbers(position)`` gives two numbers in [0, 1) for a sample: whether it is swapped, and with which entry.
    """

    places: int
    capacity: int
    numbers: Callable[[int], tuple[float, float]]
    lists: list[list[Tensor]] = field(init=False)

    def __post_init__(self) -> None:
        self.lists = [[] for _ in range(self.places)]

    def show(self, images: Tensor, positions: list[int]) -> Tensor:
        shown = []
        for image, position in zip(images, positions, strict=True):
            kept = self.lists[position % self.places]
            swap, entry = self.numbers(position)
            if len(kept) < self.capacity:
                kept.append(image.clone())
                shown.append(image)
            elif swap < 0.5:
                place = int(entry * self.capacity)
                shown.append(kept[place])
                kept[place] = image.clone()
            else:
                shown.append(image)
        return torch.stack(shown)


# ---------------------------------------------------------------------------------------------------------- Benjdira's


def small_unet_shapes(width: int) -> Shapes:
    levels = {
        "down1": (width, 3),
        "down2": (2 * width, width),
        "down3": (4 * width, 2 * width),
        "down4": (8 * width, 4 * width),
        "up1": (4 * width, 8 * width),
        "up2": (2 * width, 8 * width),
        "up3": (width, 4 * width),
    }
    shapes: Shapes = {}
    for name, (outputs, inputs) in levels.items():
        shapes[f"{name}.weight"] = (outputs, inputs, 4, 4)
        shapes |= {f"{name}.{part}": (outputs,) for part in ("bias", "gamma", "beta")}
    return shapes | {"out.weight": (3, 2 * width, 4, 4), "out.bias": (3,)}


def small_unet(weights: Weights, x: Tensor) -> Tensor:
    levels = []
    for name in ("down1", "down2", "down3", "down4"):
        x = F.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], stride=2, padding=1)
        x = learned_norm(oracle.leaky_relu(x), weights, name)
        levels.append(x)
    for number in (1, 2, 3):
        grown = F.pad(doubled(x), (1, 2, 1, 2))
        grown = oracle.relu(F.conv2d(grown, weights[f"up{number}.weight"], weights[f"up{number}.bias"]))
        x = torch.cat([learned_norm(grown, weights, f"up{number}"), levels[3 - number]], 1)
    return torch.tanh(F.conv2d(F.pad(doubled(x), (1, 2, 1, 2)), weights["out.weight"], weights["out.bias"]))


def patch16_shapes(width: int) -> Shapes:
    channels = [3, width, 2 * width, 4 * width, 8 * width, 1]
    shapes: Shapes = {}
    for level in range(1, 6):
        shapes[f"conv{level}.weight"] = (channels[level], channels[level - 1], 4, 4)
        shapes[f"conv{level}.bias"] = (channels[level],)
        if 2 <= level <= 4:
            shapes[f"conv{level}.gamma"] = shapes[f"conv{level}.beta"] = (channels[level],)
    return shapes


def patch16(weights: Weights, x: Tensor) -> Tensor:
    for level in (1, 2, 3, 4):
        x = F.conv2d(x, weights[f"conv{level}.weight"], weights[f"conv{level}.bias"], stride=2, padding=1)
        x = oracle.leaky_relu(x)
        if level > 1:
            x = learned_norm(x, weights, f"conv{level}")
    return F.conv2d(F.pad(x, (1, 2, 1, 2)), weights["conv5.weight"], weights["conv5.bias"])


# ------------------------------------------------------------------------------------------------------------- DualGAN


def unet_shapes(width: int) -> Shapes:
    return {name: shape for name, shape in oracle.generator_shapes(width, "none").items() if name != "k"}


def unet(weights: Weights, x: Tensor) -> Tensor:
    return oracle.generator({**weights, "k": torch.zeros((), dtype=x.dtype)}, x, mode="none")[0]


IDLE = ("conv2.bias", "conv3.bias", "conv4.bias", "conv5.bias")


def dual_critic_shapes(width: int) -> Shapes:
    return {name: shape for name, shape in oracle.critic_shapes(width).items() if name not in IDLE}


def dual_critic(weights: Weights, x: Tensor) -> Tensor:
    idle = {name: torch.zeros_like(weights[name.replace("bias", "beta")]) for name in IDLE}
    return oracle.critic({**weights, **idle}, x, eps=1e-5)


# ------------------------------------------------------------------------------------------------- losses and one step


@dataclass
class State:
    """The four networks by name, how they compute, and what the optimisers remember of each."""

    weights: dict[str, Weights]
    generator: Network
    critic: Network
    moments: dict[str, Moments] = field(default_factory=lambda: {name: Moments() for name in NETWORKS})

    def translate(self, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Of the source's look, and of the target's."""
        return self.generator(self.weights["to_source"], target), self.generator(self.weights["to_target"], source)

    def learning(self, names: tuple[str, str]) -> State:
        """The same with leaves for the networks called ``names``."""
        leaves = {n: {k: w.detach().requires_grad_(True) for k, w in self.weights[n].items()} for n in names}
        return State({**self.weights, **leaves}, self.generator, self.critic, self.moments)

    def follow(self, loss: Tensor, names: tuple[str, str], rule: Callable[..., Weights]) -> None:
        """Move the networks called ``names`` against the gradient of ``loss``; they must be leaves."""
        for name in names:
            leaves = self.weights[name]
            gradients = torch.autograd.grad(loss, list(leaves.values()), retain_graph=True)
            found = dict(zip(leaves, gradients, strict=True))
            moved = rule({k: w.detach() for k, w in leaves.items()}, found, self.moments[name])
            self.weights[name] = moved


def there_and_back(state: State, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Both translations, source's look first, and the cycle's and the identity's distance."""
    g, f = state.weights["to_target"], state.weights["to_source"]
    fake_target, fake_source = state.generator(g, source), state.generator(f, target)
    cycle = (state.generator(f, fake_target) - source).abs().mean()
    cycle = cycle + (state.generator(g, fake_source) - target).abs().mean()
    same = (state.generator(f, source) - source).abs().mean() + (state.generator(g, target) - target).abs().mean()
    return fake_source, fake_target, cycle, same


def least_squares_generators(
    state: State, source: Tensor, target: Tensor, cycle: float, identity: float
) -> tuple[dict[str, Tensor], tuple[Tensor, Tensor]]:
    """Zhu et al. 2017, equation 3 with least squares and the identity loss; and the translations it was made of."""
    fake_source, fake_target, back, same = there_and_back(state, source, target)
    fooled = ((state.critic(state.weights["source_critic"], fake_source) - 1) ** 2).mean()
    fooled = fooled + ((state.critic(state.weights["target_critic"], fake_target) - 1) ** 2).mean()
    parts = {"adversarial": fooled, "cycle": back, "total": fooled + cycle * back + identity * cycle * same}
    if identity:
        parts["identity"] = same
    return parts, (fake_source.detach(), fake_target.detach())


def least_squares_critics(state: State, real: tuple[Tensor, Tensor], fake: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    """Half of what real images miss 1 by, squared, and half of what translated ones miss 0 by."""
    parts = {}
    for name, image, translated in zip(("source_critic", "target_critic"), real, fake, strict=True):
        scores, others = state.critic(state.weights[name], image), state.critic(state.weights[name], translated)
        parts[name] = 0.5 * ((scores - 1) ** 2).mean() + 0.5 * (others**2).mean()
    parts["total"] = parts["source_critic"] + parts["target_critic"]
    return parts


def wasserstein_generators(state: State, source: Tensor, target: Tensor, cycle: float) -> dict[str, Tensor]:
    """Yi et al. 2017, equation 3."""
    fake_source, fake_target, back, _ = there_and_back(state, source, target)
    fooled = -state.critic(state.weights["source_critic"], fake_source).mean()
    fooled = fooled - state.critic(state.weights["target_critic"], fake_target).mean()
    return {"adversarial": fooled, "cycle": back, "total": fooled + cycle * back}


def wasserstein_critics(
    state: State,
    real: tuple[Tensor, Tensor],
    fake: tuple[Tensor, Tensor],
    mixing: tuple[Tensor, Tensor],
    penalty: float,
) -> dict[str, Tensor]:
    """Yi et al. 2017, equations 1 and 2, with the penalty of Gulrajani et al. 2017; ``mixing`` is (N,) per domain."""
    parts = {}
    total = torch.zeros((), dtype=torch.float64)
    for name, image, translated, alpha in zip(("source", "target"), real, fake, mixing, strict=True):

        def judge(x: Tensor, name: str = name) -> Tensor:
            return state.critic(state.weights[f"{name}_critic"], x)

        parts[f"{name}_critic"] = judge(translated).mean() - judge(image).mean()
        parts[f"{name}_penalty"] = oracle.gradient_penalty(judge, image, translated, alpha)
        total = total + parts[f"{name}_critic"] + penalty * parts[f"{name}_penalty"]
    return {**parts, "total": total}
