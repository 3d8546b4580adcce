"""Station 3, networks: the seven-level U-Net that DRDG, ResiDualGAN and DualGAN translate with.

The levels are those of DRDG (paper, section II-C); layer settings that it leaves open follow the authors' released code
at commit 1dc0be8 ("released code"), whose U-Net descends from PyTorch-GAN's port of DualGAN.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drdg.config import Upsampling
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


class Encoder(nn.ModuleList):
    """Seven levels down, from an image's three bands."""

    def __init__(self, width: int, rate: float):
        widths = [multiple * width for multiple in ENCODER_MULTIPLES]
        super().__init__(
            Down(inputs, outputs, level, rate)
            for level, (inputs, outputs) in enumerate(zip([IMAGE_BANDS, *widths[:-1]], widths, strict=True), start=1)
        )

    def forward(self, image: Tensor, keys: Tensor | None) -> list[Tensor]:
        """From (N, 3, H, W), sides multiples of 128, to the seven levels' outputs, outermost (H/2, W/2) first."""
        encoded = []
        x = image
        for down in self:
            x = down(x, keys)
            encoded.append(x)
        return encoded


class SmoothUpsampling(nn.ConvTranspose2d):
    """Nearest-neighbour upsampling by 2, then a 3 x 3 convolution, which leaves no grid (Odena et al. 2016,
    "Deconvolution and Checkerboard Artifacts"), as the transposed convolution of 4 x 4 that does the same in 4/9 of the
    work.
    """

    def __init__(self, inputs: int, outputs: int, *, bias: bool = True):
        super().__init__(inputs, outputs, kernel_size=3, bias=bias)

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """From (N, inputs, H, W) to (N, outputs, 2H, 2W)."""
        rows = F.pad(self.weight, (0, 0, 0, 1)) + F.pad(self.weight, (0, 0, 1, 0))
        kernel = F.pad(rows, (0, 1)) + F.pad(rows, (1, 0))
        return F.conv_transpose2d(x, kernel, self.bias, stride=2, padding=1)


def upsampling(kind: Upsampling, inputs: int, outputs: int, *, bias: bool) -> nn.ConvTranspose2d:
    """What doubles the side, (N, inputs, H, W) to (N, outputs, 2H, 2W)."""
    if kind == "smooth":
        return SmoothUpsampling(inputs, outputs, bias=bias)
    return nn.ConvTranspose2d(inputs, outputs, kernel_size=4, stride=2, padding=1, bias=bias)


class Up(nn.Module):
    """One decoder level: a transposed convolution that doubles the side, norm, ReLU, dropout; then the skip."""

    def __init__(self, inputs: int, outputs: int, level: int, rate: float, kind: Upsampling):
        super().__init__()
        self.conv = upsampling(kind, inputs, outputs, bias=False)
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

    def __init__(self, width: int, rate: float, kind: Upsampling = "transposed"):
        super().__init__()
        levels = []
        inputs = ENCODER_MULTIPLES[-1] * width
        for level, multiple in enumerate(DECODER_MULTIPLES, start=1):
            levels.append(Up(inputs, multiple * width, level, rate, kind))
            inputs = multiple * width + ENCODER_MULTIPLES[-1 - level] * width
        self.levels = nn.ModuleList(levels)
        self.channels = inputs

    def forward(self, encoded: list[Tensor], keys: Tensor | None) -> Tensor:
        """From the seven encoder outputs, outermost first, to (N, channels, H/2, W/2)."""
        x = encoded[-1]
        for level, skip in zip(self.levels, reversed(encoded[:-1]), strict=True):
            x = level(x, skip, keys)
        return x


class UNet(nn.Module):
    """DualGAN's generator: the U-Net with a tanh and nothing else, no dropout and no residual."""

    def __init__(self, width: int):
        super().__init__()
        self.encoder = Encoder(width, rate=0.0)
        self.decoder = Decoder(width, rate=0.0)
        self.head = head(self.decoder.channels, IMAGE_BANDS)
        init_normal(self)

    def forward(self, image: Tensor) -> Tensor:
        """Translate ``image`` (N, 3, H, W), sides multiples of 128, in [-1, 1] to the same shape and range."""
        return torch.tanh(self.head(self.decoder(self.encoder(image, None), None)))


def head(inputs: int, outputs: int, kind: Upsampling = "transposed") -> nn.ConvTranspose2d:
    """The last transposed convolution, with a bias since no norm follows it."""
    return upsampling(kind, inputs, outputs, bias=True)


def drop(x: Tensor, rate: float, keys: Tensor | None, layer: int) -> Tensor:
    """Dropout of one layer by its samples' keys; none when there are no keys (evaluation) or no rate."""
    if rate == 0 or keys is None:
        return x
    return dropout(x, rate, derive(keys, layer))
