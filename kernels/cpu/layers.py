"""A few sequences read a stretch of text layer by layer, where their rows alone would leave tiles of products empty.

Of a layer's products only those with the state, u_f and u_h, wait for the byte before. All others are taken for the
whole stretch at once: its bytes lie in rows beside each other, byte t of member i in row t * members + i. Each number
is computed as in forward.py, so that the results are the same.
"""

import numpy as np
from numba import njit

from egg.kernels.arithmetic import LIMIT
from egg.kernels.cpu import structures as st
from egg.kernels.cpu.forward import clip8_half, head, load_states, norm_rows, product, save_states, vector
from egg.kernels.cpu.simd import (
    address,
    load_half,
    load_half_offset,
    load_i8,
    splat,
    splat_half,
    store_half,
    store_half_offset,
    store_i8,
    store_offset,
    upper_product,
)
from egg.kernels.cpu.structures import JIT, OFFSET, state_at


@njit(**JIT)
def read_layers(model, noise, tables, wide, block, tokens, row, begin, states, logits):
    """Logits and states of the block's sequences, from ``row`` on, after ``block.length`` bytes from ``begin`` on.

    wide : a block whose members are the sequences' bytes; ``block`` holds the states
    tokens : (sequences, T) uint8
    states : (members, L, D) int8, before and then after
    logits : (sequences, T, 256) int8, written
    """
    d, stride, members, limit = model.hidden_size, wide.stride, block.members, splat_half(LIMIT)
    plane, narrow = wide.padded * stride, block.padded * stride
    x, read = wide.bytes + st.X * plane, wide.bytes + st.IN * plane
    w_f, w_h = wide.bytes + st.PRODUCT_1 * plane, wide.bytes + st.PRODUCT_2 * plane
    past, gate = block.bytes + st.PAST * narrow, block.bytes + st.GATE * narrow
    u_f, u_h = block.bytes + st.PRODUCT_1 * narrow, block.bytes + st.PRODUCT_2 * narrow

    load_states(model, block, states, 0)
    for t in range(block.length):
        for i in range(members):
            weights = model.packed + np.int64(tokens[row + i, begin + t]) * d
            for j in range(0, d, 16):
                store_i8(x + (t * members + i) * stride + j, load_i8(weights + j))

    for layer in range(model.num_layers):
        first = 1 + st.LAYER_TENSORS * layer
        h = block.states + layer * narrow
        norm_rows(model, noise, tables, wide, first + st.LN1, x, read)
        product(model, noise, wide, 0, first + st.W_F, read, stride, d, d, w_f, stride, 0)
        product(model, noise, wide, 0, first + st.W_H, read, stride, d, d, w_h, stride, 0)
        for t in range(block.length):
            for i in range(members):
                if tokens[row + i, begin + t] == 0:
                    for j in range(0, d, 16):
                        store_offset(state_at(block, layer, i) + j, splat(0))
            product(model, noise, block, 0, first + st.U_F, h, stride, d, d, u_f, stride, 0)
            for i in range(members):
                for j in range(0, d, 32):
                    at, of = i * stride + j, (t * members + i) * stride + j
                    bias = vector(model, noise, block, i, first + st.B_F, j)
                    f = clip8_half(load_half(w_f + of) + load_half(u_f + at) + bias)
                    store_half(gate + at, f, d)
                    store_half_offset(past + at, ((f + limit) * load_half_offset(h + at)) >> 8, d)
            product(model, noise, block, 0, first + st.U_H, past, stride, d, d, u_h, stride, 0)
            for i in range(members):
                for j in range(0, d, 32):
                    at, of = i * stride + j, (t * members + i) * stride + j
                    bias = vector(model, noise, block, i, first + st.B_H, j)
                    c = clip8_half(load_half(w_h + of) + load_half(u_h + at) + bias)
                    f, old = load_half(gate + at), load_half_offset(h + at)
                    new = old + upper_product((f + limit) << 7, (c - old) << 1)  # see forward.py
                    store_half_offset(h + at, new, d)
                    store_half(x + of, clip8_half(load_half(x + of) + new), d)
        norm_rows(model, noise, tables, wide, first + st.LN2, x, read)
        product(model, noise, wide, 0, first + st.W_UP, read, stride, d, 4 * d, wide.mid, 4 * stride, OFFSET)
        product(model, noise, wide, 0, first + st.W_DOWN, wide.mid, 4 * stride, 4 * d, d, w_f, stride, 0)
        for i in range(wide.members):
            for j in range(0, d, 32):
                at = i * stride + j
                store_half(x + at, clip8_half(load_half(x + at) + load_half(w_f + at)), d)

    norm_rows(model, noise, tables, wide, 1 + st.LAYER_TENSORS * model.num_layers, x, read)
    head(model, noise, wide, 0, wide.logits)
    out = address(logits)
    for t in range(block.length):
        for i in range(members):
            for j in range(0, 256, 16):
                to = out + 256 * ((row + i) * logits.shape[1] + begin + t) + j
                store_i8(to, load_i8(wide.logits + 256 * (t * members + i) + j))
    save_states(model, block, states, 0)
