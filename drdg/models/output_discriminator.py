"""Station 3, networks: the discriminator of output-space adaptation (AdaptSegNet, Tsai et al. 2018, section 4.2)."""

from __future__ import annotations

import itertools

import torch.nn.functional as F
from torch import Tensor, nn

MULTIPLES = (1, 2, 4, 8)  # released code: 64, 128, 256, 512 channels, then 1
LEAKY_SLOPE = 0.2


class OutputDiscriminator(nn.Module):
    """Five convolutions of stride 2 without norms, which tell from which domain's image a prediction was made.

    Initial weights are torch's own, as in AdaptSegNet's released code.
    """

    def __init__(self, num_classes: int, width: int):
        super().__init__()
        widths = [num_classes, *(multiple * width for multiple in MULTIPLES), 1]
        self.convs = nn.ModuleList(
            nn.Conv2d(inputs, outputs, kernel_size=4, stride=2, padding=1)
            for inputs, outputs in itertools.pairwise(widths)
        )

    def forward(self, probabilities: Tensor) -> Tensor:
        """From class probabilities (N, C, H, W), sides at least 32, to one logit per pixel (N, 1, H, W).

        The patches' logits are enlarged bilinearly, 32 times where sides are multiples of 32 (the DRDG authors' code;
        AdaptSegNet's compares patches).
        """
        *convs, head = self.convs
        x = probabilities
        for conv in convs:
            x = F.leaky_relu(conv(x), LEAKY_SLOPE)
        return F.interpolate(head(x), size=probabilities.shape[-2:], mode="bilinear", align_corners=False)
