"""Station 2, order: which sample stands at which place, a pure function of a key, the same on every rank and worker.

The raw words of Philox are promised never to change between NumPy versions, unlike ``Generator.permutation``; so a
shard built or a run begun with one version goes on with another.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.random import Philox


def permutation(length: int, *key: str | int) -> np.ndarray:
    """The numbers 0 to ``length - 1``, int64, in an order that only ``key`` decides."""
    return np.argsort(_words(length, key), kind="stable")


def draw(length: int, *key: str | int) -> int:
    """One of the numbers 0 to ``length - 1``, uniform over keys."""
    return int(_words(1, key)[0] % np.uint64(length))


def uniforms(count: int, *key: str | int) -> np.ndarray:
    """``count`` float64 numbers, uniform in [0, 1) over keys."""
    return (_words(count, key) >> np.uint64(11)) * 2.0**-53  # the 53 bits that a float64 holds


def _words(count: int, key: tuple[str | int, ...]) -> np.ndarray:
    plain = tuple(part if isinstance(part, str) else int(part) for part in key)  # a NumPy integer prints otherwise
    name = hashlib.blake2b(repr(plain).encode(), digest_size=16).digest()  # Philox takes a key of 128 bits
    return np.asarray(Philox(key=int.from_bytes(name, "little")).random_raw(count), dtype=np.uint64)
