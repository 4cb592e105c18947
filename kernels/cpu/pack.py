"""Weights as the tiles read them: packed once per step, panel by panel, with what accumulators begin with."""

from numba import njit

from egg.kernels.cpu.simd import load_word, splat, store_i32, store_word, sum_bytes, transpose_words
from egg.kernels.cpu.structures import JIT, OFFSET


@njit(**JIT)
def pack_panels(weights, panels, first, last, packed, starts):
    """Panels first..last of all matrices.

    weights : address of (parameters,) int8
    panels : (panels, 4) int64: where a panel's rows begin in weights, its columns (outputs, 16 or 64), its inputs, and
        where its sums begin in starts
    packed : address of (parameters,) int8: each panel as [inputs / 4][column][4], in the place of its rows
    starts : address of (row sums,) int32: -OFFSET * row sums, which undoes the offset of the inputs' bytes
    """
    for panel in range(first, last):
        at, width, inputs, start = panels[panel]
        step = 4 * width  # from words of four inputs to the next
        for n in range(0, width, 16):
            row, column = weights + at + n * inputs, packed + at + 4 * n
            for k in range(0, inputs & ~63, 64):
                transpose_words(row + k, inputs, column + k * width, step)
            for k in range(inputs & ~63, inputs, 4):
                for i in range(16):
                    store_word(column + k * width + 4 * i, load_word(row + i * inputs + k))
            acc = splat(0)
            for k in range(0, inputs, 4):
                acc = sum_bytes(acc, column + k * width)
            store_i32(starts + 4 * (start + n), splat(0) - acc * splat(OFFSET))
