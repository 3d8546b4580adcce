"""Station 5, maps: what trained networks say of windows: class probabilities, or a translation with its heights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from drdg.config import SIDE_MULTIPLE, Config
from drdg.methods import Translator
from drdg.models.resize import resized
from drdg.models.segmentor import side_multiple

FLIPS: tuple[tuple[int, ...], ...] = ((), (3,), (2,), (2, 3))
"""Axes of (N, C, H, W) that each look at a window is mirrored along."""


class Segmentation:
    """Class probabilities of windows, the mean over all looks at them.

    ``segmentor`` is in evaluation mode and on its device. ``flips``: look at each window four times, mirrored along
    both axes too. ``scales``: look at it at so many times its side, each rounded to what the segmentor can take.
    """

    def __init__(self, segmentor: nn.Module, classes: int, *, flips: bool = False, scales: tuple[float, ...] = (1.0,)):
        assert not segmentor.training, "call eval() first"
        self.segmentor, self.channels = segmentor, classes
        parameter = next(segmentor.parameters())
        self.device, self._dtype = parameter.device, parameter.dtype
        self._flips = FLIPS if flips else FLIPS[:1]
        self._scales = scales
        self._multiple = side_multiple(segmentor)

    def __call__(self, images: Tensor) -> Tensor:
        """Images uint8 (N, side, side, 3) to float32 (N, classes, side, side), which sums to 1 over the classes."""
        whole = images.permute(0, 3, 1, 2).to(self._dtype).div_(255)
        side = whole.shape[-1]
        total = torch.zeros(())
        looks = 0
        for scale in self._scales:
            seen = self.side_at(side, scale)
            scaled = whole if seen == side else resized(whole, seen)
            for axes in self._flips:
                logits = self.segmentor(scaled.flip(axes) if axes else scaled)
                found = logits.float().softmax(1)
                found = found.flip(axes) if axes else found
                found = found if seen == side else resized(found, side)
                total = total + found if looks else found
                looks += 1
        return total / looks if looks > 1 else total

    def side_at(self, side: int, scale: float) -> int:
        """The side in pixels at which windows of ``side`` are looked at for ``scale``."""
        return max(1, round(side * scale / self._multiple)) * self._multiple


class Translation:
    """What a translator makes of source windows: the image in the target's look, 0 to 255, and, if it has a depth
    decoder, heights in [0, 1] as its fourth channel; at the windows' own side. ``trained``: its configuration.
    """

    def __init__(self, translator: Translator, trained: Config, device: torch.device):
        self.translator, self.trained, self.device = translator, trained, device
        probe = torch.zeros(1, 3, SIDE_MULTIPLE, SIDE_MULTIPLE, device=device)
        self.has_depth = translator.predict_depth(probe) is not None
        self.channels = 3 + self.has_depth

    def __call__(self, images: Tensor) -> Tensor:
        """Images uint8 (N, side, side, 3) to float32 (N, channels, side, side)."""
        whole = images.permute(0, 3, 1, 2).float() / 127.5 - 1
        image = self.translator.translate(whole).float()
        # What is outside [-1, 1] is clipped, as when shards are translated (released code).
        image = ((image + 1) * 127.5).clamp(0, 255)
        parts = [image if image.shape[-1] == whole.shape[-1] else resized(image, whole.shape[-1])]
        if self.has_depth:
            depth = self.translator.predict_depth(whole)
            assert depth is not None, "it was there at first"
            parts.append(depth.float())
        return torch.cat(parts, 1)
