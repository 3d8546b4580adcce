"""Station 3, networks: the U-shaped residual generator with a depth decoder (paper, sections II-A to II-C, equation 1).

Layer settings that the paper leaves open follow the authors' released code at commit 1dc0be8 ("released code").
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drdg.config import GeneratorConfig
from drdg.models.init import init_normal
from drdg.models.keyed import derive, dropout

IMAGE_BANDS = 3
# Multiples of the width (paper, section II-C: 64, 128, 256, 512, 512, 512, 512).
ENCODER_MULTIPLES = (1, 2, 4, 8, 8, 8, 8)
# The last decoder levels halve more steeply than the encoder (released code: 512->128, 256->64).
DECODER_MULTIPLES = (8, 8, 8, 4, 2, 1)
LEAKY_SLOPE = 0.2  # released code
NORMED_ENCODER_LEVELS = frozenset({2, 3, 4, 5, 6})  # released code: no norm on the first and the innermost level
DROPPED_ENCODER_LEVELS = frozenset({4, 5, 6, 7})  # released code
DROPPED_DECODER_LEVELS = frozenset({1, 2, 3})  # released code
DEPTH_PASS = 100  # tag of the depth decoder's dropout, so that its masks differ from the image decoder's


class Translation(NamedTuple):
    """The translated image (N, 3, h, w) and, if asked for, the heights (N, 1, H, W) in [0, 1]."""

    image: Tensor
    depth: Tensor | None


class Down(nn.Module):
    """One encoder level: a convolution that halves the side, norm, LeakyReLU, dropout."""

    def __init__(self, inputs: int, outputs: int, level: int, rate: float):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel_size=4, stride=2, padding=1, bias=False)
        self.norm = nn.InstanceNorm2d(outputs, affine=True) if level in NORMED_ENCODER_LEVELS else nn.Identity()
        self.level = level
        self.rate = rate if level in DROPPED_ENCODER_LEVELS else 0.0

    def forward(self, x: Tensor, keys: Tensor | None) -> Tensor:
        """From (N, inputs, H, W) to (N, outputs, H/2, W/2)."""
        x = F.leaky_relu(self.norm(self.conv(x)), LEAKY_SLOPE)
        return drop(x, self.rate, keys, self.level)


class Up(nn.Module):
    """One decoder level: a transposed convolution that doubles the side, norm, ReLU, dropout; then the skip."""

    def __init__(self, inputs: int, outputs: int, level: int, rate: float):
        super().__init__()
        self.conv = nn.ConvTranspose2d(inputs, outputs, kernel_size=4, stride=2, padding=1, bias=False)
        self.norm = nn.InstanceNorm2d(outputs, affine=True)
        self.level = level
        self.rate = rate if level in DROPPED_DECODER_LEVELS else 0.0

    def forward(self, x: Tensor, skip: Tensor, keys: Tensor | None) -> Tensor:
        """From (N, inputs, H, W) and a skip (N, s, 2H, 2W) to (N, outputs + s, 2H, 2W)."""
        x = F.relu(self.norm(self.conv(x)))
        x = drop(x, self.rate, keys, len(ENCODER_MULTIPLES) + self.level)
        return torch.cat((x, skip), dim=1)


class Decoder(nn.Module):
    """Six levels up with skips; the head that follows doubles the side a seventh time."""

    def __init__(self, width: int, rate: float):
        super().__init__()
        levels = []
        inputs = ENCODER_MULTIPLES[-1] * width
        for level, multiple in enumerate(DECODER_MULTIPLES, start=1):
            levels.append(Up(inputs, multiple * width, level, rate))
            inputs = multiple * width + ENCODER_MULTIPLES[-1 - level] * width
        self.levels = nn.ModuleList(levels)
        self.channels = inputs

    def forward(self, encoded: list[Tensor], keys: Tensor | None) -> Tensor:
        """From the seven encoder outputs, outermost first, to (N, channels, H/2, W/2)."""
        x = encoded[-1]
        for level, skip in zip(self.levels, reversed(encoded[:-1]), strict=True):
            x = level(x, skip, keys)
        return x


class Generator(nn.Module):
    """ResiG of equation 1, from a domain's images of any side that is a multiple of 128 to ``output_side``.

    ``depth`` says whether a depth head (and, with ``config.depth_decoder="own"``, a depth decoder) is built.
    """

    def __init__(self, config: GeneratorConfig, output_side: int, depth: bool):
        super().__init__()
        self.output_side = output_side
        widths = [multiple * config.width for multiple in ENCODER_MULTIPLES]
        self.encoder = nn.ModuleList(
            Down(inputs, outputs, level, config.dropout)
            for level, (inputs, outputs) in enumerate(zip([IMAGE_BANDS, *widths[:-1]], widths, strict=True), start=1)
        )
        self.image_decoder = Decoder(config.width, config.dropout)
        self.image_head = head(self.image_decoder.channels, IMAGE_BANDS)
        own_depth_decoder = depth and config.depth_decoder == "own"
        self.depth_decoder = Decoder(config.width, config.dropout) if own_depth_decoder else None
        self.depth_head = head(self.image_decoder.channels, 1) if depth else None
        self.residual = nn.Parameter(torch.tensor([config.residual]), requires_grad=config.learn_residual)
        init_normal(self)

    def forward(self, image: Tensor, keys: Tensor | None = None, *, depth: bool = False) -> Translation:
        """Translate ``image`` (N, 3, H, W) in [-1, 1] and, if ``depth``, predict its heights (N, 1, H, W).

        The translation is tanh(head) + k * image, resized, so its range is [-2, 2]; nothing clamps it (released code).
        ``keys`` (N,) int32 are the samples' dropout keys, needed in training mode when there is dropout.
        """
        encoded = []
        x = image
        for down in self.encoder:
            x = down(x, keys if self.training else None)
            encoded.append(x)
        residual = torch.tanh(self.image_head(self.image_decoder(encoded, keys if self.training else None)))
        translated = F.interpolate(
            residual + self.residual * image,
            size=(self.output_side, self.output_side),
            mode="bilinear",
            align_corners=False,
        )
        return Translation(translated, self._depth(encoded, keys if self.training else None) if depth else None)

    def _depth(self, encoded: list[Tensor], keys: Tensor | None) -> Tensor:
        assert self.depth_head is not None, "depth was asked of a generator built without it"
        decoder = self.image_decoder if self.depth_decoder is None else self.depth_decoder
        depth_keys = None if keys is None else derive(keys, DEPTH_PASS)
        # A sigmoid, not the paper's softmax: over one channel that is 1 everywhere, with no gradient.
        return torch.sigmoid(self.depth_head(decoder(encoded, depth_keys)))


def head(inputs: int, outputs: int) -> nn.ConvTranspose2d:
    """The last transposed convolution, with a bias since no norm follows it."""
    return nn.ConvTranspose2d(inputs, outputs, kernel_size=4, stride=2, padding=1)


def drop(x: Tensor, rate: float, keys: Tensor | None, layer: int) -> Tensor:
    """Dropout of one layer by its samples' keys; none when there are no keys (evaluation) or no rate."""
    if rate == 0 or keys is None:
        return x
    return dropout(x, rate, derive(keys, layer))
