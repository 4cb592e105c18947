"""A block of members reads a chunk of text: the fused population forward.

A block is small enough for its activations, states and signs to stay in cache; each weight panel,
once loaded, serves every member of the block. All stages of a token run on the block before the next
token; signs are read as bits, straight into mask registers. The same code runs members of both
recipes (``noise.mode`` MOVED, ALONG_INPUT) and plain sequences (CLEAN).

Rows are (members, stride) bytes, stride = max(64, D); the bytes beyond D are zeros. What a product reads is kept as
offset bytes, see simd.py.
"""

import numpy as np
from numba import njit

from kernels.arithmetic import LIMIT
from kernels.cpu.adapters import through_adapter
from kernels.cpu.score import score
from kernels.cpu.signs import draw_signs
from kernels.cpu.simd import (
    absolute,
    add_signed_bytes,
    address,
    clip8_lanes,
    load_i8,
    load_long,
    load_offset,
    minimum,
    select_bits,
    splat,
    store_i8,
    store_offset,
    store_word,
    total,
)
from kernels.cpu.structures import (
    ALONG_INPUT,
    B_F,
    B_H,
    CLEAN,
    GATE,
    IN,
    JIT,
    LAYER_INPUTS,
    LAYER_PRODUCTS,
    LAYER_TENSORS,
    LN1,
    LN2,
    MOVED,
    OFFSET,
    P_DOWN,
    P_U_F,
    P_UP,
    P_W_F,
    P_W_H,
    PAST,
    PRODUCT_1,
    PRODUCT_2,
    U_F,
    V_DOWN,
    V_F,
    V_H,
    V_UP,
    W_DOWN,
    W_F,
    W_H,
    W_UP,
    X_H,
    X_LN2,
    X_MID,
    X_PAST,
    X_U,
    a_signs,
    arrived_at,
    b_signs,
    embedding_sign,
    gain,
    product_shift,
    projection,
    state_at,
    tensor_at,
    token_sign,
)
from kernels.cpu.tiles import (
    COLUMNS,
    ROWS,
    both_tile,
    clean_tile,
    moved_tile,
    narrow_clean_tile,
    narrow_moved_tile,
)


@njit(**JIT)
def project(model, noise, block, t, slot, tensor, x, x_row, inputs, factor):
    """Every member's projection p = r (b . x), into the trace, and what its accumulators gain for a = +1 and -1.

    factor : of the step along the input: 2 for w of a gate, 0 for u, 1 elsewhere
    """
    bits = block.words + b_signs(model, tensor)
    bits_row = block.words_row
    for i in range(block.members):
        if noise.mode == ALONG_INPUT:
            p = token_sign(block, t, i) * factor * gain(1 << product_shift(inputs), noise.shift)
            store_word(block.gains + 8 * i, p)
            store_word(block.gains + 8 * i + 4, -p)
            continue
        acc = splat(0)
        for k in range(0, inputs, 64):
            acc = add_signed_bytes(acc, x + i * x_row + k, bits + i * bits_row + (k >> 3))
        p = token_sign(block, t, i) * total(acc)  # |p| <= 127 * 4,096
        store_word(projection(model, block, t, slot, i), p)
        store_word(block.gains + 8 * i, gain(p, noise.shift))
        store_word(block.gains + 8 * i + 4, gain(-p, noise.shift))


@njit(**JIT)
def product(
    model, noise, block, t, slot, tensor, signs, x, x_row, inputs, outputs, out, out_row, flip, factor,
):  # fmt: skip
    """clip8((W . x [+ gain(a p)]) >> shift(K)) of every member.

    x, out : addresses of (members, inputs) offset bytes and (members, outputs) bytes; flip OFFSET writes offset bytes
    signs : the tensor whose a signs are read (recipe egg's gates share theirs)
    """
    if through_adapter(model, block, t, tensor, x, x_row, inputs, outputs, out, out_row, flip):
        return
    shift = product_shift(inputs)
    moved = noise.mode != CLEAN
    if moved:
        project(model, noise, block, t, slot, tensor, x, x_row, inputs, factor)
    w = tensor_at(model, tensor)
    start = model.starts + 4 * load_long(model.start + 8 * tensor)
    bits = block.words + a_signs(model, signs)
    bits_row, gains = block.words_row, block.gains
    width = min(64, outputs)
    columns = min(COLUMNS, width)
    for n in range(0, outputs, columns):
        panel = w + (n & -width) * inputs + 4 * (n & (width - 1))
        for i in range(0, block.padded, ROWS):
            arguments = (
                x + i * x_row, x_row, panel, 4 * width, inputs >> 2, start + 4 * n, shift,
                out + i * out_row + n, out_row, flip, bits + i * bits_row + (n >> 3), bits_row,
                gains + 8 * i, out + i * out_row + n,
            )  # fmt: skip
            if columns == COLUMNS:
                if moved:
                    moved_tile(*arguments)
                else:
                    clean_tile(*arguments)
            elif moved:
                narrow_moved_tile(*arguments)
            else:
                narrow_clean_tile(*arguments)


@njit(**JIT)
def head(model, noise, block, t, x, stride):
    """Both logits of every member: clean without the head's own term, moved with it, from one product."""
    tensor = 2 + LAYER_TENSORS * model.num_layers
    inputs = model.hidden_size
    project(model, noise, block, t, LAYER_PRODUCTS * model.num_layers, tensor, x, stride, inputs, 1)
    shift = product_shift(inputs)
    w = tensor_at(model, tensor)
    start = model.starts + 4 * load_long(model.start + 8 * tensor)
    bits, bits_row = block.words + a_signs(model, tensor), block.words_row
    clean = block.logits
    moved = clean + 256 * block.padded
    for n in range(0, 256, COLUMNS):
        panel = w + (n & -64) * inputs + 4 * (n & 63)
        for i in range(0, block.padded, ROWS):
            both_tile(
                x + i * stride, stride, panel, 256, inputs >> 2, start + 4 * n, shift,
                clean + 256 * i + n, 256, 0, bits + i * bits_row + (n >> 3), bits_row,
                block.gains + 8 * i, moved + 256 * i + n,
            )  # fmt: skip


@njit(**JIT)
def vector(model, noise, block, t, i, tensor, j, moves):
    """Sixteen gains or biases as member i has them at this token."""
    v = load_i8(tensor_at(model, tensor) + j)
    if moves:
        step = splat(token_sign(block, t, i) * noise.vector_step)
        bits = block.words + block.words_row * i + a_signs(model, tensor) + (j >> 3)
        v = clip8_lanes(v + select_bits(bits, step, splat(0) - step))
    return v


@njit(**JIT)
def free(v):
    """1 where a clipped value could still move either way, 0 at +-127."""
    return minimum(splat(1), splat(LIMIT) - absolute(v))


@njit(**JIT)
def norm_rows(model, noise, tables, block, t, tensor, x, out):
    """out = clip8((x * gain) // max(1, mean |x|)), as offset bytes.

    The division by m is a multiplication by floor(2**s / m) with s = 15 + ceil(log2 m), rounded half-way
    between multiples: exact for |x * gain| <= 127 * 127, see reciprocal.py; the product stays below 2**31.
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
        factor = splat(load_long(tables.reciprocal + 8 * mean))
        shift = load_long(tables.reciprocal_shift + 8 * mean)
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
    x = block.bytes
    read, past = x + IN * plane, x + PAST * plane
    one, two, gate = x + PRODUCT_1 * plane, x + PRODUCT_2 * plane, x + GATE * plane
    mid = block.mid
    moves = noise.mode != CLEAN
    bias_moves = noise.mode == MOVED

    for i in range(members):
        byte = np.int64(tokens[row + i // block.text_share, t])
        if byte == 0:
            for layer in range(model.num_layers):
                for j in range(0, d, 16):
                    store_offset(state_at(block, layer, i) + j, splat(0))
        weights = model.packed + byte * d
        signs = block.words + block.words_row * i
        if moves:
            a = embedding_sign(model, block, i, byte)
            step = splat(token_sign(block, t, i) * a * noise.vector_step)
            for j in range(0, d, 16):
                move = select_bits(signs + b_signs(model, 0) + (j >> 3), step, splat(0) - step)
                store_i8(x + i * stride + j, clip8_lanes(load_i8(weights + j) + move))
        else:
            for j in range(0, d, 16):
                store_i8(x + i * stride + j, load_i8(weights + j))

    for layer in range(model.num_layers):
        first = 1 + LAYER_TENSORS * layer
        slot = LAYER_PRODUCTS * layer
        h = block.states + layer * plane

        norm_rows(model, noise, tables, block, t, first + LN1, x, read)
        gate_products(model, noise, block, t, layer, W_F, read, h, one, two)
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

        gate_products(model, noise, block, t, layer, W_H, read, past, one, two)
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
                if traced and i % block.text_share == 0:
                    f = load_i8(gate + at)
                    to = arrived_at(model, block, i // block.text_share, t, layer) + j
                    store_i8(to + V_F * d, free(f) * minimum(splat(LIMIT), absolute(c - old)))
                    store_i8(to + V_H * d, free(c) * ((f + splat(LIMIT)) >> 1))

        norm_rows(model, noise, tables, block, t, first + LN2, x, read)
        product(
            model, noise, block, t, slot + P_UP, first + W_UP, first + W_UP, read, stride, d, 4 * d, mid,
            4 * stride, OFFSET, 1,
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
                down = load_i8(one + at)
                new = clip8_lanes(load_i8(x + at) + down)
                store_i8(x + at, new)
                if traced and i % block.text_share == 0:
                    to = arrived_at(model, block, i // block.text_share, t, layer)
                    store_i8(to + V_DOWN * d + j, free(down) * free(new) * splat(LIMIT))
                    for k in range(4 * j, 4 * j + 64, 16):
                        middle = load_offset(mid + 4 * i * stride + k)
                        store_i8(to + V_UP * d + k, free(middle) * splat(LIMIT))

    norm_rows(model, noise, tables, block, t, 1 + LAYER_TENSORS * model.num_layers, x, read)
    if traced:
        keep_inputs(model, block, t, model.num_layers, X_U, read, stride, d)


@njit(**JIT)
def gate_products(model, noise, block, t, layer, w, x, y, one, two):
    """The two products that meet in a gate: one = w . x, two = u . y, for w W_F or W_H.

    In recipe egg they share their output signs. A step along the input goes through w alone, twice as far.
    """
    d, row = model.hidden_size, block.stride
    slot = LAYER_PRODUCTS * layer + (P_W_F if w == W_F else P_W_H)
    w += 1 + LAYER_TENSORS * layer
    u = w + U_F - W_F
    signs = w if noise.tie_gates else u
    product(model, noise, block, t, slot, w, w, x, row, d, d, one, row, 0, 2)
    product(model, noise, block, t, slot + P_U_F - P_W_F, u, signs, y, row, d, d, two, row, 0, 0)


@njit(**JIT)
def keep_inputs(model, block, t, layer, kind, x, x_row, count):
    """Copy the first member of every group's input into the trace."""
    d = model.hidden_size
    row = (LAYER_INPUTS * model.num_layers + 1) * d
    to = block.inputs + t * row + (LAYER_INPUTS * layer + kind) * d
    step = block.length * row
    for group in range(block.members // block.text_share):
        at = x + group * block.text_share * x_row
        for j in range(0, count, 16):
            store_i8(to + group * step + j, load_i8(at + j))


@njit(**JIT)
def load_states(model, block, states, row):
    """Start from the rows' states.

    states : (rows, L, D) int8
    """
    base = address(states)
    for i in range(block.members):
        for layer in range(model.num_layers):
            row_at = (row + i // block.state_share) * model.num_layers + layer
            at = base + row_at * model.hidden_size
            for j in range(0, model.hidden_size, 16):
                store_offset(state_at(block, layer, i) + j, load_i8(at + j))


@njit(**JIT)
def save_states(model, block, states, row):
    """Keep the states of the members whose state goes on.

    states : (rows, L, D) int8, written
    """
    base = address(states)
    for i in range(block.keep, block.members, block.state_share):
        for layer in range(model.num_layers):
            row_at = (row + i // block.state_share) * model.num_layers + layer
            at = base + row_at * model.hidden_size
            for j in range(0, model.hidden_size, 16):
                store_i8(at + j, load_offset(state_at(block, layer, i) + j))


@njit(**JIT)
def run_sequences(model, noise, tables, block, tokens, states_in, states_out, row, logits):
    """Unperturbed: logits for the block's sequences, beginning at ``row``.

    tokens : (sequences, T) uint8
    states_in, states_out : (sequences, L, D) int8
    logits : (sequences, T, 256) int8, written
    """
    load_states(model, block, states_in, row)
    plane = block.padded * block.stride
    tensor = 2 + LAYER_TENSORS * model.num_layers
    out = address(logits)
    for t in range(block.length):
        read_token(model, noise, tables, block, t, tokens, row, False)
        product(
            model, noise, block, t, 0, tensor, tensor, block.bytes + IN * plane, block.stride,
            model.hidden_size, 256, block.logits, 256, 0, 0,
        )  # fmt: skip
        for i in range(block.members):
            for j in range(0, 256, 16):
                store_i8(
                    out + 256 * ((row + i) * block.length + t) + j,
                    load_i8(block.logits + 256 * i + j),
                )
    save_states(model, block, states_out, row)


@njit(**JIT)
def run_pair_block(model, noise, tables, block, tokens, states_in, states_out, row, first, scores):
    """Recipe paper: scores of the block's pairs, beginning at pair ``row``.

    tokens : (pairs, T + 1) uint8
    states_in, states_out : (2 * pairs, L, D) int8
    scores : (2 * pairs,) int32 in 1/16 bit, added to
    """
    load_states(model, block, states_in, 2 * row)
    draw_signs(model, noise, block, first + row, 2)
    plane = block.padded * block.stride
    for t in range(block.length):
        read_token(model, noise, tables, block, t, tokens, row, False)
        head(model, noise, block, t, block.bytes + IN * plane, block.stride)
        for i in range(block.members):
            target = np.int64(tokens[row + (i >> 1), t + 1])
            at = block.logits + 256 * (block.padded + i)
            scores[2 * row + i] += score(at, target, tables, False)
    save_states(model, block, states_out, 2 * row)


@njit(**JIT)
def run_group_block(model, noise, tables, block, tokens, states_in, states_out, row, first, s0, s1):
    """Recipe egg: the block's groups, beginning at group ``row``, read the chunk; what votes need stays in the block.

    tokens : (groups, T + 1) uint8
    states_in, states_out : (groups, L, D) int8
    s0, s1 : (T, members of the block) int32, clean and moved scores in 1/256 bit
    """
    load_states(model, block, states_in, row)
    draw_signs(model, noise, block, first, 1)
    plane = block.padded * block.stride
    for t in range(block.length):
        read_token(model, noise, tables, block, t, tokens, row, True)
        head(model, noise, block, t, block.bytes + IN * plane, block.stride)
        for i in range(block.members):
            target = np.int64(tokens[row + i // block.text_share, t + 1])
            at = block.logits + 256 * i
            s0[t, i] = score(at, target, tables, True)
            s1[t, i] = score(at + 256 * block.padded, target, tables, True)
    save_states(model, block, states_out, row)
