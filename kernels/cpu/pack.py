"""Weights as the tiles read them: packed once per step, panel by panel, with what accumulators begin with."""

import numpy as np
from numba import njit

from kernels.cpu.simd import address, load_word, store_word
from kernels.cpu.structures import JIT, OFFSET


@njit(**JIT)
def pack_panels(weights, panels, first, last, packed, starts):
    """Panels first..last of all matrices.

    weights : (parameters,) int8
    panels : (panels, 4) int64: where a panel's rows begin in weights, its columns (outputs, 16 or 64), its inputs, and
        where its sums begin in starts
    packed : (parameters,) int8: each panel as [inputs / 4][column][4], in the place of its rows
    starts : (row sums,) int32: -OFFSET * row sums, which undoes the offset of the inputs' bytes
    """
    source, to = address(weights), address(packed)
    for panel in range(first, last):
        at, width, inputs, start = panels[panel]
        for n in range(width):
            row, column = source + at + n * inputs, to + at + 4 * n
            acc = np.int32(0)
            for k in range(inputs):
                acc += np.int32(weights[at + n * inputs + k])
            starts[start + n] = -OFFSET * acc
            for k in range(0, inputs, 4):  # words of four inputs
                store_word(column + k * width, load_word(row + k))
