from __future__ import annotations

import io
import threading

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from drdg.shards.codec import compress, npy_header, read_array, read_into

ARRAYS = arrays.arrays(
    st.sampled_from([np.uint8, np.uint16, np.float32]), arrays.array_shapes(min_dims=1, max_dims=3, min_side=1)
)


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()


def compressed(array: np.ndarray, before: bytes = b"") -> tuple[bytes, dict[str, object]]:
    frame = compress(npy_header(array.shape, array.dtype), array, 1)
    place = {"offset": len(before), "size": len(frame), "codec": "zstd"}
    return before + frame, {**place, "shape": list(array.shape), "dtype": array.dtype.str}


@given(ARRAYS)
def test_the_header_is_numpys(array: np.ndarray) -> None:
    assert npy_header(array.shape, array.dtype) + array.tobytes() == npy(array)


@given(ARRAYS, st.binary(max_size=9))
def test_an_array_comes_back(array: np.ndarray, before: bytes) -> None:
    shard, place = compressed(array, before)
    back = read_array(shard, place)
    assert (back.dtype, back.shape, back.tobytes()) == (array.dtype, array.shape, array.tobytes())
    out = np.empty_like(array)
    read_into(memoryview(shard), place, out)
    assert out.tobytes() == array.tobytes()


def test_a_frame_is_one_that_any_reader_takes() -> None:
    array = np.arange(5000, dtype=np.uint16)
    shard, _ = compressed(array)
    assert len(shard) < array.nbytes
    assert zstandard.frame_content_size(shard) == len(npy(array))
    assert zstandard.get_frame_parameters(shard).has_checksum
    assert zstandard.ZstdDecompressor().decompress(shard) == npy(array)


@given(st.integers(0, 10**6), st.integers(0, 7))
def test_a_flipped_bit_never_goes_unnoticed(where: int, bit: int) -> None:
    array = np.random.default_rng(0).integers(0, 9, 300, dtype=np.uint8)
    shard, place = compressed(array)
    damaged = bytearray(shard)
    damaged[where % len(shard)] ^= 1 << bit
    try:
        back = read_array(bytes(damaged), place)
    except ValueError:
        return
    assert np.array_equal(back, array)  # a bit that means nothing


def test_a_frame_cut_short_is_refused() -> None:
    shard, place = compressed(np.arange(5000))
    with pytest.raises(ValueError, match="its member at byte 0 is no whole Zstandard frame"):
        read_array(shard[: len(shard) // 2], place)


def test_threads_read_at_once() -> None:
    array = np.random.default_rng(0).integers(0, 9, 100_000, dtype=np.uint8)
    shard, place = compressed(array)
    wrong = []

    def read() -> None:
        for _ in range(50):
            if not np.array_equal(read_array(shard, place), array):
                wrong.append(1)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
