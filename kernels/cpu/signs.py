"""The members' signs, drawn as bits where they are used: Philox4x32-10 of sixteen counters at a time."""

import numpy as np
from numba import njit

from kernels.cpu.simd import (
    address,
    load_i32,
    load_word,
    multiply_high,
    splat,
    store_byte,
    store_i8,
    store_i32,
    store_interleaved,
    store_word,
)
from kernels.cpu.structures import B_F, JIT, LAYER_TENSORS, W_F, a_signs, token_signs
from kernels.philox import (
    DIRECTION_SIGNS,
    MULTIPLIER_0,
    MULTIPLIER_1,
    ROUNDS,
    TOKEN_SIGNS,
    WEYL_0,
    WEYL_1,
)

LANES = np.arange(
    16, dtype=np.int32
)  # compiled in as a constant: its address holds, a local array's would not


@njit(**JIT)
def philox_lanes(c0, c1, c2, c3, key_0, key_1):
    """Philox4x32-10 of sixteen counters."""
    for _ in range(ROUNDS):
        high_0, low_0 = multiply_high(c0, MULTIPLIER_0), c0 * splat(MULTIPLIER_0)
        high_1, low_1 = multiply_high(c2, MULTIPLIER_1), c2 * splat(MULTIPLIER_1)
        c0, c1 = high_1 ^ c1 ^ splat(key_0), low_1
        c2, c3 = high_0 ^ c3 ^ splat(key_1), low_0
        key_0, key_1 = key_0 + WEYL_0, key_1 + WEYL_1  # splat takes the low 32 bits
    return c0, c1, c2, c3


@njit(**JIT)
def draw_words(stream, index, step, key_0, key_1, lanes, out, words):
    """The word string of one draw, ``words`` words in whole sixteens of blocks; lanes is the address of 0..15."""
    counting = load_i32(lanes)
    for block in range(0, (words + 3) >> 2, 16):
        c0, c1, c2, c3 = philox_lanes(
            counting + splat(block), splat(stream), splat(index), splat(step), key_0, key_1
        )
        store_interleaved(out + 16 * block, c0, c1, c2, c3)


@njit(**JIT)
def draw_signs(model, noise, block, first, share):
    """Fill the members' directions, gate bias signs and token signs; ``share`` members share a direction."""
    lanes = address(LANES)
    words, length = block.words_row >> 2, block.length
    for i in range(0, block.members, share):
        at = block.words + block.words_row * i
        draw_words(
            DIRECTION_SIGNS,
            first + i // share,
            noise.step,
            noise.key_0,
            noise.key_1,
            lanes,
            at,
            words,
        )
        for twin in range(1, share):
            for j in range(0, block.words_row, 64):
                twin_at = at + twin * block.words_row
                store_i32(twin_at + j, load_i32(at + j))
    if share == 2:  # antithetic pairs
        for i in range(block.members):
            for t in range(length):
                store_byte(token_signs(block, t) + i, 1 - 2 * (i & 1))
        return
    draw_token_signs(noise, block, first)
    if noise.tie_gates:
        _tie_gates(model, block)


@njit(**JIT)
def draw_token_signs(noise, block, first):
    """Fill the members' signs at every token."""
    for i in range(0, block.members, 16):
        members = load_i32(address(LANES)) + splat(first + i)
        for t in range(block.length):
            if t & 127 == 0:  # a block of the generator holds the signs of 128 tokens
                strings = philox_lanes(
                    splat(t >> 7),
                    splat(TOKEN_SIGNS),
                    members,
                    splat(noise.step),
                    noise.key_0,
                    noise.key_1,
                )
            word = strings[0]
            if t & 96 == 32:
                word = strings[1]
            elif t & 96 == 64:
                word = strings[2]
            elif t & 96 == 96:
                word = strings[3]
            bit = (word >> (t & 31)) & splat(1)
            store_i8(token_signs(block, t) + i, bit + bit - splat(1))


@njit(**JIT)
def _tie_gates(model, block):
    """The gate's bias takes the signs of the gate, times the first of its own; u's place is never read."""
    count = max(1, model.hidden_size // 32)
    for layer in range(model.num_layers):
        first = 1 + LAYER_TENSORS * layer
        for gate in range(2):
            w = block.words + a_signs(model, first + W_F + 3 * gate)
            bias = block.words + a_signs(model, first + B_F + 3 * gate)
            for i in range(block.members):
                row = i * block.words_row
                bit = load_word(bias + row) & 1
                store_byte(block.b0 + 2 * model.num_layers * i + 2 * layer + gate, 2 * bit - 1)
                for j in range(0, 4 * count, 4):  # bit 0 flips all
                    store_word(bias + row + j, load_word(w + row + j) ^ (bit - 1))
