"""Station 3, networks: images at another side, for what does no resizing itself."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def resized(images: Tensor, side: int) -> Tensor:
    """Images (N, C, H, W) as (N, C, ``side``, ``side``), bilinear with antialiasing, on their device, in their type."""
    wide = images.to(torch.promote_types(images.dtype, torch.float32))
    size = (side, side)
    return F.interpolate(wide, size=size, mode="bilinear", align_corners=False, antialias=True).to(images.dtype)
