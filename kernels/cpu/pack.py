"""Weights as the tiles read them: packed once per step, panel by panel, with what accumulators begin with."""

import numpy as np
from numba import njit

from kernels.cpu.structures import JIT


@njit(**JIT)
def pack_panels(weights, offset, outputs, inputs, packed, starts, start, first, last):
    """Panels first..last of one matrix.

    weights : (parameters,) int8, the matrix (outputs, inputs) beginning at ``offset``
    packed : the same size, [panel][inputs / 4][column][4]
    starts : int32, from ``start`` on: -128 * row sums, which undoes the offset of the inputs' bytes
    """
    width = min(64, outputs)
    for panel in range(first, last):
        for n in range(width):
            row = offset + (panel * width + n) * inputs
            to = offset + panel * width * inputs + 4 * n
            acc = np.int32(0)
            for k in range(0, inputs, 4):
                for j in range(4):
                    w = weights[row + k + j]
                    acc += np.int32(w)
                    packed[to + k * width + j] = w
            starts[start + panel * width + n] = -128 * acc
