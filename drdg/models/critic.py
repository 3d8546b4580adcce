"""Station 3, networks: the patch critic of one domain (paper, section II-C; layer settings from the released code)."""

from __future__ import annotations

from drdg.config import CriticConfig
from drdg.models.patch_critic import PatchCritic, PatchLayout

MULTIPLES = (1, 2, 4, 8, 8)  # paper, section II-C: 64, 128, 256, 512, 512, then 1
STRIDES = (2, 2, 2, 2, 2)
ABOVE_AND_LEFT = (1, 0, 1, 0)  # one row above and one column to the left (released code)


class Critic(PatchCritic):
    """Five convolutions of stride 2 and one of stride 1; receptive field 190 px, one score per 32 px.

    Images (N, 3, H, W) give scores (N, 1, H/32 - 2, W/32 - 2).
    """

    def __init__(self, config: CriticConfig):
        layout = PatchLayout(MULTIPLES, STRIDES, ABOVE_AND_LEFT, affine=True, norm_eps=config.norm_eps)
        super().__init__(layout, config.width)
