"""The segmentation objectives' equations in plain words, float64, from their papers; imports nothing of ``drdg``.

What a network says is asked of ``look(use, images)``: logits (N, C, H, W) of bytes (N, 3, H, W); ``use`` is one of
``source``, ``target``, ``original`` and ``turned``, by which the asked can tell its random numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

VOID = 255
Look = Callable[[str, Tensor], Tensor]


class Weights(NamedTuple):
    """MUCSS-style: how much each term counts, and from which probability on a prediction is a label."""

    original: float
    pseudo: float
    rotation: float
    confidence: float


# --------------------------------------------------------------------------------------------------------------- terms


def probabilities(logits: Tensor) -> Tensor:
    """exp(x) over the sum of exp(x), by class."""
    powers = torch.exp(logits - logits.max(dim=1, keepdim=True).values.detach())
    return powers / powers.sum(dim=1, keepdim=True)


def cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    """Minus the logarithm of the right class's probability, mean over labelled pixels; 0 without any."""
    right = torch.stack([label == number for number in range(logits.shape[1])], dim=1)
    pixels = int((label != VOID).sum())
    largest = logits.max(dim=1, keepdim=True).values.detach()
    log_sum = largest + torch.log(torch.exp(logits - largest).sum(dim=1, keepdim=True))
    return ((log_sum - logits) * right).sum() / max(pixels, 1)


def binary_cross_entropy(logits: Tensor, label: int) -> Tensor:
    """-log sigmoid(x) for label 1, -log (1 - sigmoid(x)) for label 0."""
    probability = 1 / (1 + torch.exp(-logits))
    return -torch.log(probability if label == 1 else 1 - probability).mean()


def enlargement(before: int, after: int) -> Tensor:
    """The matrix (after, before) of linear interpolation between pixel centres, the outermost held."""
    matrix = torch.zeros(after, before, dtype=torch.float64)
    for row in range(after):
        place = min(max((row + 0.5) * before / after - 0.5, 0.0), before - 1.0)
        left = min(math.floor(place), before - 1)
        right = min(left + 1, before - 1)
        matrix[row, left] += 1 - (place - left)
        matrix[row, right] += place - left
    return matrix


def discriminate(weights: dict[str, Tensor], x: Tensor) -> Tensor:
    """Five convolutions 4 by 4 of stride 2, LeakyReLU 0.2 between them, and the result as large as the input."""
    height, width = x.shape[-2:]
    for level in range(5):
        x = functional.conv2d(x, weights[f"convs.{level}.weight"], weights[f"convs.{level}.bias"], stride=2, padding=1)
        if level < 4:
            x = torch.where(x > 0, x, 0.2 * x)
    return enlargement(x.shape[-2], height) @ x @ enlargement(x.shape[-1], width).T


# ---------------------------------------------------------------------------------------------------------- objectives


def source_only(look: Look, batch: dict[str, Tensor]) -> Tensor:
    """Equation 8 of arXiv 2208.09823."""
    return cross_entropy(look("source", batch["image"]), batch["label"])


def output_space(
    look: Look, weights: dict[str, Tensor], batch: dict[str, Tensor], weight: float
) -> tuple[Tensor, Tensor]:
    """What the segmentor minimises and what the discriminator with ``weights`` minimises after it."""
    source, target = look("source", batch["image"]), look("target", batch["target_image"])
    fooling = binary_cross_entropy(discriminate(weights, probabilities(target)), 0)
    learning = binary_cross_entropy(discriminate(weights, probabilities(source).detach()), 0) + binary_cross_entropy(
        discriminate(weights, probabilities(target).detach()), 1
    )
    return cross_entropy(source, batch["label"]) + weight * fooling, learning


def turned(images: Tensor, quarters: Iterable[int]) -> Tensor:
    """Each image turned anticlockwise: a quarter swaps the axes and reverses the rows."""
    result = []
    for image, times in zip(images, quarters, strict=True):
        for _ in range(times):
            image = image.transpose(1, 2).flip(1)
        result.append(image)
    return torch.stack(result)


def mucss(look: Look, batch: dict[str, Tensor], done: float, quarters: list[int], weights: Weights) -> Tensor:
    """The sum of four terms, two of which grow with the share of training ``done``."""
    on_source = cross_entropy(look("source", batch["image"]), batch["label"])
    on_source = on_source + weights.original * cross_entropy(look("original", batch["original_image"]), batch["label"])
    logits = look("target", batch["target_image"])
    belief = probabilities(logits).detach()
    label = torch.where(belief.max(dim=1).values > weights.confidence, belief.argmax(dim=1), VOID)
    other = probabilities(look("turned", turned(batch["target_image"], quarters)))
    difference = ((turned(belief, quarters) - other) ** 2).sum() / belief.numel()
    ramp = math.exp(-5 * (1 - done) ** 2)
    return on_source + ramp * (weights.pseudo * cross_entropy(logits, label) + weights.rotation * difference)


# -------------------------------------------------------------------------------------------------------------- update


class Adam:
    """Kingma and Ba 2015, algorithm 1, with the paper's constants."""

    def __init__(self, parameters: Iterable[Tensor], rate: float):
        self.parameters = list(parameters)
        self.rate = rate
        self.steps = 0
        self.first = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.second = [torch.zeros_like(parameter) for parameter in self.parameters]

    def step(self, loss: Tensor) -> None:
        gradients = torch.autograd.grad(loss, self.parameters, retain_graph=True)
        self.steps += 1
        with torch.no_grad():
            for number, (parameter, gradient) in enumerate(zip(self.parameters, gradients, strict=True)):
                self.first[number] = 0.9 * self.first[number] + 0.1 * gradient
                self.second[number] = 0.999 * self.second[number] + 0.001 * gradient**2
                mean = self.first[number] / (1 - 0.9**self.steps)
                square = self.second[number] / (1 - 0.999**self.steps)
                parameter -= self.rate * mean / (torch.sqrt(square) + 1e-8)
