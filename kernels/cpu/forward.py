"""A block of members reads a chunk of text: the fused forward pass.

A block is small enough for its activations, states and signs to stay in cache; each weight panel,
once loaded, serves every member of the block. All stages of a token run on the block before the next
token; signs are read as bits, straight into mask registers. The same code runs members whose weights
move (recipe paper, mode MOVED), readers and plain sequences (CLEAN).

Rows are (members, stride) bytes, stride = max(64, D); the bytes beyond D are zeros. What a product reads is kept as
offset bytes, see simd.py.
"""

import numpy as np
from numba import njit

from egg.kernels.arithmetic import LIMIT
from egg.kernels.cpu import structures as st
from egg.kernels.cpu.adapters import moves_factors, through_adapter
from egg.kernels.cpu.noise import summed_factors, summed_projection, summed_row, summed_tile, summed_vector
from egg.kernels.cpu.score import score
from egg.kernels.cpu.signs import draw_signs
from egg.kernels.cpu.simd import (
    absolute,
    absolute_half,
    add_magnitude_bytes,
    add_signed_bytes,
    address,
    clip8_lanes,
    interleave_bytes,
    leading_zeros,
    load_half,
    load_half_offset,
    load_i8,
    load_long,
    load_offset,
    maximum_half,
    minimum,
    minimum_half,
    select_bits,
    select_half,
    splat,
    splat_half,
    store_half,
    store_half_offset,
    store_i8,
    store_offset,
    store_word,
    total,
    upper_product,
    upper_unsigned,
)
from egg.kernels.cpu.structures import JIT, OFFSET, gain, product_shift, quad_at, saved_at, side, state_at, tensor_at
from egg.kernels.cpu.tiles import COLUMNS, ROWS, clean_tile, fine_tile, moved_tile, narrow_clean_tile, narrow_moved_tile
from egg.kernels.philox import ADAPTER_SIGNS, DIRECTION_SIGNS


@njit(**JIT)
def project(model, noise, block, tensor, x, x_row, inputs):
    """What every member's accumulators gain for a = +1 and -1: gain(p) and gain(-p), p = r (b . x)."""
    bits = block.words + st.b_signs(model, tensor)
    for i in range(block.members):
        acc = splat(0)
        for k in range(0, inputs, 64):
            acc = add_signed_bytes(acc, x + i * x_row + k, bits + i * block.words_row + (k >> 3))
        p = side(i) * total(acc)  # |p| <= 127 * 4,096
        store_word(block.gains + 8 * i, gain(p, noise.shift))
        store_word(block.gains + 8 * i + 4, gain(-p, noise.shift))


@njit(**JIT)
def product(model, noise, block, t, tensor, x, x_row, inputs, outputs, out, out_row, flip):
    """clip8((W . x [+ gain(a p)]) >> shift(K)) of every member.

    x, out : addresses of (members, inputs) offset bytes and (members, outputs) bytes; flip OFFSET writes offset bytes
    """
    if through_adapter(model, noise, block, t, tensor, x, x_row, inputs, outputs, out, out_row, flip, False):
        return
    shift = product_shift(inputs)
    moved = noise.mode == st.MOVED
    if moved and not summed_projection(noise, block.members, tensor, x, x_row, inputs):
        project(model, noise, block, tensor, x, x_row, inputs)
    w = tensor_at(model, tensor)
    start = model.starts + 4 * load_long(model.start + 8 * tensor)
    bits, bits_row = block.words + st.a_signs(model, tensor), block.words_row
    width = min(64, outputs)
    columns = min(COLUMNS, width)
    for n in range(0, outputs, columns):
        panel = w + (n & -width) * inputs + 4 * (n & (width - 1))
        for i in range(0, block.padded, ROWS):
            common = (
                x + i * x_row,
                x_row,
                panel,
                4 * width,
                inputs >> 2,
                start + 4 * n,
                shift,
                out + i * out_row + n,
                out_row,
                flip,
            )
            if moved and summed_tile(noise, tensor, i, n, columns, 0, *common):
                continue
            arguments = (*common, bits + i * bits_row + (n >> 3), bits_row, block.gains + 8 * i)
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
def head(model, noise, block, t, out):
    """Every member's logits, (members, 256) int8 at an address."""
    x = block.bytes + st.IN * block.padded * block.stride
    tensor = 2 + st.LAYER_TENSORS * model.num_layers
    product(model, noise, block, t, tensor, x, block.stride, model.hidden_size, 256, out, 256, 0)


@njit(**JIT)
def fine_head(model, block, t):
    """Every reader's logits with eight more bits, in block.fine."""
    x = block.bytes + st.IN * block.padded * block.stride
    tensor = 2 + st.LAYER_TENSORS * model.num_layers
    inputs, row = model.hidden_size, block.stride
    if through_adapter(model, st.UNMOVED, block, t, tensor, x, row, inputs, 256, block.fine, 512, 0, True):
        return
    w = tensor_at(model, tensor)
    start = model.starts + 4 * load_long(model.start + 8 * tensor)
    for n in range(0, 256, COLUMNS):
        panel = w + (n & -64) * inputs + 4 * (n & 63)
        for i in range(0, block.padded, ROWS):
            fine_tile(
                x + i * row,
                row,
                panel,
                256,
                inputs >> 2,
                start + 4 * n,
                product_shift(inputs) - 6,
                block.fine + 512 * i + 2 * n,
                512,
                0,
                0,
                0,
                0,
            )


@njit(**JIT)
def vector(model, noise, block, i, tensor, j):
    """Gains or biases as member i has them, 32 of them."""
    v = load_half(tensor_at(model, tensor) + j)
    if noise.mode == st.MOVED:
        own = summed_vector(noise, tensor, i)
        if own:
            return load_half(own + j)
        step = splat_half(side(i) * noise.vector_step)
        bits = block.words + block.words_row * i + st.a_signs(model, tensor) + (j >> 3)
        v = clip8_half(v + select_half(bits, step, splat_half(0) - step))
    return v


@njit(**JIT)
def clip8_half(v):
    """Limit lanes to [-127, 127]."""
    return maximum_half(splat_half(-LIMIT), minimum_half(splat_half(LIMIT), v))


@njit(**JIT)
def flag(v, bit):
    """A power of two where a clipped value could still move either way, 0 at +-127."""
    return minimum_half(splat_half(1), splat_half(LIMIT) - absolute_half(v)) * splat_half(bit)


@njit(**JIT)
def free(v):
    """1 where a clipped value could still move either way, 0 at +-127."""
    return minimum(splat(1), splat(LIMIT) - absolute(v))


@njit(**JIT)
def log2_of(power):
    """log2 of a power of two."""
    return 63 - leading_zeros(power)


@njit(**JIT)
def mean_magnitude(x, d):
    """max(1, sum |x| // D) of D signed bytes at an address."""
    magnitude = splat(0)
    if d == 16:
        magnitude = absolute(load_i8(x))
    else:
        for j in range(0, d, 64):
            magnitude = add_magnitude_bytes(magnitude, x + j)
    return max(1, total(magnitude) >> log2_of(d))


@njit(**JIT)
def norm_rows(model, noise, tables, block, tensor, x, out):
    """out = clip8((x * gain) // max(1, mean |x|)), as offset bytes.

    The division by m is a multiplication, exact for |x * gain| <= 127 * 127, see reciprocal.py: what is divided is
    first limited, so that the quotient is, and raised above zero. It is at most 254 * 127 + 1 then: 16 bits.
    """
    d, last = model.hidden_size, splat_half(LIMIT)
    for i in range(block.members):
        at, to = x + i * block.stride, out + i * block.stride
        mean = mean_magnitude(at, d)
        factor = splat_half(load_long(tables.reciprocal + 8 * mean))
        shift = load_long(tables.reciprocal_shift + 8 * mean)
        offset = splat_half(load_long(tables.reciprocal_offset + 8 * mean))
        most = splat_half(LIMIT * mean)
        for j in range(0, d, 32):
            v = load_half(at + j) * vector(model, noise, block, i, tensor, j)
            v = maximum_half(splat_half(0) - most, minimum_half(most, v)) + offset
            store_half_offset(to + j, (upper_unsigned(v, factor) >> shift) - last, d)


@njit(**JIT)
def read_token(model, noise, tables, block, t, tokens, row, keeps):
    """One byte through the network, up to the head's input in block.bytes[IN].

    tokens : (rows, T or T + 1) uint8, of which the block's begin at ``row``
    keeps : what to leave behind: NOTHING, FOR_VOTES or FOR_STATIONS
    """
    d, stride, members = model.hidden_size, block.stride, block.members
    plane = block.padded * stride
    x = block.bytes
    read, past = x + st.IN * plane, x + st.PAST * plane
    one, two, gate = x + st.PRODUCT_1 * plane, x + st.PRODUCT_2 * plane, x + st.GATE * plane
    mid, limit = block.mid, splat_half(LIMIT)

    for i in range(members):
        byte = np.int64(tokens[row + i // block.text_share, t])
        if byte == 0:
            for layer in range(model.num_layers):
                for j in range(0, d, 16):
                    store_offset(state_at(block, layer, i) + j, splat(0))
        weights = model.packed + byte * d
        if noise.mode == st.MOVED:
            if summed_row(noise, model, i, byte, x + i * stride):
                continue
            bits = block.words + block.words_row * i + st.b_signs(model, 0)
            a = st.embedding_sign(model, block, i, byte)
            step = splat(side(i) * a * noise.vector_step)
            for j in range(0, d, 16):
                move = select_bits(bits + (j >> 3), step, splat(0) - step)
                store_i8(x + i * stride + j, clip8_lanes(load_i8(weights + j) + move))
        else:
            for j in range(0, d, 16):
                store_i8(x + i * stride + j, load_i8(weights + j))

    for layer in range(model.num_layers):
        first = 1 + st.LAYER_TENSORS * layer
        inputs = st.LAYER_INPUTS * layer * d
        h = block.states + layer * plane

        if keeps == st.FOR_STATIONS:
            save_rows(model, block, t, layer, st.S_X, x)
        norm_rows(model, noise, tables, block, first + st.LN1, x, read)
        product(model, noise, block, t, first + st.W_F, read, stride, d, d, one, stride, 0)
        product(model, noise, block, t, first + st.U_F, h, stride, d, d, two, stride, 0)
        if keeps:
            keep_inputs(block, t, inputs + st.X_U * d, read, stride, d)
            keep_inputs(block, t, inputs + st.X_H * d, h, stride, d)
        for i in range(members):
            for j in range(0, d, 32):
                at = i * stride + j
                w_f, u_f = load_half(one + at), load_half(two + at)
                f = clip8_half(w_f + u_f + vector(model, noise, block, i, first + st.B_F, j))
                store_half(gate + at, f, d)
                # (f + 127) |h| <= 254 * 127 < 2**15
                store_half_offset(past + at, ((f + limit) * load_half_offset(h + at)) >> 8, d)
                if keeps:
                    clear = flag(w_f, st.FREE_W_F) + flag(u_f, st.FREE_U_F)
                    store_half(saved_at(model, block, t, layer, st.S_PRODUCTS, i) + j, clear, d)

        product(model, noise, block, t, first + st.W_H, read, stride, d, d, one, stride, 0)
        product(model, noise, block, t, first + st.U_H, past, stride, d, d, two, stride, 0)
        if keeps:
            keep_inputs(block, t, inputs + st.X_PAST * d, past, stride, d)
        for i in range(members):
            for j in range(0, d, 32):
                at = i * stride + j
                w_h, u_h = load_half(one + at), load_half(two + at)
                c = clip8_half(w_h + u_h + vector(model, noise, block, i, first + st.B_H, j))
                f, old = load_half(gate + at), load_half_offset(h + at)
                # (f + 127) (c - h) >> 8 as (f + 127) 2**7 times 2 (c - h) >> 16: factors below 2**15 and 2**9. The step
                # is convex, so the state stays in [-127, 127]
                new = old + upper_product((f + limit) << 7, (c - old) << 1)
                store_half_offset(h + at, new, d)
                middle = clip8_half(load_half(x + at) + new)
                store_half(x + at, middle, d)
                if keeps:
                    store_half(saved_at(model, block, t, layer, st.S_GATE, i) + j, f, d)
                    store_half(saved_at(model, block, t, layer, st.S_CANDIDATE, i) + j, c, d)
                    store_half(saved_at(model, block, t, layer, st.S_STATE, i) + j, old, d)
                    clear = flag(middle, st.FREE_MIDDLE) + flag(load_half_offset(read + at), st.FREE_U)
                    store_half(saved_at(model, block, t, layer, st.S_FREE, i) + j, clear, d)
                    products = saved_at(model, block, t, layer, st.S_PRODUCTS, i) + j
                    clear = flag(w_h, st.FREE_W_H) + flag(u_h, st.FREE_U_H)
                    store_half(products, load_half(products) + clear, d)

        if keeps == st.FOR_STATIONS:
            save_rows(model, block, t, layer, st.S_MIDDLE, x)
        norm_rows(model, noise, tables, block, first + st.LN2, x, read)
        product(model, noise, block, t, first + st.W_UP, read, stride, d, 4 * d, mid, 4 * stride, OFFSET)
        product(model, noise, block, t, first + st.W_DOWN, mid, 4 * stride, 4 * d, d, one, stride, 0)
        if keeps:
            keep_inputs(block, t, inputs + st.X_MID * d, mid, 4 * stride, 4 * d)
        if keeps == st.FOR_STATIONS:
            inputs = (st.LAYER_INPUTS * model.num_layers + 1 + layer) * d
            keep_inputs(block, t, inputs, read, stride, d)
            save_rows(model, block, t, layer, st.S_DOWN, one)
            for i in range(members):
                to = saved_at(model, block, t, layer, st.S_Y, 0) + 4 * stride * i
                for j in range(0, 4 * d, 16):
                    store_i8(to + j, load_offset(mid + 4 * stride * i + j))
        for i in range(members):
            for j in range(0, d, 32):
                at = i * stride + j
                down = load_half(one + at)
                new = clip8_half(load_half(x + at) + down)
                store_half(x + at, new, d)
                if keeps:
                    to = saved_at(model, block, t, layer, st.S_FREE, i) + j
                    clear = flag(new, st.FREE_OUT) + flag(down, st.FREE_DOWN)
                    clear = clear + flag(load_half_offset(read + at), st.FREE_V)
                    store_half(to, load_half(to) + clear, d)

    norm_rows(model, noise, tables, block, 1 + st.LAYER_TENSORS * model.num_layers, x, read)
    if keeps:
        keep_inputs(block, t, st.LAYER_INPUTS * model.num_layers * d, read, stride, d)


@njit(**JIT)
def save_rows(model, block, t, layer, kind, x):
    """Copy every member's (D,) bytes at an address to where they stay."""
    for i in range(block.members):
        to = saved_at(model, block, t, layer, kind, i)
        for j in range(0, model.hidden_size, 16):
            store_i8(to + j, load_i8(x + i * block.stride + j))


@njit(**JIT)
def keep_inputs(block, t, column, x, x_row, count):
    """Copy every member's input of a product, offset bytes, into the votes' rows from ``column`` on."""
    width = min(64, count)
    for i in range(0, block.padded, 4):
        at, quad = x + i * x_row, block.quad + (i >> 2) * block.length + t
        for k in range(0, count, 16):
            interleave_bytes(
                quad_at(block.x, block.quads, column, k, width, quad),
                at + k,
                at + x_row + k,
                at + 2 * x_row + k,
                at + 3 * x_row + k,
            )


@njit(**JIT)
def load_states(model, block, states, row):
    """Start from the members' states, which begin at ``row``.

    states : (rows, L, D) int8
    """
    base = address(states)
    for i in range(block.members):
        for layer in range(model.num_layers):
            at = base + ((row + i) * model.num_layers + layer) * model.hidden_size
            for j in range(0, model.hidden_size, 16):
                store_offset(state_at(block, layer, i) + j, load_i8(at + j))


@njit(**JIT)
def save_states(model, block, states, row):
    """Keep the members' states.

    states : (rows, L, D) int8, written
    """
    base = address(states)
    for i in range(block.members):
        for layer in range(model.num_layers):
            at = base + ((row + i) * model.num_layers + layer) * model.hidden_size
            for j in range(0, model.hidden_size, 16):
                store_i8(at + j, load_offset(state_at(block, layer, i) + j))


@njit(**JIT)
def run_sequences(model, noise, tables, block, tokens, states_in, states_out, row, logits):
    """Logits for the block's sequences, beginning at ``row``, which read with the same or with moved factors.

    tokens : (sequences, T) uint8
    states_in, states_out : (sequences, L, D) int8
    logits : (sequences, T, 256) int8, written
    """
    load_states(model, block, states_in, row)
    if moves_factors(model) and not summed_factors(noise, model, block.members, row >> 1):
        draw_signs(noise, block, ADAPTER_SIGNS, row >> 1)
    out = address(logits)
    for t in range(block.length):
        read_token(model, noise, tables, block, t, tokens, row, st.NOTHING)
        head(model, noise, block, t, block.logits)
        for i in range(block.members):
            for j in range(0, 256, 16):
                to = out + 256 * ((row + i) * block.length + t) + j
                store_i8(to, load_i8(block.logits + 256 * i + j))
    save_states(model, block, states_out, row)


@njit(**JIT)
def run_pair_block(model, noise, tables, block, tokens, states_in, states_out, row, first, scores):
    """Recipe paper: scores of the block's pairs, beginning at pair ``row``.

    tokens : (pairs, T + 1) uint8
    states_in, states_out : (2 * pairs, L, D) int8
    scores : (2 * pairs,) int32 in 1/16 bit, added to
    """
    load_states(model, block, states_in, 2 * row)
    if not summed_factors(noise, model, block.members, first + row):
        draw_signs(noise, block, DIRECTION_SIGNS, first + row)
    for t in range(block.length):
        read_token(model, noise, tables, block, t, tokens, row, st.NOTHING)
        head(model, noise, block, t, block.logits)
        for i in range(block.members):
            target = np.int64(tokens[row + (i >> 1), t + 1])
            scores[2 * row + i] += score(block.logits + 256 * i, target, tables)
    save_states(model, block, states_out, 2 * row)
