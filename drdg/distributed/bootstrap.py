"""Station 3, ranks: where ranks that mpiexec started meet, as MPI tells them; it has no part in their work."""

from __future__ import annotations

import socket

from drdg.distributed.mpi import join_world
from drdg.distributed.topology import Topology


def meet_by_mpi(rank: int, processes: int) -> Topology:
    """The place of ``rank`` among ``processes``, which must all call this, once.

    The master's name is rank 0's host's own, and loopback where there is no other host. Raises ``ValueError`` when
    there is no MPI, or when each process would be alone in it.
    """
    world = join_world(rank, processes)
    from mpi4py import MPI

    node = world.Split_type(MPI.COMM_TYPE_SHARED)
    local_rank, local_world_size = node.rank, node.size
    node.Free()
    host, port = world.bcast((socket.gethostname(), _free_port()) if world.rank == 0 else None)
    is_one_node = all(world.allgather(local_world_size == processes))
    rank = world.rank
    # At once: at the end of a process it would wait for all others, also for those that wait for this one elsewhere.
    MPI.Finalize()
    return Topology(
        rank=rank,
        world_size=processes,
        local_rank=local_rank,
        local_world_size=local_world_size,
        master_address="127.0.0.1" if is_one_node else host,
        master_port=port,
        launcher="mpiexec",
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
