"""The votes of recipe paper, Z = sum over pairs and their directions of f a b^T, through the same GEMM as recipe egg's.

Four directions make a quad of rows. Their signs are drawn again from the generator, never stored with a population.
"""

import numpy as np
from numba import njit

from egg.kernels.cpu.signs import LANES, draw_words
from egg.kernels.cpu.simd import address, select_bits, splat, store_i32
from egg.kernels.cpu.structures import JIT, quad_at
from egg.kernels.philox import DIRECTION_SIGNS


@njit(**JIT)
def draw_directions(directions, step, key_0, key_1, words):
    """Word strings of the directions' signs.

    directions : (directions,) int64, their numbers
    words : (directions, whole 64s) uint32, written
    """
    row = words.shape[1]
    for i in range(len(directions)):
        at = address(words) + 4 * row * i
        draw_words(DIRECTION_SIGNS, np.int64(directions[i]), step, key_0, key_1, address(LANES), at, row)


@njit(**JIT)
def pack_signs(words, bits, factors, offset, columns, rows):
    """Rows offset + factor * sign of one sign vector, four directions to a quad, in panels.

    words : (directions, words) uint32, a multiple of four; bits : byte offset of the vector in them
    factors : (directions,) int64 in -1, 0, 1
    offset : added to each byte
    rows : (quads * columns,) int32, written
    """
    quads = len(factors) >> 2
    width, row = min(64, columns), 4 * words.shape[1]
    for quad in range(quads):
        for n in range(0, columns, 16):
            word = splat(0)
            for r in range(4):
                factor = splat(factors[4 * quad + r])
                at = address(words) + (4 * quad + r) * row + bits + (n >> 3)
                sign = select_bits(at, factor, splat(0) - factor) + splat(offset)
                word = word | ((sign & splat(255)) << (8 * r))
            store_i32(quad_at(address(rows), quads, 0, n, width, quad), word)
