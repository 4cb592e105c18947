"""A block of members reads a chunk of text: the fused population forward.

A block is small enough for its activations, states and signs to stay in cache; each weight panel, once loaded, serves
every member of the block. All stages of a token run on the block before the next token; signs are read as bits, straight
into mask registers. The same code runs members of both recipes (``noise.mode`` MOVED, ALONG_INPUT) and plain sequences (CLEAN).

Rows are (members, stride) bytes, stride = max(64, D); the bytes beyond D are zeros. What a product reads is kept as
offset bytes (value + 128), see simd.py.
"""

from typing import NamedTuple

import numpy as np
from numba import njit

from kernels.arithmetic import LIMIT
from kernels.cpu.simd import (
    absolute,
    add_signed_bytes,
    address,
    clip8_lanes,
    exp2,
    load_byte,
    load_i8,
    load_i32,
    load_offset,
    multiply_high,
    select_bits,
    splat,
    store_i8,
    store_i32,
    store_interleaved,
    store_offset,
    total,
)
from kernels.cpu.tiles import (
    ROWS,
    both_tile_4,
    clean_tile_1,
    clean_tile_4,
    moved_tile_1,
    moved_tile_4,
)
from kernels.philox import (
    DIRECTION_SIGNS,
    MULTIPLIER_0,
    MULTIPLIER_1,
    ROUNDS,
    TOKEN_SIGNS,
    WEYL_0,
    WEYL_1,
)

JIT = {"nogil": True, "cache": True, "error_model": "numpy"}

CLEAN, MOVED, ALONG_INPUT = range(3)  # modes of a block
# Numbers of the tensors within a layer, in the order of the flat vector; a layer has 10.
LN1, W_F, U_F, B_F, W_H, U_H, B_H, LN2, W_UP, W_DOWN = range(10)
LAYER_TENSORS = 10
# Numbers of a layer's products among the projections, and of its inputs in the trace, in units of D.
P_W_F, P_U_F, P_W_H, P_U_H, P_UP, P_DOWN = range(6)
LAYER_PRODUCTS = 6
X_U, X_H, X_PAST, X_LN2, X_MID = range(5)
LAYER_INPUTS = 8  # the last, the MLP's middle, is 4 wide


class Model(NamedTuple):
    """Packed weights."""

    hidden_size: int
    num_layers: int
    packed: np.ndarray  # (parameters,) int8: matrices in panels, the embedding and vectors as they are
    starts: np.ndarray  # int32: -128 * row sums, what accumulators begin with
    offset: np.ndarray  # (tensors,) int64 in packed
    start: np.ndarray  # (tensors,) int64 in starts
    a: np.ndarray  # (tensors,) int64: byte offset of a tensor's a signs in a direction's bits
    b: np.ndarray  # (tensors,) int64: of its b signs


class Tables(NamedTuple):
    """The constants of kernels.arithmetic as the kernels read them."""

    exp2: np.ndarray  # (16,) int32: the last octave of e
    log2_16: np.ndarray  # (16,) uint32
    log2_256: np.ndarray  # (256,) uint32
    reciprocal: np.ndarray  # (128,) int64, see ``norm_rows``
    reciprocal_shift: np.ndarray  # (128,) int64


class NoiseParameters(NamedTuple):
    """What the members of a block share of their perturbations."""

    mode: int
    tie_gates: bool  # recipe egg
    key_0: int
    key_1: int
    step: int
    shift: int  # 4 - sigma_shift
    vector_step: int


class Block(NamedTuple):
    """A block's buffers, and how its members map to rows of text, states and directions."""

    members: int
    padded: int  # members rounded up to whole tiles
    stride: int
    text_share: int  # members that read one row of text
    state_share: int  # members that start from one state
    keep: int  # of which this one's state goes on
    bytes: np.ndarray  # (buffers, padded, stride) uint8
    mid: np.ndarray  # (padded, 4 stride) uint8
    states: np.ndarray  # (L, padded, stride) uint8, offset
    logits: np.ndarray  # (2, padded, 256) int8: clean, moved
    gains: np.ndarray  # (padded, 2) int32
    words: np.ndarray  # (padded, words) uint32: signs of each member's direction
    b0: np.ndarray  # (padded, 2 L) int8: first sign of each gate's bias
    r: np.ndarray  # (T, padded) int8: the members' signs at each token
    projections: np.ndarray  # (T, 6 L + 1, padded) int32
    inputs: np.ndarray  # (groups, T, (8 L + 1) D) uint8: what each group's first member's products saw


X, IN, PAST, PRODUCT_1, PRODUCT_2, GATE = range(6)  # buffers in Block.bytes
BUFFERS = 6


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
def draw_signs(model, noise, block, first, share, length):
    """Fill the members' directions, gate bias signs and token signs; ``share`` members share a direction."""
    lanes = np.arange(16).astype(np.int32)
    lanes_at = address(lanes)
    words = block.words.shape[1]
    for i in range(0, block.members, share):
        at = address(block.words) + 4 * words * i
        draw_words(
            DIRECTION_SIGNS, first + i // share, noise.step, noise.key_0, noise.key_1, lanes_at, at, words
        )
        for twin in range(1, share):
            block.words[i + twin] = block.words[i]
    if share == 2:  # antithetic pairs
        for i in range(block.members):
            for t in range(length):
                block.r[t, i] = 1 - 2 * (i & 1)
        return
    strings = np.empty(((length + 2047) // 2048) * 64, np.uint32)
    for i in range(block.members):
        draw_words(
            TOKEN_SIGNS, first + i, noise.step, noise.key_0, noise.key_1, lanes_at, address(strings),
            (length + 31) // 32,
        )  # fmt: skip
        for t in range(length):
            block.r[t, i] = 2 * ((np.int64(strings[t >> 5]) >> (t & 31)) & 1) - 1
    if noise.tie_gates:
        _tie_gates(model, block)


@njit(**JIT)
def _tie_gates(model, block):
    """The gate's bias takes the signs of the gate, times the first of its own; u's place is never read."""
    count = max(1, model.hidden_size // 32)
    for layer in range(model.num_layers):
        first = 1 + LAYER_TENSORS * layer
        for gate in range(2):
            w = model.a[first + W_F + 3 * gate] >> 2
            bias = model.a[first + B_F + 3 * gate] >> 2
            for i in range(block.members):
                bit = np.int64(block.words[i, bias]) & 1
                block.b0[i, 2 * layer + gate] = 2 * bit - 1
                flip = (bit - 1) & 0xFFFFFFFF  # bit 0 flips all
                for word in range(count):
                    block.words[i, bias + word] = np.int64(block.words[i, w + word]) ^ flip


@njit(**JIT)
def gain(v, shift):
    """v << shift, an arithmetic >> for a negative shift."""
    return v << shift if shift >= 0 else v >> -shift


@njit(**JIT)
def project(model, noise, block, t, slot, tensor, x, x_row, inputs, factor):
    """Every member's projection p = r (b . x), into the trace, and what its accumulators gain for a = +1 and -1.

    factor : of the step along the input: 2 for w of a gate, 0 for u, 1 elsewhere
    """
    half_log2 = 0
    while 1 << (2 * half_log2) < inputs:
        half_log2 += 1
    bits = address(block.words) + model.b[tensor]
    bits_row = 4 * block.words.shape[1]
    for i in range(block.members):
        if noise.mode == ALONG_INPUT:
            p = np.int64(block.r[t, i]) * factor * gain(1 << (4 + half_log2), noise.shift)
            block.gains[i, 0] = p
            block.gains[i, 1] = -p
            continue
        acc = splat(0)
        for k in range(0, inputs, 64):
            acc = add_signed_bytes(acc, x + i * x_row + k, bits + i * bits_row + (k >> 3))
        p = block.r[t, i] * total(acc)  # |p| <= 127 * 4,096
        block.projections[t, slot, i] = p
        block.gains[i, 0] = gain(p, noise.shift)
        block.gains[i, 1] = gain(-p, noise.shift)


@njit(**JIT)
def product(model, noise, block, t, slot, tensor, signs, x, x_row, inputs, outputs, out, out_row, flip, factor):
    """clip8((W . x [+ gain(a p)]) >> shift(K)) of every member.

    x, out : addresses of (members, inputs) offset bytes and (members, outputs) bytes; flip -128 writes offset bytes
    signs : the tensor whose a signs are read (recipe egg's gates share theirs)
    """
    shift = 4
    while 1 << (2 * (shift - 4)) < inputs:
        shift += 1
    moved = noise.mode != CLEAN
    if moved:
        project(model, noise, block, t, slot, tensor, x, x_row, inputs, factor)
    w = address(model.packed) + model.offset[tensor]
    start = address(model.starts) + 4 * model.start[tensor]
    bits = address(block.words) + model.a[signs]
    bits_row = 4 * block.words.shape[1]
    gains = address(block.gains)
    width = min(64, outputs)
    for n in range(0, outputs, width):
        for i in range(0, block.padded, ROWS):
            arguments = (
                x + i * x_row, x_row, w + n * inputs, inputs >> 2, start + 4 * n, shift, out + i * out_row + n,
                out_row, flip, bits + i * bits_row + (n >> 3), bits_row, gains + 8 * i, out + i * out_row + n,
            )  # fmt: skip
            if width == 64:
                if moved:
                    moved_tile_4(*arguments)
                else:
                    clean_tile_4(*arguments)
            elif moved:
                moved_tile_1(*arguments)
            else:
                clean_tile_1(*arguments)


@njit(**JIT)
def head(model, noise, block, t, x, stride):
    """Both logits of every member: clean without the head's own term, moved with it, from one product."""
    tensor = 2 + LAYER_TENSORS * model.num_layers
    inputs = model.hidden_size
    project(model, noise, block, t, LAYER_PRODUCTS * model.num_layers, tensor, x, stride, inputs, 1)
    shift = 4
    while 1 << (2 * (shift - 4)) < inputs:
        shift += 1
    w = address(model.packed) + model.offset[tensor]
    start = address(model.starts) + 4 * model.start[tensor]
    bits_row = 4 * block.words.shape[1]
    bits = address(block.words) + model.a[tensor]
    clean = address(block.logits)
    moved = clean + 256 * block.padded
    for n in range(0, 256, 64):
        for i in range(0, block.padded, ROWS):
            both_tile_4(
                x + i * stride, stride, w + n * inputs, inputs >> 2, start + 4 * n, shift,
                clean + 256 * i + n, 256, 0, bits + i * bits_row + (n >> 3), bits_row,
                address(block.gains) + 8 * i, moved + 256 * i + n,
            )  # fmt: skip


@njit(**JIT)
def vector(model, noise, block, t, i, tensor, j, moves):
    """Sixteen gains or biases as member i has them at this token."""
    v = load_i8(address(model.packed) + model.offset[tensor] + j)
    if moves:
        step = splat(block.r[t, i] * noise.vector_step)
        bits = address(block.words) + 4 * block.words.shape[1] * i + model.a[tensor] + (j >> 3)
        v = clip8_lanes(v + select_bits(bits, step, splat(0) - step))
    return v


@njit(**JIT)
def norm_rows(model, noise, tables, block, t, tensor, x, out):
    """out = clip8((x * gain) // max(1, mean |x|)), as offset bytes.

    The division by m is a multiplication by floor(2**s / m) with s = 15 + ceil(log2 m), rounded half-way
    between multiples: exact for |x * gain| <= 127 * 127 (shown exhaustively in the tests); the product stays below 2**31.
    """
    d = model.hidden_size
    log2_d = 0
    while 1 << log2_d < d:
        log2_d += 1
    for i in range(block.members):
        at, to = x + i * block.stride, out + i * block.stride
        magnitude = splat(0)
        for j in range(0, d, 16):
            magnitude = magnitude + absolute(load_i8(at + j))
        mean = max(1, total(magnitude) >> log2_d)
        factor, shift = splat(tables.reciprocal[mean]), tables.reciprocal_shift[mean]
        half = factor >> 1
        for j in range(0, d, 16):
            v = load_i8(at + j) * vector(model, noise, block, t, i, tensor, j, noise.mode != CLEAN)
            store_offset(to + j, clip8_lanes((v * factor + half) >> shift))


@njit(**JIT)
def read_token(model, noise, tables, block, t, tokens, row, traced):
    """One byte through the network, up to the head's input in block.bytes[IN].

    tokens : (rows, T or T + 1) uint8, of which the block's begin at ``row``
    traced : whether to keep the inputs of the groups' first members
    """
    d, stride, members = model.hidden_size, block.stride, block.members
    plane = block.padded * stride
    x = address(block.bytes)
    read, past = x + IN * plane, x + PAST * plane
    one, two, gate = x + PRODUCT_1 * plane, x + PRODUCT_2 * plane, x + GATE * plane
    mid, words = address(block.mid), 4 * block.words.shape[1]
    moves = noise.mode != CLEAN
    bias_moves = noise.mode == MOVED

    for i in range(members):
        byte = np.int64(tokens[row + i // block.text_share, t])
        if byte == 0:
            for layer in range(model.num_layers):
                block.states[layer, i, :] = 128
        weights = address(model.packed) + model.offset[0] + byte * d
        signs = address(block.words) + words * i
        if moves:
            a = (np.int64(block.words[i, (model.a[0] >> 2) + (byte >> 5)]) >> (byte & 31)) & 1
            step = splat(block.r[t, i] * (2 * a - 1) * noise.vector_step)
            for j in range(0, d, 16):
                move = select_bits(signs + model.b[0] + (j >> 3), step, splat(0) - step)
                store_i8(x + i * stride + j, clip8_lanes(load_i8(weights + j) + move))
        else:
            for j in range(0, d, 16):
                store_i8(x + i * stride + j, load_i8(weights + j))

    for layer in range(model.num_layers):
        first = 1 + LAYER_TENSORS * layer
        slot = LAYER_PRODUCTS * layer
        h = address(block.states) + layer * plane
        u_f, u_h = (W_F, W_H) if noise.tie_gates else (U_F, U_H)

        norm_rows(model, noise, tables, block, t, first + LN1, x, read)
        product(model, noise, block, t, slot + P_W_F, first + W_F, first + W_F, read, stride, d, d, one, stride, 0, 2)
        product(model, noise, block, t, slot + P_U_F, first + U_F, first + u_f, h, stride, d, d, two, stride, 0, 0)
        if traced:
            keep_inputs(model, block, t, layer, X_U, read, stride, d)
            keep_inputs(model, block, t, layer, X_H, h, stride, d)
        for i in range(members):
            for j in range(0, d, 16):
                at = i * stride + j
                f = load_i8(one + at) + load_i8(two + at)
                f = clip8_lanes(f + vector(model, noise, block, t, i, first + B_F, j, bias_moves))
                store_i8(gate + at, f)
                store_offset(past + at, ((f + splat(LIMIT)) * load_offset(h + at)) >> 8)

        product(model, noise, block, t, slot + P_W_H, first + W_H, first + W_H, read, stride, d, d, one, stride, 0, 2)
        product(model, noise, block, t, slot + P_U_H, first + U_H, first + u_h, past, stride, d, d, two, stride, 0, 0)
        if traced:
            keep_inputs(model, block, t, layer, X_PAST, past, stride, d)
        for i in range(members):
            for j in range(0, d, 16):
                at = i * stride + j
                c = load_i8(one + at) + load_i8(two + at)
                c = clip8_lanes(c + vector(model, noise, block, t, i, first + B_H, j, bias_moves))
                old = load_offset(h + at)
                # |(f + 127) (c - h)| <= 254 * 254; the step is convex, so the state stays in [-127, 127]
                new = old + (((load_i8(gate + at) + splat(LIMIT)) * (c - old)) >> 8)
                store_offset(h + at, new)
                store_i8(x + at, clip8_lanes(load_i8(x + at) + new))

        norm_rows(model, noise, tables, block, t, first + LN2, x, read)
        product(
            model, noise, block, t, slot + P_UP, first + W_UP, first + W_UP, read, stride, d, 4 * d, mid,
            4 * stride, -128, 1,
        )  # fmt: skip
        product(
            model, noise, block, t, slot + P_DOWN, first + W_DOWN, first + W_DOWN, mid, 4 * stride, 4 * d, d,
            one, stride, 0, 1,
        )  # fmt: skip
        if traced:
            keep_inputs(model, block, t, layer, X_LN2, read, stride, d)
            keep_inputs(model, block, t, layer, X_MID, mid, 4 * stride, 4 * d)
        for i in range(members):
            for j in range(0, d, 16):
                at = i * stride + j
                store_i8(x + at, clip8_lanes(load_i8(x + at) + load_i8(one + at)))

    norm_rows(model, noise, tables, block, t, 1 + LAYER_TENSORS * model.num_layers, x, read)
    if traced:
        keep_inputs(model, block, t, model.num_layers, X_U, read, stride, d)


@njit(**JIT)
def keep_inputs(model, block, t, layer, kind, x, x_row, count):
    """Copy the first member of every group's input into the trace."""
    d = model.hidden_size
    row = block.inputs.shape[2]
    to = address(block.inputs) + t * row + (LAYER_INPUTS * layer + kind) * d
    step = block.inputs.shape[1] * row
    for group in range(block.members // block.text_share):
        at = x + group * block.text_share * x_row
        for j in range(0, count, 16):
            store_i8(to + group * step + j, load_i8(at + j))


@njit(**JIT)
def floor_log2(v, thresholds, log2_fraction):
    """floor(fraction * log2(v / 16)) of 16 <= v < 2**32: the top bit, then a binary search of the mantissa."""
    top = 31
    while v >> top == 0:
        top -= 1
    mantissa = v << (31 - top)
    low = 0
    step = len(thresholds) >> 1
    while step:
        if mantissa >= np.int64(thresholds[low + step]):
            low += step
        step >>= 1
    return ((top - 4) << log2_fraction) + low


@njit(**JIT)
def score(logits, target, tables, fine):
    """Integer score of a target byte from 256 logits at an address: in 1/256 bit if fine, else in 1/16."""
    sums = splat(0)
    for j in range(0, 256, 16):
        sums = sums + exp2(address(tables.exp2), load_i8(logits + j) + splat(128))
    v = total(sums)  # < 2**28
    at = load_byte(logits + target) + 128
    if fine:
        return 16 * at - floor_log2(v, tables.log2_256, 8)
    return at - floor_log2(v, tables.log2_16, 4)


@njit(**JIT)
def load_states(model, block, states, row):
    """Start from states (rows, L, D) int8."""
    for i in range(block.members):
        for layer in range(model.num_layers):
            at = address(states) + ((row + i // block.state_share) * model.num_layers + layer) * model.hidden_size
            for j in range(0, model.hidden_size, 16):
                store_offset(
                    address(block.states) + (layer * block.padded + i) * block.stride + j, load_i8(at + j)
                )


@njit(**JIT)
def save_states(model, block, states, row):
    """Keep the states of the members whose state goes on, (rows, L, D) int8."""
    for i in range(block.keep, block.members, block.state_share):
        for layer in range(model.num_layers):
            at = address(states) + ((row + i // block.state_share) * model.num_layers + layer) * model.hidden_size
            for j in range(0, model.hidden_size, 16):
                store_i8(
                    at + j, load_offset(address(block.states) + (layer * block.padded + i) * block.stride + j)
                )


@njit(**JIT)
def run_sequences(model, noise, tables, block, tokens, states_in, states_out, row, logits):
    """Unperturbed: logits (sequences, T, 256) int8 for the block's sequences, beginning at ``row``."""
    load_states(model, block, states_in, row)
    plane = block.padded * block.stride
    tensor = 2 + LAYER_TENSORS * model.num_layers
    for t in range(tokens.shape[1]):
        read_token(model, noise, tables, block, t, tokens, row, False)
        product(
            model, noise, block, t, 0, tensor, tensor, address(block.bytes) + IN * plane, block.stride,
            model.hidden_size, 256, address(block.logits), 256, 0, 0,
        )  # fmt: skip
        for i in range(block.members):
            logits[row + i, t] = block.logits[0, i]
    save_states(model, block, states_out, row)


@njit(**JIT)
def run_pair_block(model, noise, tables, block, tokens, states_in, states_out, row, first, scores):
    """Recipe paper: scores (members,) int32, in sixteenths of a bit, of the block's pairs, beginning at pair ``row``."""
    length = tokens.shape[1] - 1
    load_states(model, block, states_in, 2 * row)
    draw_signs(model, noise, block, first + row, 2, length)
    plane = block.padded * block.stride
    for t in range(length):
        read_token(model, noise, tables, block, t, tokens, row, False)
        head(model, noise, block, t, address(block.bytes) + IN * plane, block.stride)
        for i in range(block.members):
            target = np.int64(tokens[row + (i >> 1), t + 1])
            at = address(block.logits) + 256 * (block.padded + i)
            scores[2 * row + i] += score(at, target, tables, False)
    save_states(model, block, states_out, 2 * row)


@njit(**JIT)
def run_group_block(model, noise, tables, block, tokens, states_in, states_out, row, first, s0, s1):
    """Recipe egg: the block's groups, beginning at group ``row``, read the chunk; what votes need stays in the block.

    s0, s1 : (T, members of the block) int32, clean and moved scores in 1/256 bit
    """
    length = tokens.shape[1] - 1
    load_states(model, block, states_in, row)
    draw_signs(model, noise, block, first, 1, length)
    plane = block.padded * block.stride
    for t in range(length):
        read_token(model, noise, tables, block, t, tokens, row, True)
        head(model, noise, block, t, address(block.bytes) + IN * plane, block.stride)
        for i in range(block.members):
            target = np.int64(tokens[row + i // block.text_share, t + 1])
            at = address(block.logits) + 256 * i
            s0[t, i] = score(at, target, tables, True)
            s1[t, i] = score(at + 256 * block.padded, target, tables, True)
    save_states(model, block, states_out, row)
