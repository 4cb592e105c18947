"""Streams: what their readers read."""

import numpy as np
import pytest

from egg.data import read_chunks


@pytest.mark.parametrize("size", [1, 2, 7, 64, 300])
@pytest.mark.parametrize("length", [0, 1, 5, 7, 64, 101])
def test_chunks_equal_the_definition(size, length):
    rng = np.random.default_rng(size * 1000 + length)
    tokens = rng.integers(0, 256, size, dtype=np.uint8)
    starts = np.concatenate([np.arange(size), rng.integers(-3 * size, 3 * size, 50)])
    expected = [[tokens[(start + i) % size] for i in range(length)] for start in starts]
    chunks = read_chunks(tokens, starts, length)
    assert chunks.dtype == np.uint8
    assert chunks.flags.c_contiguous
    assert chunks.flags.writeable
    np.testing.assert_array_equal(chunks, np.reshape(expected, (len(starts), length)))


def test_chunks_of_a_mapped_file_are_copies(tmp_path):
    path = tmp_path / "tokens.bin"
    path.write_bytes(bytes(range(50)))
    tokens = np.memmap(path, np.uint8, mode="r")
    chunks = read_chunks(tokens, np.array([3, 48]), 4)
    np.testing.assert_array_equal(chunks, [[3, 4, 5, 6], [48, 49, 0, 1]])
    chunks[:] = 0
    assert path.read_bytes() == bytes(range(50))


def test_no_streams_read_nothing():
    assert read_chunks(np.zeros(3, np.uint8), np.zeros(0, np.int64), 5).shape == (0, 5)


@pytest.mark.parametrize(
    ("tokens", "starts", "length"),
    [
        (np.zeros(0, np.uint8), np.zeros(1, np.int64), 1),
        (np.zeros(4, np.int8), np.zeros(1, np.int64), 1),
        (np.zeros(8, np.uint8)[::2], np.zeros(1, np.int64), 1),
        (np.zeros(4, np.uint8), np.zeros(1, np.float64), 1),
        (np.zeros(4, np.uint8), np.zeros((1, 1), np.int64), 1),
        (np.zeros(4, np.uint8), np.zeros(1, np.int64), -1),
    ],
)
def test_chunks_refuse_other_arrays(tokens, starts, length):
    with pytest.raises(ValueError):
        read_chunks(tokens, starts, length)
