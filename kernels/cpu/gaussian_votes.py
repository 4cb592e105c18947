"""The votes of recipe paper, as in pair_votes.py, of Gaussian directions.

f a, 127 * 69 at the most, is no byte: it is 128 times a high part, of 68 at the most, and a low part of -64 to 63, and
each part has votes of its own. Of a vector's f a b the sums are made one by one.
"""

import numpy as np
from numba import njit

from egg.kernels.cpu.signs import LANES, draw_words
from egg.kernels.cpu.simd import address, load_i8, splat, store_i32
from egg.kernels.cpu.structures import JIT, quad_at
from egg.kernels.philox import GAUSSIAN_NOISE

WHOLE, HIGH, LOW = range(3)  # parts of f a


@njit(**JIT)
def draw_gaussian(directions, step, key_0, key_1, table, string, rows):
    """Gaussian factors of directions.

    directions : (directions,) int64, their numbers
    table : (65536,) int8: what a halfword stands for
    string : (whole 128s,) uint16, scratch
    rows : (directions, factors) int8, written
    """
    for i in range(len(directions)):
        number = np.int64(directions[i])
        draw_words(GAUSSIAN_NOISE, number, step, key_0, key_1, address(LANES), address(string), len(string) >> 1)
        for e in range(rows.shape[1]):
            rows[i, e] = table[string[e]]


@njit(**JIT)
def pack_gaussian(rows, first, factors, part, offset, columns, quads):
    """Rows offset + factor * b of one Gaussian factor, or a part of it, four directions to a quad, in panels.

    rows : (directions, factors) int8, of which the factor begins at ``first``
    factors : (directions,) int64, +-127 at the most
    part : WHOLE, where the product is a byte, HIGH or LOW
    offset : added to each byte
    quads : (quads * columns,) int32, written
    """
    count = len(factors) >> 2
    width, row = min(64, columns), rows.shape[1]
    half = splat(64)
    for quad in range(count):
        for n in range(0, columns, 16):
            word = splat(0)
            for r in range(4):
                at = address(rows) + (4 * quad + r) * row + first + n
                v = load_i8(at) * splat(factors[4 * quad + r])
                high = (v + half) >> 7
                if part == HIGH:
                    v = high
                elif part == LOW:
                    v = v - (high << 7)
                word = word | (((v + splat(offset)) & splat(255)) << (8 * r))
            store_i32(quad_at(address(quads), count, 0, n, width, quad), word)


@njit(**JIT)
def sum_gaussian(rows, a, b, factors, rank, votes):
    """Votes of a vector, added to: of each pair's first direction f a b.

    rows : (directions, factors) int8, of which the vector's begin at ``a`` and ``b``
    factors : (directions,) int64
    votes : (N,) int64
    """
    for i in range(0, len(factors), rank):
        for k in range(len(votes)):
            votes[k] += factors[i] * np.int64(rows[i, a + k]) * np.int64(rows[i, b + k])
