"""Station 5, maps: which rank computes which pieces. It changes who works, and no byte of what is written."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from drdg.maps.windows import Piece

SHARES_EACH = 4
"""Shares that a rank gets, so that none has all of the empty land, where there is much to share out ..."""
SHORTEST = 8
"""... but none of fewer bands in a row: at its upper edge each share computes a row of windows that another has too."""


def share(pieces: Sequence[Piece], rank: int, world_size: int) -> list[Piece]:
    """The pieces of ``rank``, in order. They depend on no other rank's progress, so nobody has to be asked."""
    even = -(-len(pieces) // world_size)
    length = max(-(-len(pieces) // (SHARES_EACH * world_size)), min(SHORTEST, even), 1)
    return [piece for place, piece in enumerate(pieces) if place // length % world_size == rank]


def runs(pieces: Sequence[Piece], is_finished: Callable[[Piece], bool]) -> list[list[Piece]]:
    """What is left of ``pieces``, in runs that follow each other down a strip."""
    found: list[list[Piece]] = []
    for piece in pieces:
        if is_finished(piece):
            continue
        last = found[-1][-1] if found else None
        if last is not None and last.strip == piece.strip and last.band + 1 == piece.band:
            found[-1].append(piece)
        else:
            found.append([piece])
    return found
