"""Full-rank sign noise, drawn again from the seed wherever it is used: added to weights in place, and voted with.

A block of sixteen counters holds the signs of 2,048 weights, which are drawn, used and forgotten.
"""

from numba import njit

from egg.kernels.cpu.signs import LANES, philox_lanes
from egg.kernels.cpu.simd import address, load_i8, load_i32, select_bits, splat, store_i8, store_i32, store_interleaved
from egg.kernels.cpu.structures import JIT
from egg.kernels.philox import FULL_RANK_SIGNS

CHUNK = 2048  # weights


@njit(**JIT)
def draw_chunk(chunk, direction, step, key_0, key_1, words):
    """The signs of a chunk's weights.

    words : (64,) uint32, written
    """
    c0, c1, c2, c3 = philox_lanes(
        load_i32(address(LANES)) + splat(16 * chunk),
        splat(FULL_RANK_SIGNS),
        splat(direction),
        splat(step),
        key_0,
        key_1,
    )
    store_interleaved(address(words), c0, c1, c2, c3)


@njit(**JIT)
def add_signs(weights, direction, step, key_0, key_1, amount, first, last, words):
    """Chunks first..last: weights move by ``amount`` times their signs; |weight| stays within 127.

    weights : (parameters,) int8, a multiple of 16
    words : (64,) uint32, scratch
    """
    plus, minus = splat(amount), splat(-amount)
    for chunk in range(first, last):
        draw_chunk(chunk, direction, step, key_0, key_1, words)
        at, bits = address(weights) + CHUNK * chunk, address(words)
        for k in range(0, min(CHUNK, len(weights) - CHUNK * chunk), 16):
            store_i8(at + k, load_i8(at + k) + select_bits(bits + (k >> 3), plus, minus))


@njit(**JIT)
def sum_signs(fitness, step, key_0, key_1, first, last, words, sums, votes):
    """Chunks first..last of Z = sum over directions of f e; |Z| < 2**31.

    fitness : (directions,) int64
    words, sums : (64,) uint32 and (2048,) int32, scratch
    votes : (parameters,) int64, written
    """
    for chunk in range(first, last):
        size, at = min(CHUNK, len(votes) - CHUNK * chunk), address(sums)
        sums[:] = 0
        for direction in range(len(fitness)):
            f = fitness[direction]
            if f == 0:
                continue
            draw_chunk(chunk, direction, step, key_0, key_1, words)
            bits, plus, minus = address(words), splat(f), splat(-f)
            for k in range(0, size, 16):
                signed = select_bits(bits + (k >> 3), plus, minus)
                store_i32(at + 4 * k, load_i32(at + 4 * k) + signed)
        for k in range(size):
            votes[CHUNK * chunk + k] = sums[k]
