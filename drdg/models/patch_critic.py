"""Station 3, networks: the patch critic, in the layouts of all compared methods.

A stack of convolutions of kernel 4 with norms and LeakyReLUs, then a last convolution that gives one unbounded score
for each patch. What differs between methods is a :class:`PatchLayout`. Norms see one sample: the released codes have
instance norms, or batch norms in training mode at batch size 1, which are the same; and an instance norm couples no
samples, which the gradient penalty and many ranks need.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from drdg.models.init import init_normal
from drdg.models.unet import IMAGE_BANDS, LEAKY_SLOPE


@dataclass(frozen=True)
class PatchLayout:
    """How a patch critic is built; each tuple has one entry for each convolution before the last."""

    multiples: tuple[int, ...]
    """Channels as multiples of the width."""
    strides: tuple[int, ...]
    head_padding: tuple[int, int, int, int]
    """Zeros to the left, right, top and bottom of what the last convolution sees."""
    affine: bool
    """Whether the norms have a scale and a shift that are learned."""
    norm_after_activation: bool = False
    norm_eps: float = 1e-5


class PatchCritic(nn.Module):
    """Scores of an image's patches."""

    def __init__(self, layout: PatchLayout, width: int):
        super().__init__()
        self.layout = layout
        widths = [multiple * width for multiple in layout.multiples]
        channels = zip([IMAGE_BANDS, *widths[:-1]], widths, layout.strides, strict=True)
        self.convs = nn.ModuleList(
            # A norm takes away whatever a bias before it adds. The released codes have such biases: their gradients are
            # rounding noise, which RMSprop and Adam scale up to a random walk that differs between ranks.
            nn.Conv2d(
                inputs,
                outputs,
                kernel_size=4,
                stride=stride,
                padding=1,
                bias=level == 0 or layout.norm_after_activation,
            )
            for level, (inputs, outputs, stride) in enumerate(channels)
        )
        self.norms = nn.ModuleList(
            nn.Identity() if level == 0 else nn.InstanceNorm2d(width, eps=layout.norm_eps, affine=layout.affine)
            for level, width in enumerate(widths)
        )
        self.head = nn.Conv2d(widths[-1], 1, kernel_size=4)
        init_normal(self)

    def forward(self, image: Tensor) -> Tensor:
        """From images (N, 3, H, W) to unbounded scores (N, 1, h, w), higher for more real."""
        x = image
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = conv(x)
            if self.layout.norm_after_activation:
                x = norm(F.leaky_relu(x, LEAKY_SLOPE))
            else:
                x = F.leaky_relu(norm(x), LEAKY_SLOPE)
        return self.head(F.pad(x, self.layout.head_padding))
