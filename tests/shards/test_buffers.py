from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from drdg.shards.buffers import Buffers
from drdg.shards.threads import in_order

# What somebody may keep of a tensor.
HOLDS: dict[str, Callable[[torch.Tensor], Any]] = {
    "itself": lambda tensor: tensor,
    "a slice": lambda tensor: tensor[1:],
    "a row": lambda tensor: tensor[2],
    "another shape": lambda tensor: tensor.permute(1, 0),
    "another dtype": lambda tensor: tensor.view(torch.int8),
    "detached": lambda tensor: tensor.detach(),
    "an array": lambda tensor: tensor.numpy(),
    "a slice of an array": lambda tensor: tensor.numpy()[1:, ::2],
    "its storage": lambda tensor: tensor.untyped_storage(),
    "a dictionary": lambda tensor: {"x": [tensor]},
}


def bytes_of(held: Any) -> bytes:
    if isinstance(held, dict):
        held = held["x"][0]
    if isinstance(held, torch.UntypedStorage):
        return bytes(held.tolist())
    return (held.contiguous().numpy() if isinstance(held, torch.Tensor) else held).tobytes()


@given(
    steps=st.lists(
        st.tuples(st.sampled_from([None, *HOLDS]), st.sampled_from([(4, 6), (3, 8)]), st.integers(0, 5)), max_size=60
    ),
    spare=st.integers(0, 3),
)
@settings(max_examples=200)
def test_what_is_kept_is_never_overwritten(steps: list[tuple[str | None, tuple[int, int], int]], spare: int) -> None:
    buffers = Buffers(spare=spare, pinned=False)
    kept: list[tuple[Any, bytes]] = []
    for number, (hold, shape, forget) in enumerate(steps):
        tensor = buffers.take(shape, torch.uint8)
        assert tensor.shape == shape
        assert tensor.is_contiguous()
        tensor.fill_(number)
        if hold is not None:
            held = HOLDS[hold](tensor)
            kept.append((held, bytes_of(held)))
        del tensor
        if forget < len(kept):
            del kept[forget]
        assert all(bytes_of(held) == before for held, before in kept)


@pytest.mark.parametrize("hold", HOLDS)
def test_a_buffer_comes_again_once_nothing_refers_to_it(hold: str) -> None:
    buffers = Buffers(spare=4, pinned=False)
    tensor = buffers.take((4, 6), torch.uint8)
    place = tensor.data_ptr()
    held = HOLDS[hold](tensor)
    del tensor
    other = buffers.take((4, 6), torch.uint8)
    assert other.data_ptr() != place
    del held
    assert buffers.take((4, 6), torch.uint8).data_ptr() == place


def test_buffers_are_kept_by_shape_and_dtype_and_not_more_than_wanted() -> None:
    buffers = Buffers(spare=2, pinned=False)
    for shape, dtype in (((4, 6), torch.uint8), ((6, 4), torch.uint8), ((4, 6), torch.uint16)):
        tensor = buffers.take(shape, dtype)
        assert (tuple(tensor.shape), tensor.dtype) == (shape, dtype)
    many = [buffers.take((8, 8), torch.uint8) for _ in range(5)]
    del many, tensor
    assert {key: len(free) for key, free in buffers._free.items()} == {
        ((4, 6), torch.uint8): 1,
        ((6, 4), torch.uint8): 1,
        ((4, 6), torch.uint16): 1,
        ((8, 8), torch.uint8): 2,
    }


def test_a_tensor_outlives_its_pool() -> None:
    buffers = Buffers(spare=2, pinned=False)
    tensor = buffers.take((4, 6), torch.uint8).fill_(7)
    del buffers
    gc.collect()
    assert bool((tensor == 7).all())


def test_tensors_may_be_given_back_by_any_thread() -> None:
    buffers = Buffers(spare=100, pinned=False)

    def hold_and_check(tensor: torch.Tensor, value: int) -> Callable[[], bool]:
        return lambda: bool((tensor == value).all())

    def jobs() -> Iterator[Callable[[], bool]]:
        for number in range(500):
            yield hold_and_check(buffers.take((64,), torch.uint8).fill_(number % 251), number % 251)

    assert all(in_order(jobs(), 3))
