"""Station 3, networks: the small U-Net of Benjdira et al. 2019, four levels.

By their released code, bilel-bj/unsupervised-domain-adaptation-gan, which is Keras: "same" padding puts the odd zero of
an even kernel below and to the right, and images grow by repeating pixels before a convolution of stride 1.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drdg.models.init import init_normal
from drdg.models.unet import IMAGE_BANDS, LEAKY_SLOPE

ENCODER_MULTIPLES = (1, 2, 4, 8)  # released code: 32, 64, 128, 256
DECODER_MULTIPLES = (4, 2, 1)  # released code: 128, 64, 32
SAME = (1, 2, 1, 2)  # zeros to the left, right, top and bottom that keep the side under a kernel of 4


class SmallUNet(nn.Module):
    """Four levels down, three up with skips, and a fourth to the image; the norms come after the activations."""

    def __init__(self, width: int):
        super().__init__()
        self.downs = nn.ModuleList()
        self.ups = nn.ModuleList()
        inputs = IMAGE_BANDS
        for multiple in ENCODER_MULTIPLES:
            self.downs.append(Down(inputs, multiple * width))
            inputs = multiple * width
        for multiple in DECODER_MULTIPLES:  # each skip is as wide as what it is put beside
            self.ups.append(Up(inputs, multiple * width))
            inputs = 2 * multiple * width
        self.head = nn.Conv2d(inputs, IMAGE_BANDS, kernel_size=4)
        init_normal(self)

    def forward(self, image: Tensor) -> Tensor:
        """Translate ``image`` (N, 3, H, W), sides multiples of 32, in [-1, 1] to the same shape and range."""
        encoded = []
        x = image
        for down in self.downs:
            x = down(x)
            encoded.append(x)
        for up, skip in zip(self.ups, reversed(encoded[:-1]), strict=True):
            x = torch.cat((up(x), skip), dim=1)
        return torch.tanh(self.head(doubled(x)))


class Down(nn.Module):
    """A convolution that halves the side, LeakyReLU, norm."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel_size=4, stride=2, padding=1)
        self.norm = nn.InstanceNorm2d(outputs, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        """From (N, inputs, H, W) to (N, outputs, H/2, W/2)."""
        return self.norm(F.leaky_relu(self.conv(x), LEAKY_SLOPE))


class Up(nn.Module):
    """Every pixel four times, a convolution, ReLU, norm."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel_size=4)
        self.norm = nn.InstanceNorm2d(outputs, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        """From (N, inputs, H, W) to (N, outputs, 2H, 2W)."""
        return self.norm(F.relu(self.conv(doubled(x))))


def doubled(x: Tensor) -> Tensor:
    """``x`` (N, C, H, W) with every pixel four times, and the zeros that a kernel of 4 needs to keep that side."""
    return F.pad(F.interpolate(x, scale_factor=2, mode="nearest"), SAME)
