"""Station 3, networks: CycleGAN's generator, residual blocks at a quarter of the image's side.

Zhu et al. 2017 (arXiv 1703.10593), appendix 7.2, after Johnson et al. 2016; what that leaves open follows the released
code, junyanz/pytorch-CycleGAN-and-pix2pix. Its norms are instance norms without scale or shift; before each of them the
released code has a bias, which the norm takes away again and which is left out here.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from drdg.models.init import init_normal
from drdg.models.unet import IMAGE_BANDS

BLOCK_MULTIPLE = 4  # channels of the residual blocks: the width, doubled twice (appendix 7.2: 64, 128, 256)


class ResnetGenerator(nn.Module):
    """c7s1-w, d2w, d4w, ``blocks`` times R4w, u2w, uw, c7s1-3 in the paper's notation, then a tanh."""

    def __init__(self, width: int, blocks: int):
        super().__init__()
        inner = BLOCK_MULTIPLE * width
        self.layers = nn.Sequential(
            *normed(nn.Conv2d(IMAGE_BANDS, width, 7, padding=3, padding_mode="reflect", bias=False)),
            *normed(nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=False)),
            *normed(nn.Conv2d(2 * width, inner, 3, stride=2, padding=1, bias=False)),
            *(ResidualBlock(inner) for _ in range(blocks)),
            *normed(nn.ConvTranspose2d(inner, 2 * width, 3, stride=2, padding=1, output_padding=1, bias=False)),
            *normed(nn.ConvTranspose2d(2 * width, width, 3, stride=2, padding=1, output_padding=1, bias=False)),
            nn.Conv2d(width, IMAGE_BANDS, 7, padding=3, padding_mode="reflect"),
            nn.Tanh(),
        )
        init_normal(self)

    def forward(self, image: Tensor) -> Tensor:
        """Translate ``image`` (N, 3, H, W), sides multiples of 4, in [-1, 1] to the same shape and range."""
        return self.layers(image)


class ResidualBlock(nn.Module):
    """Two convolutions with norms, a ReLU between them, and the input added."""

    def __init__(self, channels: int):
        super().__init__()
        self.first, self.second = (
            nn.Conv2d(channels, channels, 3, padding=1, padding_mode="reflect", bias=False) for _ in range(2)
        )
        self.norm = nn.InstanceNorm2d(channels)  # without weights, so one does for both

    def forward(self, x: Tensor) -> Tensor:
        """From (N, channels, H, W) to the same shape."""
        return x + self.norm(self.second(F.relu(self.norm(self.first(x)))))


def normed(conv: nn.Module) -> tuple[nn.Module, ...]:
    """A convolution with the norm and the ReLU that follow it."""
    assert isinstance(conv, nn.Conv2d | nn.ConvTranspose2d)
    return conv, nn.InstanceNorm2d(conv.out_channels), nn.ReLU()
