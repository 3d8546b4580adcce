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
from drdg.models.keyed import derive
from drdg.models.unet import IMAGE_BANDS, Decoder, Encoder, head

DEPTH_PASS = 100  # tag of the depth decoder's dropout, so that its masks differ from the image decoder's


class Translation(NamedTuple):
    """The translated image (N, 3, h, w) and, if asked for, the heights (N, 1, H, W) in [0, 1]."""

    image: Tensor
    depth: Tensor | None


class Generator(nn.Module):
    """ResiG of equation 1, from a domain's images of any side that is a multiple of 128 to ``output_side``.

    ``depth`` says whether a depth head (and, with ``config.depth_decoder="own"``, a depth decoder) is built.
    """

    def __init__(self, config: GeneratorConfig, output_side: int, depth: bool):
        super().__init__()
        self.output_side = output_side
        self.encoder = Encoder(config.width, config.dropout)
        self.image_decoder = Decoder(config.width, config.dropout, config.upsampling)
        self.image_head = head(self.image_decoder.channels, IMAGE_BANDS, config.upsampling)
        own_depth_decoder = depth and config.depth_decoder == "own"
        self.depth_decoder = Decoder(config.width, config.dropout, config.upsampling) if own_depth_decoder else None
        self.depth_head = head(self.image_decoder.channels, 1, config.upsampling) if depth else None
        self.residual = nn.Parameter(torch.tensor([config.residual]), requires_grad=config.learn_residual)
        init_normal(self)

    def forward(self, image: Tensor, keys: Tensor | None = None, *, depth: bool = False) -> Translation:
        """Translate ``image`` (N, 3, H, W) in [-1, 1] and, if ``depth``, predict its heights (N, 1, H, W).

        The translation is tanh(head) + k * image, resized, so its range is [-2, 2]; nothing clamps it (released code).
        ``keys`` (N,) int32 are the samples' dropout keys, needed in training mode when there is dropout.
        """
        keys = keys if self.training else None
        encoded = self.encoder(image, keys)
        residual = torch.tanh(self.image_head(self.image_decoder(encoded, keys)))
        translated = F.interpolate(
            residual + self.residual * image,
            size=(self.output_side, self.output_side),
            mode="bilinear",
            align_corners=False,
        )
        return Translation(translated, self._depth(encoded, keys) if depth else None)

    def _depth(self, encoded: list[Tensor], keys: Tensor | None) -> Tensor:
        assert self.depth_head is not None, "depth was asked of a generator built without it"
        decoder = self.image_decoder if self.depth_decoder is None else self.depth_decoder
        depth_keys = None if keys is None else derive(keys, DEPTH_PASS)
        # A sigmoid, not the paper's softmax: over one channel that is 1 everywhere, with no gradient.
        return torch.sigmoid(self.depth_head(decoder(encoded, depth_keys)))
