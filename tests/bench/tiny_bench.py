"""A bench so small that a test can run it."""

from __future__ import annotations

from drdg.bench.sizes import Sizes

TINY = Sizes(side=320, tile=128, stride=64, tops=3, batch=2, passes=2)
