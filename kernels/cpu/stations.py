"""Stations of recipe egg: branches where a matrix reads, and the way back through them.

    axes        i readers of a block, n outputs of a matrix, k its inputs and branches, j places, t bytes, l layers
    a, g        (i, n) int8                a reader's outputs, and what they are worth
    moves       what branch k adds to them, the same for all bytes of a step:
                [panel of 64 branches][four outputs][branch] words of four bytes
    F           (i, k) int32               fitness, then credit of the places

A branch's outputs are saturating additions of bytes, 64 at a time, and what they are worth one product of bytes: three
instructions where the matrix itself takes one (tiles.py). Sixteen branches lie in the lanes of a vector, so that sums
need no shuffling, and each load of moves serves four readers. Nothing of a matrix is read here but its branches' moves.

    work        g of the outputs of u_h, of u_f, of w_h and of w_f (before: of w_down, and the MLP's middle's): bytes;
                F, F of a second matrix, e and what past is worth: int32, all (i, stride), the middle's and the first F
                (i, 4 stride); ahead (l, i, stride) and base (i,): int32
"""

import numpy as np
from numba import njit

from egg.kernels.arithmetic import LIMIT, STATION_MEAN
from egg.kernels.cpu import structures as st
from egg.kernels.cpu.credit import (
    cast,
    deposit,
    kind_shift,
    limit,
    magnitudes,
    move_shift,
    narrow,
    pass_norm,
    round_shift,
    sum_magnitudes,
    transform_rows,
    vector_at,
    walsh_hadamard,
)
from egg.kernels.cpu.forward import free, log2_of
from egg.kernels.cpu.simd import (
    add_magnitudes,
    address,
    clip8_lanes,
    load_i8,
    load_i32,
    load_long,
    maximum,
    minimum,
    splat,
    store_i8,
    store_i32,
    store_long,
    store_word,
    total,
)
from egg.kernels.cpu.structures import JIT, OFFSET, array_at, load_as, product_shift, quad_at, saved_at, tensor_at
from egg.kernels.cpu.tasks import what_votes
from egg.kernels.cpu.tiles import COLUMNS, ROWS, narrow_station_tile, station_tile


def work_bytes(layers: int, padded: int, stride: int) -> int:
    """Bytes of a block's work for the way back, see above."""
    return padded * (stride * (6 + 4 * (7 + layers)) + 4)


@njit(**JIT)
def prepare_moves(weights, signs, turns, transformed, moves):
    """How the branches of a matrix move its outputs.

    weights : (N, K) int8
    signs, turns : (K,) int32, s and H[k][r]
    transformed : (N, K) int32, written: R
    moves : (N K,) int8, written: M, see above
    returns : m
    """
    outputs, inputs = weights.shape
    magnitude = transform_rows(weights, signs, turns, 0, outputs, transformed)
    m = move_shift(magnitude, outputs * inputs, STATION_MEAN)
    width = min(64, inputs)
    low = splat(255)
    for n in range(0, outputs, 4):
        at = address(transformed) + 4 * inputs * n
        for k in range(0, inputs, 16):
            word = splat(0)
            for r in range(4):
                word = word | ((clip8_lanes(round_shift(load_i32(at + 4 * (inputs * r + k)), m)) & low) << (8 * r))
            panel = address(moves) + (k & -width) * outputs
            store_i32(panel + 4 * ((n >> 2) * width + (k & (width - 1))), word)
    return m


@njit(**JIT)
def score_branches(model, block, draw, tensor, a, g, row, inputs, outputs, fitness):
    """Fitness of the branches of a matrix for every reader.

    a, g : addresses of the first reader's outputs and their credit, bytes
    row : from one reader's to the next's
    fitness : address of (readers, 4 stride) int32, written
    """
    base = block.work + block.padded * block.stride * (6 + 4 * (7 + model.num_layers))
    for i in range(block.members):
        sums = splat(0)
        for n in range(0, outputs, 16):
            at = i * row + n
            sums = sums + (load_i8(a + at) + splat(OFFSET)) * load_i8(g + at)
        store_word(base + 4 * i, total(sums))
    moves = draw.station_moves + load_long(model.offset + 8 * tensor)
    width = min(64, inputs)
    columns = min(COLUMNS, width)
    for k in range(0, inputs, columns):
        panel = moves + (k & -width) * outputs + 4 * (k & (width - 1))
        for i in range(0, block.padded, ROWS):
            arguments = (
                a + i * row,
                row,
                g - a,
                panel,
                4 * width,
                outputs >> 2,
                base + 4 * i,
                fitness + 16 * block.stride * i + 4 * k,
                16 * block.stride,
            )
            if columns == COLUMNS:
                station_tile(*arguments)
            else:
                narrow_station_tile(*arguments)


@njit(**JIT)
def gather_credit(x, places, signs, turns, place, shift):
    """From the fitness of a reader's branches to the credit of the places, 16 bits, at the same address.

    x : address of (places,) int32, |F| < 2**19, and together below 2**30
    shift : -8 to 30, or below: -8
    """
    shift = max(-8, shift)
    for k in range(0, places, 16):
        store_i32(x + 4 * k, load_i32(x + 4 * k) * load_i32(turns + 4 * k))
    walsh_hadamard(x, places)
    most = splat(32767)
    for j in range(0, places, 16):
        v = load_i32(x + 4 * j) * load_i32(signs + 4 * j)
        if shift < 0:  # what is beyond the limit stays beyond it, and leaves no int32
            v = maximum(splat(-(1 << 20)), minimum(splat(1 << 20), v))
        store_i32(x + 4 * j, maximum(splat(0) - most, minimum(most, round_shift(v, shift))))
    store_word(x + 4 * place, 0)


@njit(**JIT)
def matrix_shift(draw, tensor):
    """m of a matrix."""
    return load_long(draw.station_shifts + 8 * tensor)


@njit(**JIT)
def credit_mlp(model, block, draw, t, layer, vectors):
    """The MLP of a layer: from the wire after it to the wire before it; votes of w_down, w_up and ln2.

    vectors : (1 + 4 L, D) int32, added to
    """
    d, layers, stride, padded = model.hidden_size, model.num_layers, block.stride, block.padded
    first, plane = 1 + st.LAYER_TENSORS * layer, padded * stride
    kind, more = st.LAYER_KINDS + 3 * layer + st.V_DOWN, st.LAYER_KINDS + 3 * (layers + layer)
    g, g_middle, fitness = block.work, block.work + 2 * plane, block.work + 6 * plane
    width, before = min(64, d), (st.LAYER_OUTPUTS * layer + st.V_W_DOWN) * d
    for i in range(block.members):
        wire_at = block.wire + 4 * (t * padded + i) * stride
        quad = block.quad + (i >> 2) * block.length + t
        for j in range(0, d, 16):
            clear = load_i8(saved_at(model, block, t, layer, st.S_FREE, i) + j)
            wire = load_i32(wire_at + 4 * j) * (clear & splat(st.FREE_OUT))
            store_i32(wire_at + 4 * j, wire)
            down = wire * ((clear >> 1) & splat(st.FREE_DOWN >> 1))
            cast(model, block, draw, kind, down, quad_at(block.v, block.quads, before, j, width, quad), i & 3)
            store_i8(g + i * stride + j, narrow(down, kind_shift(draw, kind)))
    if not draw.stations & st.MIDDLE:
        return

    down, y = saved_at(model, block, t, layer, st.S_DOWN, 0), saved_at(model, block, t, layer, st.S_Y, 0)
    score_branches(model, block, draw, first + st.W_DOWN, down, g, stride, 4 * d, d, fitness)
    shift = product_shift(4 * d) + log2_of(4 * d) - kind_shift(draw, kind) - matrix_shift(draw, first + st.W_DOWN)
    before = st.LAYER_OUTPUTS * layers * d + 256 + 4 * d * layer
    width = min(64, 4 * d)
    for i in range(block.members):
        at, quad = fitness + 16 * stride * i, block.quad + (i >> 2) * block.length + t
        gather_credit(at, 4 * d, draw.wide_signs, draw.wide_turns, draw.wide_place, shift)
        for n in range(0, 4 * d, 16):
            up = load_i32(at + 4 * n) * free(load_i8(y + 4 * stride * i + n))
            to = quad_at(block.v, block.quads, before, n, width, quad)
            cast(model, block, draw, more + st.V_UP, up, to, i & 3)
            store_i8(g_middle + 4 * stride * i + n, narrow(up, kind_shift(draw, more + st.V_UP)))
    if not draw.stations & st.MLP:
        return

    score_branches(model, block, draw, first + st.W_UP, y, g_middle, 4 * stride, d, 4 * d, fitness)
    shift = product_shift(d) + log2_of(d) - kind_shift(draw, more + st.V_UP) - matrix_shift(draw, first + st.W_UP)
    weight = tensor_at(model, first + st.LN2)
    for i in range(block.members):
        at = fitness + 16 * stride * i
        gather_credit(at, d, draw.signs, draw.all_turns, draw.place, shift)
        for j in range(0, d, 16):
            clear = load_i8(saved_at(model, block, t, layer, st.S_FREE, i) + j)
            arrives = minimum(splat(1), clear & splat(st.FREE_V))
            store_i32(at + 4 * j, load_i32(at + 4 * j) * arrives)
        kind = more + st.V_LN2
        x = saved_at(model, block, t, layer, st.S_MIDDLE, i)
        wire = block.wire + 4 * (t * padded + i) * stride
        pass_norm(model, block, draw, kind, x, weight, at, vector_at(vectors, layer, st.LN2_VOTES), wire, 1)


@njit(**JIT)
def cast_pair(model, block, draw, kind, credit, bias, ends, bit, to, r, g):
    """Votes of sixteen places of a gate or a candidate: of its bias, and of its matrices w and u where their own
    products are free; those of the matrices stay for their stations too.

    bias : address of sixteen int32, added to
    ends : address of the places' flags of products
    bit : FREE_W_F or FREE_W_H; the flag of u's product is the next
    to : address of the words of w's votes, of which byte r is written; u's are the next output
    g : address of sixteen bytes for u's votes, and two planes further on for w's
    """
    add_magnitudes(magnitudes(block, model, kind), credit)
    vote, flags = narrow(credit, kind_shift(draw, kind)), load_i8(ends)
    store_i32(bias, load_i32(bias) + vote)
    of_w = vote * minimum(splat(1), flags & splat(bit))
    of_u = vote * minimum(splat(1), flags & splat(2 * bit))
    deposit(to, r, of_w)
    deposit(to + 4 * block.quads * model.hidden_size, r, of_u)
    store_i8(g, of_u)
    store_i8(g + 2 * block.padded * block.stride, of_w)


@njit(**JIT)
def credit_gru(model, block, draw, t, layer, tokens, row, vectors):
    """The gated unit of a layer, likewise; and what the byte leaves to the state before it, in ``ahead``.

    tokens : (streams, T + 1) uint8, the block's beginning at ``row``
    vectors : (1 + 4 L, D) int32, added to
    """
    d, layers, stride, padded = model.hidden_size, model.num_layers, block.stride, block.padded
    first, plane = 1 + st.LAYER_TENSORS * layer, padded * stride
    gate_kind, candidate_kind = st.LAYER_KINDS + 3 * layer + st.V_GATE, st.LAYER_KINDS + 3 * layer + st.V_CANDIDATE
    g_candidate, g_gate = block.work, block.work + plane
    g_candidate_w, g_gate_w = g_candidate + 2 * plane, g_gate + 2 * plane
    fitness = block.work + 6 * plane
    second, e_all, past_all = fitness + 16 * plane, fitness + 20 * plane, fitness + 24 * plane
    ahead_all = fitness + (28 + 4 * layer) * plane
    width, before = min(64, d), st.LAYER_OUTPUTS * layer * d
    f_all, c_all = saved_at(model, block, t, layer, st.S_GATE, 0), saved_at(model, block, t, layer, st.S_CANDIDATE, 0)
    h_all = saved_at(model, block, t, layer, st.S_STATE, 0)
    # Of w_f, u_f, w_h and u_h alike, credit of f and c being 256 times what it is on the wire
    scale = product_shift(d) + log2_of(d) + 8

    for i in range(block.members):
        wire_at = block.wire + 4 * (t * padded + i) * stride
        quad = block.quad + (i >> 2) * block.length + t
        for j in range(0, d, 16):
            at = i * stride + j
            clear = load_i8(saved_at(model, block, t, layer, st.S_FREE, i) + j)
            wire = load_i32(wire_at + 4 * j) * ((clear >> 2) & splat(st.FREE_MIDDLE >> 2))
            store_i32(wire_at + 4 * j, wire)
            e = limit(wire + load_i32(ahead_all + 4 * at))
            store_i32(e_all + 4 * at, e)
            # |e| <= 2**20, times at most 256 < 2**29
            candidate = e * (load_i8(f_all + at) + splat(LIMIT)) * free(load_i8(c_all + at))
            to = quad_at(block.v, block.quads, before + st.V_W_H * d, j, width, quad)
            bias = vector_at(vectors, layer, st.B_H_VOTES) + 4 * j
            ends = saved_at(model, block, t, layer, st.S_PRODUCTS, i) + j
            cast_pair(
                model, block, draw, candidate_kind, candidate, bias, ends, st.FREE_W_H, to, i & 3, g_candidate + at
            )

    on = draw.stations & st.PAST_
    if on:
        score_branches(model, block, draw, first + st.U_H, c_all, g_candidate, stride, d, d, fitness)
    shift = scale - kind_shift(draw, candidate_kind) - matrix_shift(draw, first + st.U_H)
    for i in range(block.members):
        at_past, quad = past_all + 4 * stride * i, block.quad + (i >> 2) * block.length + t
        if on:
            gather_credit(fitness + 16 * stride * i, d, draw.signs, draw.all_turns, draw.place, shift)
        for j in range(0, d, 16):
            at = i * stride + j
            past = load_i32(fitness + 16 * stride * i + 4 * j) if on else splat(0)
            store_i32(at_past + 4 * j, past)
            f, c, old = load_i8(f_all + at), load_i8(c_all + at), load_i8(h_all + at)
            # past has 16 bits: together < 2**29 still
            gate = (load_i32(e_all + 4 * at) * (c - old) + past * old) * free(f)
            to = quad_at(block.v, block.quads, before + st.V_W_F * d, j, width, quad)
            bias = vector_at(vectors, layer, st.B_F_VOTES) + 4 * j
            ends = saved_at(model, block, t, layer, st.S_PRODUCTS, i) + j
            cast_pair(model, block, draw, gate_kind, gate, bias, ends, st.FREE_W_F, to, i & 3, g_gate + at)

    on = draw.stations & st.STATE
    if on:
        score_branches(model, block, draw, first + st.U_F, f_all, g_gate, stride, d, d, fitness)
    shift = scale - kind_shift(draw, gate_kind) - matrix_shift(draw, first + st.U_F)
    for i in range(block.members):
        if on:
            gather_credit(fitness + 16 * stride * i, d, draw.signs, draw.all_turns, draw.place, shift)
        keeps = splat(1 if np.int64(tokens[row + i, t]) else 0)
        for j in range(0, d, 16):
            at = i * stride + j
            f = load_i8(f_all + at)
            left = (splat(129) - f) * load_i32(e_all + 4 * at)
            left = left + (f + splat(LIMIT)) * load_i32(past_all + 4 * at)
            left = round_shift(left, 8)
            if on:
                left = left + load_i32(fitness + 16 * stride * i + 4 * j)
            store_i32(ahead_all + 4 * at, limit(left) * keeps)

    if not draw.stations & st.GATES:
        return
    score_branches(model, block, draw, first + st.W_F, f_all, g_gate_w, stride, d, d, fitness)
    shift_f = kind_shift(draw, gate_kind) + matrix_shift(draw, first + st.W_F)
    shift_c = kind_shift(draw, candidate_kind) + matrix_shift(draw, first + st.W_H)
    most = max(shift_f, shift_c)
    # Beyond 20 nothing is left of |F| <= 2**18.
    less_f, less_c = min(20, most - shift_f), min(20, most - shift_c)
    for i in range(block.members):
        for k in range(0, d, 16):
            store_i32(second + 4 * (stride * i + k), round_shift(load_i32(fitness + 4 * (4 * stride * i + k)), less_f))
    score_branches(model, block, draw, first + st.W_H, c_all, g_candidate_w, stride, d, d, fitness)
    kind = st.LAYER_KINDS + 3 * (layers + layer) + st.V_LN1
    weight = tensor_at(model, first + st.LN1)
    for i in range(block.members):
        at = fitness + 16 * stride * i
        for k in range(0, d, 16):
            both = load_i32(second + 4 * (stride * i + k)) + round_shift(load_i32(at + 4 * k), less_c)
            store_i32(at + 4 * k, both)
        gather_credit(at, d, draw.signs, draw.all_turns, draw.place, scale - most)
        for j in range(0, d, 16):
            clear = load_i8(saved_at(model, block, t, layer, st.S_FREE, i) + j)
            arrives = minimum(splat(1), clear & splat(st.FREE_U))
            store_i32(at + 4 * j, load_i32(at + 4 * j) * arrives)
        x = saved_at(model, block, t, layer, st.S_X, i)
        wire = block.wire + 4 * (t * padded + i) * stride
        pass_norm(model, block, draw, kind, x, weight, at, vector_at(vectors, layer, st.LN1_VOTES), wire, 1)


@njit(**JIT)
def vote_through(model, block, draw, tokens, row, rows_out, vectors, totals):
    """In place of ``branches.vote_along``: through the stations as well, last byte first, votes of all that feeds them.

    tokens : (streams, T + 1) uint8, the block's beginning at ``row``
    rows_out : address of (streams, T, D) int8, written: votes on the embedding's rows
    vectors : (1 + 4 L, D) int32, added to
    totals : (kinds,) int64, written: sums of the credits' magnitudes
    """
    d, stride, length = model.hidden_size, block.stride, block.length
    ahead, count = block.work + 34 * block.padded * stride, model.num_layers * block.padded * stride
    for j in range(0, count, 16):
        store_i32(ahead + 4 * j, splat(0))
    shift = kind_shift(draw, st.EMBEDDING_KIND)
    for t in range(length - 1, -1, -1):
        for layer in range(model.num_layers - 1, -1, -1):
            credit_mlp(model, block, draw, t, layer, vectors)
            credit_gru(model, block, draw, t, layer, tokens, row, vectors)
        for i in range(block.members):
            wire_at = block.wire + 4 * (t * block.padded + i) * stride
            to = rows_out + ((row + i) * length + t) * d
            for j in range(0, d, 16):
                wire = load_i32(wire_at + 4 * j)
                add_magnitudes(magnitudes(block, model, st.EMBEDDING_KIND), wire)
                store_i8(to + j, narrow(wire, shift))
    sum_magnitudes(model, block, totals)


@njit(**JIT)
def prepare_station(arguments, thread, i):
    """A task: how the branches of one of the stations' matrices move its outputs."""
    call = load_as(st.Step, arguments)
    draw, d = load_as(st.BranchParameters, call.draw), load_as(st.Model, call.model).hidden_size
    tensor, at, outputs, inputs = array_at(call.stations, (i + 1, 4), np.int64)[i]
    wide = inputs > d
    m = prepare_moves(
        array_at(call.weights + at, (outputs, inputs), np.int8),
        array_at(draw.wide_signs if wide else draw.signs, (inputs,), np.int32),
        array_at(draw.wide_turns if wide else draw.all_turns, (inputs,), np.int32),
        array_at(call.scratch + 16 * d * d * thread, (outputs, inputs), np.int32),
        array_at(draw.station_moves + at, (outputs * inputs,), np.int8),
    )
    store_long(draw.station_shifts + 8 * tensor, m)


@njit(**JIT)
def vote_stations(arguments, thread, i):
    """A task: votes of part i through the stations."""
    call = load_as(st.Step, arguments)
    block, draw, text, row, vectors = what_votes(call, thread, i)
    totals = array_at(call.totals + 8 * call.kinds * i, (call.kinds,), np.int64)
    vote_through(load_as(st.Model, call.model), block, draw, text, row, call.rows, vectors, totals)
