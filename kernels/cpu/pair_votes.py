"""The votes of recipe paper, Z = sum over pairs of f a b^T, through the same GEMM as recipe egg's.

Two directions make a pair of rows. Their signs are drawn again from the generator, never stored with a population.
"""

import numpy as np
from numba import njit

from kernels.cpu.signs import LANES, draw_words
from kernels.cpu.simd import address, select_bits, splat, store_i32
from kernels.cpu.structures import JIT
from kernels.philox import DIRECTION_SIGNS


@njit(**JIT)
def draw_directions(directions, step, key_0, key_1, words):
    """Word strings of the directions' signs.

    directions : (directions,) int64, their numbers
    words : (directions, whole 64s) uint32, written
    """
    row = words.shape[1]
    for i in range(len(directions)):
        at = address(words) + 4 * row * i
        draw_words(
            DIRECTION_SIGNS, np.int64(directions[i]), step, key_0, key_1, address(LANES), at, row
        )


@njit(**JIT)
def pack_signs(words, bits, factors, columns, rows, column):
    """Rows factor * sign of one sign vector, two directions to a pair, into the panels from ``column`` on.

    words : (directions, words) uint32, an even number; bits : byte offset of the vector in them
    factors : (directions,) int64 in -1, 0, 1
    rows : (pairs * all columns,) int32
    """
    pairs = len(factors) >> 1
    width = min(64, columns)
    row = 4 * words.shape[1]
    for pair in range(pairs):
        at = address(words) + 2 * pair * row + bits
        to = address(rows) + 4 * (pairs * column + pair * width)
        first, second = splat(factors[2 * pair]), splat(factors[2 * pair + 1])
        for n in range(0, columns, 16):
            low = select_bits(at + (n >> 3), first, splat(0) - first) & splat(0xFFFF)
            high = select_bits(at + row + (n >> 3), second, splat(0) - second) << 16
            store_i32(to + 4 * (n >> 6) * pairs * width + 4 * (n & 63), low | high)
