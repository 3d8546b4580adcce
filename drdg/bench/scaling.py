"""Station 7, bench: what a second rank, DeepSpeed, the gradients' way and a checkpoint cost, on two cores.

Two ranks stay alive and train small networks whenever it is their turn, each on a core of its own with one thread. What
is measured is the training loop itself, over shards, with all that it does besides.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from drdg.bench.machine import describe
from drdg.bench.result import Comparison, dearer, equal, faster, more, share_of_many
from drdg.bench.scaling_ranks import Place, Ranks
from drdg.bench.scaling_sent import Owned, ring_bytes
from drdg.bench.scaling_sizes import PARTS, RANKS, ScalingSizes
from drdg.bench.sheets import domain_of, link_sheet, town, write_sheets
from drdg.bench.timing import Measure, Runs, interleave, say
from drdg.config import Config, DomainConfig
from drdg.shards.build import build_shards
from drdg.shards.crew import Alone

GOAL_WEAK, GOAL_DEEPSPEED, GOAL_STALL = 0.9, 1.15, 0.05
ZERO = ("zero0", "zero1", "zero2")
SIDES = {"weak": ("alone", "ddp"), "deepspeed": ("ddp", *ZERO), "bytes": ("ddp", *ZERO), "overlap": ("alone",)}
NAMES = {"ddp": "DDP", "zero0": "DeepSpeed ZeRO 0", "zero1": "DeepSpeed ZeRO 1", "zero2": "DeepSpeed ZeRO 2"}
# Never within a run; checkpoints are asked for.
NEVER = 10**9


def measure_scaling(
    config: Config, sizes: ScalingSizes, repeats: int, parts: Sequence[str], *, root: Path | None
) -> list[Comparison]:
    """Measure the ``parts`` with the configuration's losses and clock, and networks and tiles of ``sizes``.

    ``root``: where to work, a temporary folder by default; all that is written there is removed in the end. Raises
    ``ValueError`` with one sentence when something that is measured cannot be had.
    """
    say(describe())
    if root is not None:
        root.mkdir(parents=True, exist_ok=True)
    sides = dict.fromkeys(side for part in parts for side in SIDES.get(part, ("ddp", "own")))
    with tempfile.TemporaryDirectory(prefix="drdg-bench-", dir=root) as folder:
        place = prepare(config, sizes, tuple(sides), Path(folder).resolve())
        say(f"{RANKS} ranks for {', '.join(sides)}")
        with Ranks(place) as ranks:
            return Bench(config, sizes, repeats, ranks).measure(parts)


def prepare(config: Config, sizes: ScalingSizes, sides: tuple[str, ...], folder: Path) -> Place:
    """Build shards of two sheets, and the configuration of everything that is measured on them."""
    write_sheets(folder / "all", 2, sizes.side, [town(sizes.side)])
    domains, shards = [], []
    for number, tile in enumerate((sizes.source_tile, sizes.target_tile)):
        link_sheet(folder / "all", number, folder / f"sheet{number}")
        domains.append(domain_of(folder / f"sheet{number}", tile, tile))
        shards.append(_shards(config, domains[-1], folder / f"shards{number}"))
    small = config.model_copy(
        update={
            "source": domains[0],
            "target": domains[1],
            "generator": config.generator.model_copy(update={"width": sizes.width}),
            "critic": config.critic.model_copy(update={"width": sizes.width}),
            "gan": config.gan.model_copy(
                update={"checkpoint_every": NEVER, "micro_batch": None, "precision": "float32"}
            ),
            "distributed": config.distributed.model_copy(update={"device": "cpu", "threads": 1}),
        }
    )
    return Place(small, (shards[0], shards[1]), folder / "runs", sides)


def _shards(config: Config, domain: DomainConfig, root: Path) -> Path:
    here = config.shards.model_copy(update={"root": root, "codec": "raw"})
    return build_shards(domain, here, need_label=False, crew=Alone(quiet=True))


class Bench:
    """The parts, one method each, and the runs that several of them share."""

    def __init__(self, config: Config, sizes: ScalingSizes, repeats: int, ranks: Ranks):
        self.config, self.sizes, self.repeats, self.ranks = config, sizes, repeats, ranks
        self.iterations = sizes.clocks * config.gan.n_critic

    def measure(self, parts: Sequence[str]) -> list[Comparison]:
        """The comparisons of ``parts``, in the order of ``PARTS``."""
        measures: dict[str, Measure] = {}
        if "weak" in parts:
            measures |= {"1 rank": self._alone(1), f"{RANKS} ranks apart": self._alone(RANKS)}
        for side in ("ddp", *(ZERO if "deepspeed" in parts else ())):
            if {"weak", "deepspeed", "checkpoint"} & {*parts}:
                measures[side] = self._together(side)
        say(f"time: {self.iterations} iterations of a pair for each rank in a run")
        runs = interleave(measures, self.repeats) if measures else {}
        how: dict[str, Callable[[], list[Comparison]]] = {
            "weak": lambda: self.weak(runs),
            "deepspeed": lambda: self.deepspeed(runs),
            "bytes": self.bytes,
            "overlap": self.overlap,
            "checkpoint": lambda: self.checkpoint(runs["ddp"]),
        }
        return [comparison for part in PARTS if part in parts for comparison in how[part]()]

    def _together(self, side: str) -> Measure:
        return lambda: max(self.ranks.ask("train", side, self.iterations))

    def _alone(self, count: int) -> Measure:
        return lambda: max(self.ranks.ask("train", "alone", self.iterations, of=range(count)))

    def weak(self, runs: dict[str, Runs]) -> list[Comparison]:
        """Pairs a second of two ranks beside one.

        One rank has the machine to itself: the other core is idle, and the memory's bandwidth, the last cache and any
        clock rate that a processor has to spare are all the one's. So the share counts what two cores take from
        each other, as well as what the ranks spend on each other. The second line is the latter alone: its peer is
        two ranks that work at the same time and know nothing of each other.
        """
        one, apart = runs["1 rank"].rates(self.iterations), runs[f"{RANKS} ranks apart"].rates(RANKS * self.iterations)
        together = runs["ddp"].rates(RANKS * self.iterations)
        what = f"weak scaling: pairs of {RANKS} ranks by DDP, a core each"
        return [
            share_of_many(
                f"{what}, beside 1 that has the machine to itself", together, one, RANKS, "pairs/s", GOAL_WEAK
            ),
            more(f"{what}, beside {RANKS} that know nothing of each other", together, apart, "pairs/s"),
        ]

    def deepspeed(self, runs: dict[str, Runs]) -> list[Comparison]:
        """Seconds of an iteration by DeepSpeed beside DDP; a mean over the clock of critics and generators."""
        seconds = {side: Runs(tuple(value / self.iterations for value in runs[side].values)) for side in ("ddp", *ZERO)}
        return [
            dearer(f"iteration by {NAMES[side]} beside DDP", seconds[side], seconds["ddp"], "s", GOAL_DEEPSPEED)
            for side in ZERO
        ]

    def bytes(self) -> list[Comparison]:
        """What each backend sends in an iteration, counted, beside what it has to."""
        say("bytes: what is given to collectives, and what the kernel sends")
        found = []
        for side in ("ddp", *ZERO):
            owned: dict[str, Owned] = self.ranks.ask("owned", side, of=(0,))[0]
            found += self._sent(side, owned, self.ranks.ask("sent", side, self.iterations))
        return found

    def _sent(self, side: str, owned: dict[str, Owned], ranks: list[dict[str, Any]]) -> list[Comparison]:
        each = f"bytes of a rank in an iteration by {NAMES[side]}"
        unit, count = "bytes", self.iterations
        updates = {phase: own.updates(count) for phase, own in owned.items()}
        gradients = sum(updates[phase] * own.gradients() for phase, own in owned.items())
        weights = sum(updates[phase] * own.piece(RANKS) for phase, own in owned.items()) if side in ZERO[1:] else 0
        everything = sum(own.gradients() for own in owned.values())
        strange = sum(updates[phase] * (everything - own.gradients()) for phase, own in owned.items())
        # The rank that is farthest from what it should be.
        counted = max((sum(rank["gradients"].values()) for rank in ranks), key=lambda sent: abs(sent - gradients))
        computed = max(rank["frozen"] for rank in ranks)
        found = [
            equal(
                f"{each}: gradients given to collectives, beside those there are",
                counted / count,
                gradients / count,
                unit,
            ),
        ]
        if weights:
            handed = max((sum(rank["weights"].values()) for rank in ranks), key=lambda sent: abs(sent - weights))
            found.append(
                equal(f"{each}: weights handed round, beside an equal piece", handed / count, weights / count, unit)
            )
        surplus = max(0, counted - gradients)
        found.append(
            dearer(
                f"{each}: gradients of frozen networks, computed or sent, beside all of theirs",
                Runs(((computed + surplus) / count,)),
                Runs((strange / count,)),
                unit,
                0.0,
            )
        )
        if side == "ddp":
            wire = Runs(tuple(rank["wire"] / count for rank in ranks))
            ring = Runs((ring_bytes(gradients, weights, RANKS) / count,))
            found.append(dearer(f"{each}: all that the kernel sent, beside a ring's 2 (N - 1) / N", wire, ring, unit))
        return found

    def overlap(self) -> list[Comparison]:
        """How much of a phase is left to send gradients in while others are still computed."""
        say("overlap: when gradients are ready")
        spans = self.ranks.ask("overlap", "alone", self.iterations, of=(0,))[0]
        return [
            dearer(
                f"seconds over which the {phase}s' gradients become ready, beside their whole phase",
                Runs((window,)),
                Runs((whole,)),
                "s",
            )
            for phase, (window, whole) in spans.items()
        ]

    def checkpoint(self, iteration_runs: Runs) -> list[Comparison]:
        """For how long training stands still for a checkpoint.

        The peer of a synchronous write is the same checkpoint until it is whole on the disk, as long as a loop that
        waits for it would stand still.
        """
        every = self.config.gan.checkpoint_every
        interval = Runs(tuple(value / self.iterations * every for value in iteration_runs.values))
        small = interleave_pairs(lambda: self._save("ddp", range(RANKS)), self.repeats, "checkpoint")
        width = self.sizes.own_width or self.config.generator.width
        weights = self.ranks.ask("make_own", width, of=(0,))[0]
        large = interleave_pairs(lambda: self._save("own", (0,)), self.sizes.checkpoints, "own networks")
        own = f"checkpoint of the configuration's own networks ({weights / 1e6:.1f} million weights)"
        return [
            dearer(f"standstill of a checkpoint, beside {every} iterations", small[0], interval, "s", GOAL_STALL),
            faster("standstill of that checkpoint, beside a synchronous write", small[0], small[1]),
            faster(f"standstill of a {own}, beside a synchronous write", large[0], large[1]),
        ]

    def _save(self, side: str, of: Sequence[int]) -> tuple[float, float]:
        self.ranks.ask("go_on", side, of=of)
        blocked, whole = zip(*self.ranks.ask("checkpoint", side, of=of), strict=True)
        return max(blocked), max(whole)


def interleave_pairs(measure: Callable[[], tuple[float, float]], repeats: int, name: str) -> tuple[Runs, Runs]:
    """Run ``measure`` once to warm up and then ``repeats`` times; what it gives first, and what second."""
    measure()
    pairs = []
    for turn in range(repeats):
        pairs.append(measure())
        say(f"  run {turn + 1} of {repeats}: {name}: {pairs[-1][0]:.4g} of {pairs[-1][1]:.4g}")
    first, second = zip(*pairs, strict=True)
    return Runs(first), Runs(second)
