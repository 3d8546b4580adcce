"""Station 7, bench: the numbers that the cost model goes by, each with where it comes from.

COUNTED: by ``cost_counts.py``, from the configuration's own networks, each time. MEASURED: by this project, on two
cores without a GPU. ASSUMED: by nobody here; measure yours and say it to ``launch/bench.py cost``.
"""

from __future__ import annotations

from dataclasses import dataclass

from drdg.bench.cost import Cluster, Gpu

# ASSUMED, of an H100 or H200 in float32 without TF32, which training computes in: 45 % of the 67 TFLOP/s of NVIDIA's
# data sheet.
TFLOPS = 30.0
# ASSUMED: what one eager PyTorch operation takes the host, autograd included.
LAUNCH_US = 10.0
# ASSUMED: kernels of a phase, about.
KERNELS = {"critic": 1000, "generator": 2000}

# ASSUMED: 18 NVLinks of 20.6 GB/s, as NCCL itself counts them for these GPUs (SM90_NVLINK_BW in src/graph/topo.h).
NVLINK_GB_S = 370.0
# ASSUMED: a card for each GPU, NDR InfiniBand of 400 Gbit/s. Of a line rate NCCL counts 0.92 for its protocol LL128.
NICS, NIC_GBIT_S, LINE_SHARE = 8, 400.0, 0.92
# ASSUMED: NCCL's own table for the protocol LL128 (hwLat and baseLat in src/graph/tuning.cc), in microseconds.
NVLINK_US, NIC_US, TREE_NIC_US, BASE_US = 1.9, 4.0, 8.5, 14.0

# MEASURED by `launch/bench.py scaling --only overlap`: the share of a phase over which its gradients become ready.
WINDOWS = {"critic": 0.22, "generator": 0.26}
# MEASURED by `launch/bench.py data`: tiles of 896 px, image and heights, that one core makes batches of in a second.
TILES_PER_CORE = 1148.0
# MEASURED by `launch/bench.py scaling --only checkpoint`, own networks: seconds for each GB of a checkpoint for which
# training stands still, and until it is whole on a local disk.
STALL_S_PER_GB, WRITE_S_PER_GB = 0.48, 3.8

# The field's tiles of Vaihingen, the larger domain (configs/potsdam_irrg_to_vaihingen.yaml): pairs in an epoch.
EPOCH_PAIRS = 1696


@dataclass(frozen=True)
class Machine:
    """What may be said on the command line."""

    gpus: int = 8
    tflops: float = TFLOPS
    launch_us: float = LAUNCH_US
    nics: int = NICS
    nic_gbit: float = NIC_GBIT_S

    def gpu(self) -> Gpu:
        """One GPU."""
        return Gpu(self.tflops * 1e12, self.launch_us * 1e-6)

    def cluster(self, nodes: int) -> Cluster:
        """So many nodes."""
        return Cluster(
            nodes=nodes,
            gpus=self.gpus,
            nvlink=NVLINK_GB_S * 1e9,
            nics=self.nics,
            nic=self.nic_gbit / 8 * 1e9 * LINE_SHARE,
            nvlink_latency=NVLINK_US * 1e-6,
            nic_latency=NIC_US * 1e-6,
            tree_nic_latency=TREE_NIC_US * 1e-6,
            base_latency=BASE_US * 1e-6,
        )

    def alone(self) -> Cluster:
        """One GPU of it."""
        return Machine(1, self.tflops, self.launch_us, self.nics, self.nic_gbit).cluster(1)
