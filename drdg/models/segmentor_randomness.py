"""Station 3, networks: a segmentor's dropout and stochastic depth as functions of the samples.

Segmentors come from libraries, whose random layers draw from torch's global generator: what a sample gets depends on
the samples before it, and so on how ranks share a batch. Here those layers are replaced, after the network is built, by
ones that ask ``keyed.py``.

Most of what the libraries have are layers (in segmentation-models-pytorch 0.5 and 0.6: dropout in the decoders of
DeepLabV3, DeepLabV3Plus, FPN, PSPNet and DPT, timm's DropPath in its ``mit_`` and ``timm-`` encoders). Its EfficientNet
encoders call a function instead, between a block and its skip connection; there the blocks are made to leave both out,
and a hook adds them again. What else a timm model may draw, :func:`refuse_other_randomness` finds by watching.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from drdg.models.keyed import derive, keep_mask

WHOLE_CHANNELS = (nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


class KeyedDropout(nn.Module):
    """Dropout, of elements or of more, whose mask in training mode is a function of the samples' keys.

    ``p``: the rate, by the name that torch gives it. ``number``: which of the network's layers this is. ``spans``: how
    many dimensions of the input (N, ...) after the first have masks of their own: all (None), the channels (1) or none
    (0), which is stochastic depth. ``scale``: whether what is kept is divided by 1 - ``p``. Calls after the keys were
    set, of a layer that is used more than once, get masks of their own.
    """

    def __init__(self, p: float, number: int, spans: int | None = None, scale: bool = True):
        super().__init__()
        self.p, self.number, self.spans, self.scale = p, number, spans, scale
        self.keys: Tensor | None = None
        self.calls = 0

    def seed(self, keys: Tensor) -> None:
        """Take the keys (N,) int32 of the samples that come next."""
        self.keys, self.calls = keys, 0

    def forward(self, x: Tensor) -> Tensor:
        """``x`` (N, ...) with a share of it zeroed; ``x`` itself in evaluation mode."""
        if not self.training:
            return x
        assert self.keys is not None, "seed_randomness was not called"
        assert len(self.keys) == len(x), f"{len(self.keys)} keys for a batch of {len(x)}"
        if self.p >= 1:
            return x * 0
        keys = derive(derive(self.keys, self.number), self.calls)
        self.calls += 1
        own = x.dim() - 1 if self.spans is None else self.spans
        shape = (*x.shape[1 : 1 + own], *[1] * (x.dim() - 1 - own))
        mask = keep_mask(keys, shape, self.p).to(x.dtype)
        return x * (mask / (1 - self.p) if self.scale else mask)

    def extra_repr(self) -> str:
        """What is printed of it."""
        return f"p={self.p}, number={self.number}, spans={self.spans}"


def make_keyed(network: nn.Module) -> nn.Module:
    """``network`` with its random layers replaced, in place, by ones that :func:`seed_randomness` governs.

    The names in its state dict stay. Layers with rate 0 are left as they are. Raises ``ValueError`` for a random layer
    of torch's that is not known here.
    """
    numbers = itertools.count()
    keyed: dict[nn.Module, nn.Module] = {}  # a layer that occurs twice stays one
    for parent in list(network.modules()):
        _key_blocks(parent, numbers)
        for name, child in list(parent.named_children()):
            if child not in keyed:
                keyed[child] = _counterpart(child, numbers).train(child.training)
            if keyed[child] is not child:
                setattr(parent, name, keyed[child])
    return network


def seed_randomness(network: nn.Module, keys: Tensor) -> None:
    """Set the ``keys`` (N,) int32 of the samples of ``network``'s next forward; see ``keyed.sample_keys``.

    A network without random layers takes no notice.
    """
    for module in network.modules():
        if isinstance(module, KeyedDropout):
            module.seed(keys)


def refuse_other_randomness(network: nn.Module, side: int) -> None:
    """Raise ``ValueError`` when a forward in training mode draws from torch's global generator all the same.

    It is tried on a copy of ``network`` on the CPU, with two black images of ``side`` pixels.
    """
    tried = copy.deepcopy(network).cpu().train()
    seed_randomness(tried, torch.zeros(2, dtype=torch.int32))
    dtype = next(tried.parameters()).dtype
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        before = torch.get_rng_state()
        tried(torch.zeros(2, 3, side, side, dtype=dtype))
        drew = not torch.equal(torch.get_rng_state(), before)
    if drew:
        raise ValueError(
            "segmentation.encoder draws random numbers in a way that cannot be made a function of the sample, so its "
            "result would depend on the number of ranks; take another encoder, such as resnet34"
        )


def _counterpart(module: nn.Module, numbers: Iterator[int]) -> nn.Module:
    """What takes the place of a layer: itself, when it is not random."""
    layer: Any = module
    if isinstance(module, nn.modules.dropout._DropoutNd) and module.p:
        if isinstance(module, nn.Dropout):
            return KeyedDropout(module.p, next(numbers))
        if isinstance(module, WHOLE_CHANNELS):
            return KeyedDropout(module.p, next(numbers), spans=1)
        raise ValueError(
            f"segmentation.encoder has random layers of class {type(module).__name__}, which cannot be made a function "
            "of the sample; take another encoder, such as resnet34"
        )
    if type(module).__name__ == "DropPath" and layer.drop_prob:  # timm's, by name, because timm is slow to load
        return KeyedDropout(layer.drop_prob, next(numbers), spans=0, scale=layer.scale_by_keep)
    return module


def _key_blocks(encoder: Any, numbers: Iterator[int]) -> None:
    """Make layers of the stochastic depth of the library's own EfficientNets; nothing for any other module."""
    rate = getattr(encoder, "_drop_connect_rate", 0)
    if not rate:
        return
    for place, block in enumerate(encoder._blocks):
        p = rate * place / len(encoder._blocks)
        if p and block._has_drop_connect:
            block._has_drop_connect = False
            block.stochastic_depth = KeyedDropout(p, next(numbers), spans=0).train(block.training)
            block.register_forward_hook(_skip_connection)


def _skip_connection(block: Any, args: tuple[Any, ...], output: Tensor) -> Tensor:
    added: Tensor = block.stochastic_depth(output) + args[0]
    return added
