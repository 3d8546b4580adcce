"""Station 7, bench: what ``scaling`` measures, and how much of it. Imports nothing that takes long."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

PARTS = ("weak", "deepspeed", "bytes", "overlap", "checkpoint")
"""Parts of the subject ``scaling``."""
RANKS = 2


@dataclass(frozen=True)
class ScalingSizes:
    """What two ranks of one core each can train while somebody waits.

    Weights and arithmetic both grow with the square of the networks' width, so these have as much to send for what they
    compute as the paper's have on the same tiles; but on the paper's tiles, of three times the pixels, there is a third
    as much to send. Narrower networks on larger tiles would be bound by memory, which cores share, and not by
    arithmetic as the paper's are.
    """

    width: int = 16
    """Channels of the generators' and the critics' first level. Paper: 64."""
    source_tile: int = 512
    """Side of a source tile in pixels. Paper: 896."""
    target_tile: int = 256
    """Side of a target tile in pixels. Paper: 512."""
    clocks: int = 1
    """How often the generators are updated in one run: a run has ``clocks * gan.n_critic`` iterations."""
    checkpoints: int = 3
    """Checkpoints of the configuration's own networks, which are far larger."""
    own_width: int | None = None
    """Width of these, for tests; None for the configuration's."""

    @property
    def side(self) -> int:
        """Side of the sheets that are cut into tiles."""
        return 2 * self.source_tile


FULL = ScalingSizes()
# To see that everything works: a phase is over before a message has gone to and fro.
QUICK = ScalingSizes(width=4, source_tile=256, target_tile=128, checkpoints=1, own_width=8)


def describe(sizes: ScalingSizes, repeats: int, parts: Sequence[str], where: str) -> str:
    """What would be measured, in words."""
    return (
        f"scaling: {', '.join(part for part in PARTS if part in parts)}; {repeats} interleaved runs of each side; "
        f"{RANKS} ranks of one core each; networks of width {sizes.width}, tiles of {sizes.source_tile} and "
        f"{sizes.target_tile}; in {where}"
    )
