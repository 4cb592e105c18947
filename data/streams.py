"""Chunks of consecutive bytes, one for each reader."""

from __future__ import annotations

import numpy as np


def read_chunks(tokens: np.ndarray, starts: np.ndarray, length: int) -> np.ndarray:
    """Read `length` consecutive bytes from each start, wrapping round at the end.

    tokens : (n,) uint8, contiguous
    starts : (g,) int64, any integers; taken modulo n
    Returns (g, length) uint8, C-contiguous and writable.
    Raises ValueError for empty tokens, other types or shapes, or a negative length.
    """
    if tokens.dtype != np.uint8 or tokens.ndim != 1 or not tokens.flags.c_contiguous:
        raise ValueError("tokens must be a contiguous (n,) uint8 array")
    if starts.ndim != 1 or starts.dtype.kind not in "iu":
        raise ValueError("starts must be a (g,) array of integers")
    size = tokens.size
    if size == 0 or length < 0:
        raise ValueError("tokens must not be empty and length must not be negative")
    starts = starts % size
    last = size - length  # the largest start that does not wrap round
    if last < 0 or (starts.size and int(starts.max()) > last):
        wraps = starts > last
        chunks = np.empty((starts.size, length), np.uint8)
        positions = starts[wraps, None] + np.arange(length, dtype=np.int64)
        chunks[wraps] = tokens[positions % size]
        if last >= 0:
            chunks[~wraps] = read_chunks(tokens, starts[~wraps], length)
        return chunks
    # Indexing rows of overlapping windows copies `length` bytes at a time; an index per byte
    # would cost eight bytes for each byte read. A window view allocates nothing.
    windows = np.ndarray((last + 1, length), np.uint8, buffer=tokens, strides=(1, 1))
    return windows[starts]
