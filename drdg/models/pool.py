"""Station 3, networks: the pool of translated images that CycleGAN's critics learn from (Shrivastava et al. 2017).

Each place ("lane") of the global batch has a pool of its own, and what happens to an image is a function of the seed
and its sample's position. So what the critics see is a function of the sample stream, on any number of ranks, and no
rank tells another anything. At batch size 1 there is one lane, and the pool is the released code's.
"""

from __future__ import annotations

import torch
from torch import Tensor

from drdg.models.keyed import sample_keys, uniform

SWAPPED = 0.5  # share of images for which an earlier one is shown (released code)


class ImagePool:
    """The pool of one domain's translated images, whose content lies in ``lanes`` as ``NAME_pool``, (n, capacity, C, H,
    W), and ``NAME_pooled``, int64 (n,), how many entries of each lane are filled; n is this rank's share of the batch.
    """

    def __init__(self, lanes: dict[str, Tensor], name: str, capacity: int, seed: int, tag: int):
        self.lanes, self.capacity, self.seed, self.tag = lanes, capacity, seed, tag
        self.images, self.filled = f"{name}_pool", f"{name}_pooled"

    @torch.no_grad()
    def __call__(self, images: Tensor, position: Tensor) -> Tensor:
        """What the critic is shown for the translated ``images`` (N, C, H, W) of the samples at ``position`` (N,).

        Until a lane is full it keeps every image, and every image is shown. Then half of the images are shown and not
        kept; each of the others takes the place of an entry, which is shown in its stead. Nothing waits for the device.
        """
        pool, filled = self._content(images)
        lane = torch.arange(len(images), device=images.device)
        numbers = uniform(sample_keys(self.seed, position.to(images.device), self.tag), (2,), torch.float64)
        is_full = filled == self.capacity
        is_swapped = is_full & (numbers[:, 0] < SWAPPED)
        entry = torch.where(is_full, (numbers[:, 1] * self.capacity).long(), filled)
        kept = pool[lane, entry]
        pool[lane, entry] = torch.where(_per_image(~is_full | is_swapped), images, kept)
        filled += (~is_full).long()
        return torch.where(_per_image(is_swapped), kept, images)

    def _content(self, images: Tensor) -> tuple[Tensor, Tensor]:
        if self.images not in self.lanes:
            self.lanes[self.images] = images.new_zeros((len(images), self.capacity, *images.shape[1:]))
            self.lanes[self.filled] = torch.zeros(len(images), dtype=torch.int64, device=images.device)
        pool, filled = self.lanes[self.images], self.lanes[self.filled]
        assert len(pool) == len(images), "a pool has one lane for each pair of this rank's share of the batch"
        return pool, filled


def _per_image(flags: Tensor) -> Tensor:
    return flags.view(-1, 1, 1, 1)
