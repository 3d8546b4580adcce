"""What is counted of collectives and of the kernel, on calls and connections whose bytes are known."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from drdg.bench.scaling_sent import Collective, Collectives, Owned, bytes_sent_by_tcp, gathered, reduced, ring_bytes


@pytest.fixture
def group() -> Iterator[None]:
    """A process group of this process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("group")
def test_collectives_are_seen_by_name_bytes_and_type() -> None:
    with Collectives() as collectives:
        torch.ones(7) * 2  # no collective
        dist.all_reduce(torch.ones(3, dtype=torch.float64))
        dist.all_reduce(torch.ones(5))
        dist.all_gather([torch.empty(2)], torch.ones(2))
        dist.all_gather_into_tensor(torch.empty(4), torch.ones(4))
        dist.broadcast(torch.ones(6), 0)
    assert [(one.name, one.bytes, one.dtype) for one in collectives.seen] == [
        ("allreduce_", 24, torch.float64),
        ("allreduce_", 20, torch.float32),
        ("allgather_", 8, torch.float32),
        ("_allgather_base_", 16, torch.float32),
        ("broadcast_", 24, torch.float32),
    ]
    assert reduced(collectives.seen, torch.float32) == 20 + 24
    assert gathered(collectives.seen, torch.float32) == 8 + 16
    assert reduced(collectives.seen, torch.float64) == 24
    dist.all_reduce(torch.ones(9))
    assert len(collectives.seen) == 5  # not after the block


@pytest.mark.usefixtures("group")
def test_what_ddp_sends_from_its_own_code_is_seen() -> None:
    network = torch.nn.Linear(10, 4)
    wrapped = DistributedDataParallel(network)
    with Collectives() as collectives:
        wrapped(torch.ones(1, 10)).sum().backward()
    assert reduced(collectives.seen, torch.float32) == 44 * 4


def test_weights_of_another_type_are_no_gradients() -> None:
    seen = [Collective("allreduce_", 400, torch.float32), Collective("allreduce_", 8, torch.int32)]
    assert reduced(seen, torch.float32) == 400


@pytest.mark.parametrize(
    ("weights", "ranks", "piece"),
    [
        (8, 2, 4 * 4),
        (9, 2, 6 * 4),  # up to 12
        (9, 4, 4 * 4),  # up to 16
        (1, 2, 2 * 4),  # up to 4
    ],
)
def test_an_equal_piece_of_a_buffer_that_is_filled_up(weights: int, ranks: int, piece: int) -> None:
    own = Owned(weights, 4, every=1)
    assert own.gradients() == 4 * weights
    assert own.piece(ranks) == piece


@pytest.mark.parametrize(("every", "iterations", "updates"), [(1, 5, 5), (5, 5, 1), (5, 6, 2), (5, 1, 1)])
def test_a_phase_is_updated_at_the_multiples_of_its_clock(every: int, iterations: int, updates: int) -> None:
    assert Owned(1, 4, every).updates(iterations) == updates


@pytest.mark.parametrize(("ranks", "sent"), [(1, 0), (2, 100 + 10), (4, 150 + 30)])
def test_a_ring(ranks: int, sent: float) -> None:
    assert ring_bytes(100, 10, ranks) == sent


def test_the_kernel_counts_what_a_connection_sends() -> None:
    size = 300_000
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as near:
        far, _ = server.accept()
        with far:
            before = bytes_sent_by_tcp()
            taker = threading.Thread(target=lambda: far.recv(size, socket.MSG_WAITALL))
            taker.start()
            near.sendall(bytes(size))
            taker.join()
            far.sendall(bytes(7))
            near.recv(7, socket.MSG_WAITALL)
            assert bytes_sent_by_tcp() - before == size + 7
            near.sendall(b"still open")
            assert far.recv(10, socket.MSG_WAITALL) == b"still open"
