"""The members' signs, drawn as bits where they are used: Philox4x32-10 of sixteen counters at a time."""

import numpy as np
from numba import njit

from egg.kernels.cpu.simd import address, load_i32, multiply_high, splat, store_i32, store_interleaved
from egg.kernels.cpu.structures import JIT, direction_of
from egg.kernels.philox import MULTIPLIER_0, MULTIPLIER_1, ROUNDS, WEYL_0, WEYL_1

# Compiled in as a constant: its address holds, a local array's would not
LANES = np.arange(16, dtype=np.int32)


@njit(**JIT)
def philox_lanes(c0, c1, c2, c3, key_0, key_1):
    """Philox4x32-10 of sixteen counters."""
    for _ in range(ROUNDS):
        high_0, low_0 = multiply_high(c0, MULTIPLIER_0, 32), c0 * splat(MULTIPLIER_0)
        high_1, low_1 = multiply_high(c2, MULTIPLIER_1, 32), c2 * splat(MULTIPLIER_1)
        c0, c1 = high_1 ^ c1 ^ splat(key_0), low_1
        c2, c3 = high_0 ^ c3 ^ splat(key_1), low_0
        key_0, key_1 = key_0 + WEYL_0, key_1 + WEYL_1  # splat takes the low 32 bits
    return c0, c1, c2, c3


@njit(**JIT)
def draw_words(stream, index, step, key_0, key_1, lanes, out, words):
    """The word string of one draw, ``words`` words in whole sixteens of blocks; lanes is the address of 0..15."""
    counting = load_i32(lanes)
    for block in range(0, (words + 3) >> 2, 16):
        c0, c1, c2, c3 = philox_lanes(counting + splat(block), splat(stream), splat(index), splat(step), key_0, key_1)
        store_interleaved(out + 16 * block, c0, c1, c2, c3)


@njit(**JIT)
def draw_signs(noise, block, stream, first):
    """Fill the directions of the block's pairs of members, the first of which is pair ``first``."""
    for i in range(0, block.members, 2):
        at, number = block.words + block.words_row * i, direction_of(noise, first + (i >> 1))
        draw_words(stream, number, noise.step, noise.key_0, noise.key_1, address(LANES), at, block.words_row >> 2)
        for j in range(0, block.words_row, 64):
            store_i32(at + block.words_row + j, load_i32(at + j))
