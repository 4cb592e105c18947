"""A block of sequences writes text: each draws a byte from its logits, reads it, and so on.

Drawing is docs/arithmetic.md, "Sampling", in scalars: a pass for the largest logit, one for the total of the weights,
and one to where the drawn share ends. Bytes whose logits are equal weigh the same, so top_k and top_p need no sorting:
they end among the bytes of one logit. All sums are below 2**63: weights are at most 2**32, their total 2**40, and its
product with top_p 2**56.
"""

import numpy as np
from numba import njit

from egg.kernels.cpu import structures as st
from egg.kernels.cpu.forward import head, load_states, read_token, save_states
from egg.kernels.cpu.signs import LANES, philox_lanes
from egg.kernels.cpu.simd import address, load_i8, load_i32, load_long, splat, store_i8, store_interleaved
from egg.kernels.cpu.structures import JIT
from egg.kernels.philox import SAMPLING


@njit(**JIT)
def share_of(total, word):
    """floor(word * total / 2**64): digits of 22, 22 and 20 bits, as floors of divisions nest.

    total : 0 to 2**40
    word : 64 bits, as int64
    """
    digit = (1 << 22) - 1
    lower = (word & digit) * total >> 22
    lower = (((word >> 22) & digit) * total + lower) >> 22
    return (((word >> 44) & ((1 << 20) - 1)) * total + lower) >> 20


@njit(**JIT)
def cut_off(logits, largest, weights, top_k, top_p, counts):
    """The last distance below the largest logit that is drawn from, and how many bytes at it, the lowest first.

    logits : (256,) int8
    weights : (255,) int64
    counts : (255,) int64, overwritten
    """
    counts[:] = 0
    for v in range(256):
        counts[largest - logits[v]] += 1
    last, left = 0, top_k if top_k > 0 else 256
    total = np.int64(0)
    while left > counts[last]:
        total += counts[last] * weights[last]
        left -= counts[last]
        last += 1
    total += left * weights[last]
    bound, before = total * top_p, np.int64(0)
    for d in range(last + 1):
        here = left if d == last else counts[d]
        room, wide = bound - (before << 16), weights[d] << 16
        if room <= 0:  # what is before has the share
            return d, np.int64(0)
        if room <= wide * (here - 1):  # it ends here: i bytes are before the next where i * wide < room
            return d, (room + wide - 1) // wide
        before += here * weights[d]
    return last, left


@njit(**JIT)
def choose(logits, word, weights, top_k, top_p, counts):
    """The byte that a word draws from a row of logits.

    logits : (256,) int8
    weights : (255,) int64, empty for temperature 0
    counts : (255,) int64, overwritten
    """
    first = logits[0]
    for v in range(1, 256):
        first = max(first, logits[v])
    largest = np.int64(first)
    if weights.size == 0 or top_k == 1:
        v = 0
        while logits[v] != largest:
            v += 1
        return v
    last, left = np.int64(254), np.int64(256)
    total = np.int64(0)
    if top_k > 0 or top_p < 65536:
        last, left = cut_off(logits, largest, weights, top_k, top_p, counts)
        for d in range(last):
            total += counts[d] * weights[d]
        total += left * weights[last]
    else:
        for v in range(256):
            total += weights[largest - logits[v]]
    place, v = share_of(total, word), -1
    while place >= 0:  # below the total: it ends at a byte
        v += 1
        d = largest - logits[v]
        if d < last:
            place -= weights[d]
        elif d == last and left > 0:
            place -= weights[d]
            left -= 1
    return v


@njit(**JIT)
def write_sequences(
    model, noise, tables, block, numbers, weights, top_k, top_p, words, counts, row, logits, states, drawn
):
    """Draw and read ``block.length`` bytes of the block's sequences, beginning at ``row``.

    noise : the generator's key, and as its step the position of the first byte
    numbers : (sequences,) int64, the samples'
    weights : (255,) int64, empty for temperature 0
    words : (16 * members * T,) uint8, T in whole sixteens: overwritten with the words of each draw
    counts : (255,) int64, overwritten
    logits : (sequences, 256) int8, before the first byte, and then after the last
    states : (sequences, L, D) int8, likewise
    drawn : (sequences, T) uint8, written
    """
    load_states(model, block, states, row)
    out, at = address(logits), address(words)
    positions = load_i32(address(LANES)) + splat(noise.step)
    words_row = 16 * ((block.length + 15) & -16)
    for i in range(block.members):
        for t in range(0, block.length, 16):
            index, stream = splat(numbers[row + i]), splat(SAMPLING)
            drawing = philox_lanes(splat(0), stream, index, positions + splat(t), noise.key_0, noise.key_1)
            store_interleaved(at + i * words_row + 16 * t, *drawing)
    for t in range(block.length):
        for i in range(block.members):
            word = load_long(at + i * words_row + 16 * t)
            drawn[row + i, t] = choose(logits[row + i], word, weights, top_k, top_p, counts)
        read_token(model, noise, tables, block, t, drawn, row, st.NOTHING)
        head(model, noise, block, t, block.logits)
        for j in range(0, 256 * block.members, 16):
            store_i8(out + 256 * row + j, load_i8(block.logits + j))
    save_states(model, block, states, row)
