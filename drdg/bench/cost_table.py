"""Station 7, bench: the cost model as rows for programs and as Markdown for ``slurm/README.md``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

from drdg.bench import cost_inputs as given
from drdg.bench.cost import Iteration, Phase, iteration
from drdg.bench.cost_counts import checkpoint_bytes, count_phases, pair_bytes
from drdg.bench.cost_inputs import Machine
from drdg.config import Config

GOOD, STALL = 0.9, 0.05
MOST_NODES = 1024
NETWORKS = ((8, 400.0), (1, 400.0), (1, 100.0))
"""Cards of a node and Gbit/s of each, for which it is said how far training scales."""


@dataclass(frozen=True)
class Row:
    """One number of nodes with one batch; what each is called in the table is in ``HEADS``."""

    nodes: int
    gpus: int
    pairs: float
    batch: int
    computed_ms: float
    all_reduce_ms: float
    exposed_ms: float
    iteration_ms: float
    pairs_per_s: float
    efficiency: float
    hours: float
    updates: int
    node_tiles_per_s: float
    node_mb_per_s: float


HEADS = (
    "nodes",
    "GPUs",
    "pairs a GPU",
    "`gan.batch_size`",
    "computed, ms",
    "all-reduce, ms",
    "of it not hidden",
    "iteration, ms",
    "pairs/s",
    "efficiency",
    "hours",
    "generator updates",
    "tiles/s a node",
    "MB/s a node",
)


class Costs:
    """The model for one configuration on one kind of machine."""

    def __init__(self, config: Config, machine: Machine):
        self.config, self.machine = config, machine
        self.phases: list[Phase] = count_phases(config)
        self.gradient_bytes = 2 if config.gan.precision == "bfloat16" else 4

    def iteration(self, nodes: int, pairs: float, machine: Machine | None = None) -> Iteration:
        """On so many nodes with so many pairs on each GPU."""
        machine = machine or self.machine
        return iteration(self.phases, machine.gpu(), machine.cluster(nodes), pairs, self.gradient_bytes)

    def alone(self, pairs: float) -> Iteration:
        """On one GPU, which all others are compared with."""
        return iteration(self.phases, self.machine.gpu(), self.machine.alone(), pairs, self.gradient_bytes)

    def row(self, nodes: int, pairs: float, alone_pairs: float) -> Row:
        """A row whose efficiency is that beside one GPU with ``alone_pairs``."""
        one = self.iteration(nodes, pairs)
        epoch_pairs = self.config.gan.epochs * given.EPOCH_PAIRS
        per_node = one.pairs_per_s / nodes
        return Row(
            nodes=nodes,
            gpus=one.cluster.ranks,
            pairs=pairs,
            batch=round(one.global_batch),
            computed_ms=1e3 * one.computed_s,
            all_reduce_ms=1e3 * one.sent_s,
            exposed_ms=1e3 * one.exposed_s,
            iteration_ms=1e3 * one.seconds,
            pairs_per_s=one.pairs_per_s,
            efficiency=one.efficiency(self.alone(alone_pairs)),
            hours=epoch_pairs / one.pairs_per_s / 3600,
            updates=round(epoch_pairs / one.global_batch / self.config.gan.n_critic),
            node_tiles_per_s=2 * per_node,
            node_mb_per_s=per_node * pair_bytes(self.config) / 1e6,
        )

    def weak(self, nodes: Sequence[int], pairs: Sequence[int]) -> list[Row]:
        """As many pairs on each GPU, whatever their number."""
        return [self.row(count, each, each) for each in pairs for count in nodes]

    def strong(self, nodes: Sequence[int], batches: Sequence[int]) -> list[Row]:
        """As many pairs on all GPUs together, where there is at least one for each and none is left over.

        One GPU would take them in parts; it is compared with the largest share that a row has.
        """
        rows = []
        for batch in batches:
            shares = {count: batch // (count * self.machine.gpus) for count in nodes}
            fits = [count for count in nodes if shares[count] and not batch % (count * self.machine.gpus)]
            rows += [self.row(count, shares[count], max(shares[fit] for fit in fits)) for count in fits]
        return rows

    def limit(self, pairs: int, nics: int, nic_gbit: float) -> int:
        """The most GPUs, in powers of two of nodes, that reach ``GOOD`` of one GPU's pairs a second each."""
        machine = Machine(self.machine.gpus, self.machine.tflops, self.machine.launch_us, nics, nic_gbit)
        reached, nodes = 1, 1
        while nodes <= MOST_NODES:
            one = self.iteration(nodes, pairs, machine)
            if one.efficiency(self.alone(pairs)) < GOOD:
                break
            reached = one.cluster.ranks
            nodes *= 2
        return reached

    def checkpoint(self, pairs: int) -> str:
        """What a checkpoint takes, in words, where iterations are shortest, on one node."""
        size = checkpoint_bytes(self.phases) / 1e9
        every, seconds = self.config.gan.checkpoint_every, self.iteration(1, pairs).seconds
        stall, write = size * given.STALL_S_PER_GB, size * given.WRITE_S_PER_GB
        # The next one waits until this one is written.
        waited = stall + max(0.0, write - every * seconds)
        enough = math.ceil(max(stall / STALL, write) / seconds)
        return (
            f"A checkpoint has {size:.2f} GB. Training stands still for {stall:.1f} s while it is copied, and it is "
            f"written after {write:.1f} s (MEASURED). With {pairs} pair{'s' if pairs > 1 else ''} a GPU that is "
            f"{waited / (every * seconds):.1%} of {every} iterations; at most {STALL:.0%} with "
            f"`gan.checkpoint_every={enough}` or more."
        )


def as_rows(rows: Sequence[Row]) -> list[dict[str, float]]:
    """Plain values."""
    return [asdict(row) for row in rows]


def report(costs: Costs, nodes: Sequence[int], pairs: Sequence[int], batches: Sequence[int]) -> str:
    """All of it as Markdown."""
    return "\n".join(
        [
            inputs(costs),
            "",
            "Weak scaling, the same number of pairs on each GPU:",
            "",
            table(costs.weak(nodes, pairs)),
            "",
            "Strong scaling, the same `gan.batch_size`:",
            "",
            table(costs.strong(nodes, batches)),
            "",
            f"GPUs up to which each does at least {GOOD:.0%} of what one alone does:",
            "",
            limits(costs, pairs),
            "",
            costs.checkpoint(min(pairs)),
        ]
    )


def inputs(costs: Costs) -> str:
    """What goes in, in one table."""
    machine = costs.machine
    lines = []
    for phase in costs.phases:
        name = f"{phase.name} phase, every {phase.every}" if phase.every > 1 else f"{phase.name} phase"
        lines += [
            (f"{name}: gradients", f"{phase.weights} x {costs.gradient_bytes} bytes", "COUNTED"),
            (f"{name}: operations for a pair", f"{phase.flop / 1e9:.0f} GFLOP", "COUNTED"),
            (f"{name}: share over which gradients become ready", f"{phase.window:.2f}", "MEASURED"),
            (f"{name}: kernels", f"{phase.kernels}", "ASSUMED"),
        ]
    lines += [
        ("a pair of tiles, image and heights", f"{pair_bytes(costs.config) / 1e6:.2f} MB", "COUNTED"),
        ("arithmetic of a GPU", f"{machine.tflops:g} TFLOP/s", "ASSUMED"),
        ("launch of a kernel", f"{machine.launch_us:g} µs", "ASSUMED"),
        ("NVLink of a GPU, one way", f"{given.NVLINK_GB_S:g} GB/s", "ASSUMED"),
        (
            "network of a node, one way",
            f"{machine.nics} x {machine.nic_gbit:g} Gbit/s, {given.LINE_SHARE:.0%} of it used",
            "ASSUMED",
        ),
        (
            "latency: NVLink, network (ring; tree), start",
            f"{given.NVLINK_US:g}, {given.NIC_US:g}; {given.TREE_NIC_US:g}, {given.BASE_US:g} µs",
            "ASSUMED",
        ),
    ]
    return _markdown(("what", "value", "from"), lines)


def limits(costs: Costs, pairs: Sequence[int]) -> str:
    """How far training scales, by network and by pairs on a GPU."""
    lines = []
    for nics, gbit in NETWORKS:
        found = (costs.limit(each, nics, gbit) for each in pairs)
        lines.append((f"{nics} x {gbit:g} Gbit/s a node", *(_gpus(count, costs.machine.gpus) for count in found)))
    return _markdown(("network", *(f"{each} a GPU" for each in pairs)), lines)


def _gpus(count: int, of_node: int) -> str:
    return f"{count} or more" if count >= MOST_NODES * of_node else f"{count}"


def table(rows: Sequence[Row]) -> str:
    """Rows as Markdown."""
    assert len(HEADS) == len(fields(Row)), "a head for each column"
    return _markdown(HEADS, [_cells(row) for row in rows])


def _cells(row: Row) -> tuple[str, ...]:
    times = (row.computed_ms, row.all_reduce_ms, row.exposed_ms, row.iteration_ms)
    return (
        f"{row.nodes}",
        f"{row.gpus}",
        f"{row.pairs:g}",
        f"{row.batch}",
        *(f"{value:.1f}" for value in times),
        f"{row.pairs_per_s:.0f}",
        f"{row.efficiency:.0%}",
        f"{row.hours:.2g}",
        f"{row.updates}",
        f"{row.node_tiles_per_s:.0f}",
        f"{row.node_mb_per_s:.0f}",
    )


def _markdown(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [tuple(heads), tuple("---" for _ in heads), *(tuple(line) for line in lines)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
