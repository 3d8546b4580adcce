"""Station 3, networks: randomness that is a function of the sample, so that it does not depend on ranks or resumption.

A sample's key is an integer tensor element; every random number drawn for that sample is a hash of its key and a
counter. The hash is the 32-bit finaliser "lowbias32" (C. Wellons, "Prospecting for Hash Functions", 2018), applied once
to the counter and once more to the result mixed with the key. It runs on any device without a host synchronisation.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# lowbias32's two multipliers and the golden-ratio step 2**32 / phi that spreads successive counters, as signed 32-bit.
MULTIPLIERS = (0x7FEB352D, 0x846CA68B - 2**32)
GOLDEN_STEP = 0x9E3779B9 - 2**32
FRACTION_BITS = 24  # of a float32's significand


def sample_keys(seed: int, position: Tensor, tag: int) -> Tensor:
    """Keys (N,) int32 of the samples at ``position`` (N,) int64 of the stream, for the use named by ``tag``."""
    low = position.to(torch.int32)
    high = (position >> 31).to(torch.int32)
    keys = _hash(low * GOLDEN_STEP + _int32(seed))
    return derive(derive(keys ^ high, _int32(seed >> 31)), tag)


def derive(keys: Tensor, tag: int) -> Tensor:
    """Other keys (N,) int32, one for each of ``keys``, for the use named by ``tag``."""
    return _hash(_hash(keys + GOLDEN_STEP) ^ _int32(tag * GOLDEN_STEP))


def uniform(keys: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Numbers (N, *shape) in [0, 1), for each sample a function of its key alone."""
    return _bits(keys, shape).to(dtype) / 2**FRACTION_BITS


def keep_mask(keys: Tensor, shape: Sequence[int], rate: float) -> Tensor:
    """Booleans (N, *shape), true with probability 1 - ``rate``, for each sample a function of its key alone."""
    return _bits(keys, shape) >= round(rate * 2**FRACTION_BITS)


def dropout(x: Tensor, rate: float, keys: Tensor) -> Tensor:
    """Zero a share ``rate`` of ``x`` (N, ...) and scale the rest by 1/(1 - rate), by the samples' ``keys`` (N,)."""
    return x * keep_mask(keys, x.shape[1:], rate).to(x.dtype) / (1 - rate)


def _bits(keys: Tensor, shape: Sequence[int]) -> Tensor:
    count = 1
    for side in shape:
        count *= side
    counter = torch.arange(count, dtype=torch.int32, device=keys.device) * GOLDEN_STEP
    mixed = _hash(_hash(counter[None, :] + keys[:, None]) ^ derive(keys, 1)[:, None])
    return _shift(mixed, 32 - FRACTION_BITS).view(len(keys), *shape)


def _hash(x: Tensor) -> Tensor:
    x = x ^ _shift(x, 16)
    x = x * MULTIPLIERS[0]
    x = x ^ _shift(x, 15)
    x = x * MULTIPLIERS[1]
    return x ^ _shift(x, 16)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift; torch's own keeps the sign."""
    return (x >> bits) & ((1 << (32 - bits)) - 1)


def _int32(value: int) -> int:
    """The low 32 bits of a Python integer as a signed one."""
    value &= 0xFFFFFFFF
    return value - 2**32 if value >= 2**31 else value
