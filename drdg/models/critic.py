"""Station 3, networks: the patch critic of one domain (paper, section II-C; layer settings from the released code)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from drdg.config import CriticConfig
from drdg.models.generator import IMAGE_BANDS, LEAKY_SLOPE
from drdg.models.init import init_normal

MULTIPLES = (1, 2, 4, 8, 8)  # paper, section II-C: 64, 128, 256, 512, 512, then 1


class Critic(nn.Module):
    """Five convolutions of stride 2 and one of stride 1; receptive field 190 px, one score per 32 px.

    The released code has batch norms in training mode at batch size 1, which is an instance norm; an instance norm
    couples no samples, which the gradient penalty and many ranks need.
    """

    def __init__(self, config: CriticConfig):
        super().__init__()
        widths = [multiple * config.width for multiple in MULTIPLES]
        self.convs = nn.ModuleList(
            # A norm takes away whatever a bias before it adds. The released code has such biases: their gradients are
            # rounding noise, which RMSprop scales up to a random walk that differs between ranks.
            nn.Conv2d(inputs, outputs, kernel_size=4, stride=2, padding=1, bias=level == 0)
            for level, (inputs, outputs) in enumerate(zip([IMAGE_BANDS, *widths[:-1]], widths, strict=True))
        )
        self.norms = nn.ModuleList(
            nn.Identity() if level == 0 else nn.InstanceNorm2d(width, eps=config.norm_eps, affine=True)
            for level, width in enumerate(widths)
        )
        self.head = nn.Conv2d(widths[-1], 1, kernel_size=4)
        init_normal(self)

    def forward(self, image: Tensor) -> Tensor:
        """From images (N, 3, H, W) to unbounded scores (N, 1, H/32 - 2, W/32 - 2), higher for more real."""
        x = image
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.leaky_relu(norm(conv(x)), LEAKY_SLOPE)
        return self.head(F.pad(x, (1, 0, 1, 0)))  # one row above and one column to the left (released code)
