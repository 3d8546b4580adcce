"""Station 7, bench: what an iteration on many nodes takes, on paper. Pure arithmetic; see ``slurm/README.md``.

Of a phase, the gradients of which come in buckets while the backward goes on, what is not hidden behind the backward is
added to what is computed. All times are in seconds and all amounts in bytes unless a name says otherwise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

# DistributedDataParallel's bucket_cap_mb, in MiB.
BUCKET = 25 * 2**20


@dataclass(frozen=True)
class Phase:
    """One phase of an iteration."""

    name: str
    flop: float
    """Floating-point operations for one pair, forward and backward."""
    weights: int
    """Parameters whose gradients are sent."""
    every: int
    """It runs at each ``every``-th iteration."""
    kernels: int
    """Kernels that a GPU is given, one by one."""
    window: float
    """Share of the phase over which gradients become ready, evenly, up to the end of the backward."""


@dataclass(frozen=True)
class Gpu:
    """What one GPU does."""

    flop_per_s: float
    launch_s: float
    """Time of one kernel's launch, below which no kernel is done."""

    def seconds(self, phase: Phase, pairs: float) -> float:
        """Of one phase on ``pairs``: as long as its arithmetic, and no shorter than its launches."""
        return max(pairs * phase.flop / self.flop_per_s, phase.kernels * self.launch_s)


@dataclass(frozen=True)
class Cluster:
    """Nodes of equal GPUs. Bandwidths are one way, in bytes a second."""

    nodes: int
    gpus: int
    """GPUs of a node."""
    nvlink: float
    """Of one GPU to the others of its node."""
    nics: int
    """Network cards of a node."""
    nic: float
    """Of one card."""
    nvlink_latency: float
    nic_latency: float
    """Of a ring's step over a border."""
    tree_nic_latency: float
    """Of a tree's."""
    base_latency: float
    """Of any collective, before its first step."""

    @property
    def ranks(self) -> int:
        """GPUs in all."""
        return self.nodes * self.gpus

    @property
    def bandwidth(self) -> float:
        """Of a rank's part in a ring: as many rings as cards, each of which crosses every node's border once."""
        return self.nvlink if self.nodes == 1 else min(self.nvlink, self.nics * self.nic)


def ring_s(cluster: Cluster, amount: float) -> float:
    """A ring all-reduce: 2 (N - 1) steps, of which 2 (nodes - 1) cross a border, and 2 (N - 1) / N of the bytes.

    The steps are counted as NCCL's own tuning counts them (``src/graph/tuning.cc``).
    """
    steps, crossing = 2 * (cluster.ranks - 1), 2 * (cluster.nodes - 1)
    latency = (steps - crossing) * cluster.nvlink_latency + crossing * cluster.nic_latency
    return latency + 2 * (cluster.ranks - 1) / cluster.ranks * amount / cluster.bandwidth


def tree_s(cluster: Cluster, amount: float) -> float:
    """A tree all-reduce, up and down: every byte twice, but only log2(nodes) steps over borders each way."""
    steps = 2 * (cluster.gpus - 1) * cluster.nvlink_latency
    crossing = 2 * math.ceil(math.log2(cluster.nodes)) * cluster.tree_nic_latency
    return steps + crossing + 2 * amount / cluster.bandwidth


def all_reduce_s(cluster: Cluster, amount: float) -> float:
    """The faster of the two, as NCCL chooses; nothing for a rank alone."""
    if cluster.ranks == 1:
        return 0.0
    return cluster.base_latency + min(ring_s(cluster, amount), tree_s(cluster, amount))


def buckets_of(amount: float) -> list[float]:
    """An amount of gradients as DDP's buckets, the last of which may be smaller."""
    whole, rest = divmod(amount, BUCKET)
    return [float(BUCKET)] * int(whole) + ([rest] if rest else [])


def exposed_s(cluster: Cluster, phase_s: float, window: float, amount: float) -> float:
    """What of a phase's all-reduces is left when its backward ends, their buckets being ready evenly in the window.

    The buckets are sent one after the other, each no sooner than it is ready.
    """
    begin, sent, done = (1 - window) * phase_s, 0.0, 0.0
    for bucket in buckets_of(amount):
        sent += bucket
        ready = begin + sent / amount * window * phase_s
        done = max(done, ready) + all_reduce_s(cluster, bucket)
    return max(0.0, done - phase_s)


@dataclass(frozen=True)
class Iteration:
    """One iteration, on average over the clock of its phases."""

    cluster: Cluster
    pairs: float
    """On each GPU."""
    computed_s: float
    sent_s: float
    """All-reduces, hidden or not."""
    exposed_s: float

    @property
    def seconds(self) -> float:
        """Until the next iteration begins."""
        return self.computed_s + self.exposed_s

    @property
    def global_batch(self) -> float:
        """Pairs of all GPUs, ``gan.batch_size``."""
        return self.pairs * self.cluster.ranks

    @property
    def pairs_per_s(self) -> float:
        """Of all GPUs."""
        return self.global_batch / self.seconds

    def efficiency(self, alone: Iteration) -> float:
        """Pairs a second of each GPU beside those of one GPU that is ``alone``."""
        return self.pairs_per_s / self.cluster.ranks / (alone.pairs_per_s / alone.cluster.ranks)


def iteration(phases: list[Phase], gpu: Gpu, cluster: Cluster, pairs: float, gradient_bytes: int) -> Iteration:
    """The mean iteration of ``pairs`` on each GPU, whose gradients have ``gradient_bytes`` each."""
    computed = sent = exposed = 0.0
    for phase in phases:
        seconds, amount = gpu.seconds(phase, pairs), phase.weights * gradient_bytes
        computed += seconds / phase.every
        sent += sum(all_reduce_s(cluster, bucket) for bucket in buckets_of(amount)) / phase.every
        if cluster.ranks > 1:
            exposed += exposed_s(cluster, seconds, phase.window, amount) / phase.every
    return Iteration(cluster, pairs, computed, sent, exposed)
