"""Recipe egg from the head's input to votes: branches, their scores, and credit along the wire.

    axes        i readers of a block, t bytes, k branches, v logits, j places of the wire (hidden size D), layers l
    fine        (i, 256) int16        a reader's logits in 1/4096 bit: [256 logits] of each reader in turn
    moves       (128, K, 2) int16     what branch k adds to them, the same for all bytes of a step, in cache:
                                      [two logits][branch] words of the two moves
    wire        (t, i, j) int32       credit where the head reads, kept until the chunk's end
    v           outputs that vote, a byte a reader, four readers to a 32-bit word (a quad), see votes.py

A branch is 256 saturating additions, a table look-up and a sum, in 16-bit lanes (``simd.branch_sums``): nothing of it
passes through a product. Sixteen branches lie in the lanes of a vector, so that sums need no shuffling and their
logarithms are taken side by side. The credit of all K branches is one fast Walsh-Hadamard transform, additions alone.
"""

import numpy as np
from numba import njit

from egg.kernels.arithmetic import BRANCH_BITS, BRANCH_LIMIT, LIMIT
from egg.kernels.cpu import structures as st
from egg.kernels.cpu.credit import (
    deposit,
    kind_shift,
    limit,
    magnitudes,
    narrow,
    pass_norm,
    round_shift,
    sum_magnitudes,
    vector_at,
    walsh_hadamard,
)
from egg.kernels.cpu.forward import fine_head, free, load_states, log2_of, read_token, save_states
from egg.kernels.cpu.score import floor_log2
from egg.kernels.cpu.signs import LANES, draw_words
from egg.kernels.cpu.simd import (
    WIDE_SUMS,
    absolute,
    add_magnitudes,
    address,
    branch_sums,
    clz_lanes,
    exp2,
    load_byte,
    load_i8,
    load_i16,
    load_i32,
    load_long,
    load_offset,
    load_word,
    maximum,
    minimum,
    multiply_high,
    narrow_branch_sums,
    shift_down,
    shift_up,
    splat,
    store_byte,
    store_i8,
    store_i32,
    store_word,
    total,
)
from egg.kernels.cpu.structures import JIT, V_CANDIDATE, V_DOWN, V_GATE, quad_at, saved_at, tensor_at
from egg.kernels.philox import BRANCH_ROWS, BRANCH_SIGNS


@njit(**JIT)
def draw_turns(key_0, key_1, step, wide, words, signs, turns):
    """A step's signs of D places, or of the 4 D that w_down reads; returns r, the place where all branches move alike.

    wide : 0, or 1 for 4 D
    words : (whole 64s,) uint32, the number of places at least, and 192: written
    signs : (places,) int32, written: s
    turns : (places,) int32, written: H[k][r] of each row
    """
    places, last = len(signs), 128 if wide else 32
    draw_words(BRANCH_SIGNS, wide, step, key_0, key_1, address(LANES), address(words), last + 1)
    place = np.int64(words[last]) & (places - 1)
    for j in range(places):
        signs[j] = 2 * ((np.int64(words[j >> 5]) >> (j & 31)) & 1) - 1
        turns[j] = j == place
    walsh_hadamard(address(turns), places)
    return place


@njit(**JIT)
def draw_rows(key_0, key_1, step, d, words, rows):
    """The Hadamard rows of a step's branches of the wire.

    words : (whole 64s,) uint32, D at least: written
    rows : (K,) int64, written, in ascending order
    """
    if len(rows) < d:
        draw_words(BRANCH_ROWS, 0, step, key_0, key_1, address(LANES), address(words), d)
    chosen = 0
    for k in range(d):
        before = 0
        if len(rows) < d:
            for j in range(d):
                before += words[j] < words[k] or (words[j] == words[k] and j < k)
        if before < len(rows):
            rows[chosen] = k
            chosen += 1


@njit(**JIT)
def prepare_moves(transformed, m, rows, first, last, moves):
    """What the branches of a step add to the logits first..last.

    transformed : (256, D) int32, R; replaced
    m : what it is shifted by
    rows : (K,) int64, Hadamard rows of the branches
    moves : (128, K) int32, written: of logits 2 v and 2 v + 1
    """
    d, count = transformed.shape[1], len(rows)
    most = splat(BRANCH_LIMIT << BRANCH_BITS)
    for v in range(first, last):
        at = address(transformed) + 4 * d * v
        # |R| << 9 < 2**26 where m is negative: the mean bounds no single R
        for j in range(0, d, 16):
            moved = round_shift(load_i32(at + 4 * j), m)
            store_i32(at + 4 * j, maximum(splat(0) - most, minimum(most, moved)))
        if v & 1:
            for k in range(count):
                moves[v >> 1, k] = (transformed[v, rows[k]] << 16) | (transformed[v - 1, rows[k]] & 0xFFFF)


@njit(**JIT)
def score_reader(model, tables, block, t, i, target, phase):
    """A reader's own score in 1/256 bit, its logits as bytes, and the votes of the head's branches.

    phase : 2,531 n, of the rounding
    """
    fine, logits, e = block.fine + 512 * i, block.logits + 256 * i, block.scratch
    sums = splat(0)
    for v in range(0, 256, 16):
        logit = load_i16(fine + 2 * v) >> BRANCH_BITS
        store_i8(logits + v, logit)
        value = exp2(tables.exp2, logit + splat(LIMIT + 1))
        store_i32(e + 4 * v, value)
        sums = sums + value
    whole = total(sums)  # 2**12 to 2**28
    inverse = (LIMIT << 32) // whole  # < 2**27
    quad = block.quad + (i >> 2) * block.length + t
    first = st.LAYER_OUTPUTS * model.num_layers * model.hidden_size
    counting = load_i32(address(LANES))
    rounding = counting * splat(1597) + splat(phase)
    for v in range(0, 256, 16):
        # 127 e / S with 12 fractional bits, at most 127: rounded it is at most 127 too
        share = multiply_high(load_i32(e + 4 * v), inverse, 20)
        less = (share + (rounding & splat(4095))) >> 12
        rounding = rounding + splat(16 * 1597)
        free = minimum(splat(1), splat(LIMIT) - absolute(load_i8(logits + v)))
        deposit(quad_at(block.v, block.quads, first, v, 64, quad), i & 3, splat(0) - less * free)
    if abs(load_byte(logits + target)) < LIMIT:
        at = quad_at(block.v, block.quads, first, target, 64, quad) + (i & 3)
        store_byte(at, load_byte(at) + LIMIT)
    return 16 * (load_byte(logits + target) + 128) - floor_log2(whole, tables.log2_256, 8)


@njit(**JIT)
def credit_wire(model, block, draw, t, i, target):
    """Credit c at the head's input, from a reader's branches, at an address of (D,) int32."""
    d, count = model.hidden_size, draw.count
    fine = block.fine + 512 * i
    fitness, c = block.scratch + 1024, block.scratch + 1024 + 4 * d
    whole = count & -16 * WIDE_SUMS
    for k in range(0, whole, 16 * WIDE_SUMS):
        branch_sums(fine, draw.moves + 4 * k, 4 * count, BRANCH_LIMIT, c + 4 * k)
    for k in range(whole, count, 16):
        narrow_branch_sums(fine, draw.moves + 4 * k, 4 * count, BRANCH_LIMIT, c + 4 * k)
    at_target = splat(load_word(fine + 2 * target) << 48 >> 48)
    to_target, upper = draw.moves + 4 * count * (target >> 1), 16 - 16 * (target & 1)
    low, high = splat(-32768), splat(32767)
    sums = splat(0)
    for k in range(0, count, 16):
        s = load_i32(c + 4 * k)
        zeros = clz_lanes(s)
        y = shift_down(shift_up(s, zeros), 16) - splat(32768)
        g = (y * (splat(32768) - y)) >> 15  # <= 2**13
        q = splat(14507) - ((splat(8107) * y) >> 15) + ((((splat(2733) * y) >> 15) * y) >> 15)
        log = ((splat(31) - zeros) << 12) + ((y + ((g * q) >> 15)) >> 3)
        move = (load_i32(to_target + 4 * k) << upper) >> 16
        logit = maximum(low, minimum(high, at_target + move)) >> BRANCH_BITS
        worth = (logit << 8) - log
        store_i32(c + 4 * k, worth)
        sums = sums + worth
    mean = splat((total(sums) + (count >> 1)) >> log2_of(count))
    to = fitness if count == d else c
    for k in range(0, count, 16):
        store_i32(to + 4 * k, (load_i32(c + 4 * k) - mean) * load_i32(draw.turns + 4 * k))
    if count < d:
        for j in range(0, d, 16):
            store_i32(fitness + 4 * j, splat(0))
        for k in range(count):
            store_word(fitness + 4 * load_long(draw.rows + 8 * k), load_word(c + 4 * k))
    walsh_hadamard(fitness, d)
    most = splat(32767)
    for j in range(0, d, 16):
        v = load_i32(fitness + 4 * j) * load_i32(draw.signs + 4 * j)
        if draw.credit_shift < 0:  # what is beyond the limit stays there, and leaves no int32
            v = maximum(splat(-(1 << 20)), minimum(splat(1 << 20), v))
        v = round_shift(v, draw.credit_shift)
        store_i32(c + 4 * j, maximum(splat(0) - most, minimum(most, v)))
    return c


@njit(**JIT)
def vote_along(model, block, draw, tokens, row, rows_out, vectors, totals):
    """After ``read_and_credit``: along the wire, from its end to its beginning, votes of all that writes to it.

    tokens : (streams, T + 1) uint8, the block's beginning at ``row``
    rows_out : address of (streams, T, D) int8, written: votes on the embedding's rows
    vectors : (1 + 4 L, D) int32: votes on the biases are added
    totals : (kinds,) int64, written: sums of the credits' magnitudes
    """
    for first in range(0, block.members, 4):
        vote_four(model, block, draw, tokens, row, first, rows_out, vectors)
    sum_magnitudes(model, block, totals)


@njit(**JIT)
def as_byte(vote, r):
    """Votes as byte r of their lanes' words."""
    return (vote & splat(255)) << (8 * r)


@njit(**JIT)
def vote_four(model, block, draw, tokens, row, first, rows_out, vectors):
    """The same of four readers, whose votes share words, last byte first; the wire's credit is replaced on its way.

    tokens : (streams, T + 1) uint8
    rows_out : address of (streams, T, D) int8, written
    vectors : (1 + 4 L, D) int32, added to
    """
    d, layers, length = model.hidden_size, model.num_layers, block.length
    ahead = block.scratch + 4 * (256 + 2 * d)
    width, readers = min(64, d), min(4, block.members - first)
    step = 4 * block.quads * d  # from one output's panels to the next's
    for j in range(0, d, 16):
        for at in range(0, 256 * layers, 64):
            store_i32(ahead + at, splat(0))
        for t in range(length - 1, -1, -1):
            quad = block.quad + (first >> 2) * length + t
            for layer in range(layers - 1, -1, -1):
                column, kind = st.LAYER_OUTPUTS * layer * d, st.LAYER_KINDS + 3 * layer
                w_f, u_f, w_h, u_h, downs = splat(0), splat(0), splat(0), splat(0), splat(0)
                of_gates, of_candidates, of_downs = splat(0), splat(0), splat(0)
                b_f = vector_at(vectors, layer, st.B_F_VOTES) + 4 * j
                b_h = vector_at(vectors, layer, st.B_H_VOTES) + 4 * j
                of_b_f, of_b_h = load_i32(b_f), load_i32(b_h)
                for r in range(readers):
                    i, left = first + r, ahead + 64 * (4 * layer + r)
                    wire_at = block.wire + 4 * ((t * block.padded + i) * block.stride + j)
                    f = load_i8(saved_at(model, block, t, layer, st.S_GATE, i) + j)
                    c = load_i8(saved_at(model, block, t, layer, st.S_CANDIDATE, i) + j)
                    old = load_i8(saved_at(model, block, t, layer, st.S_STATE, i) + j)
                    free = load_i8(saved_at(model, block, t, layer, st.S_FREE, i) + j)
                    ends = load_i8(saved_at(model, block, t, layer, st.S_PRODUCTS, i) + j)
                    wire = load_i32(wire_at) * (free & splat(st.FREE_OUT))
                    down = wire * ((free >> 1) & splat(st.FREE_DOWN >> 1))
                    wire = wire * ((free >> 2) & splat(st.FREE_MIDDLE >> 2))
                    store_i32(wire_at, wire)
                    e = limit(wire + load_i32(left))
                    # |e| <= 2**20, times at most 254: below 2**28, and the magnitudes of four below 2**30
                    candidate = e * (f + splat(LIMIT)) * minimum(splat(1), splat(LIMIT) - absolute(c))
                    gate = e * (c - old) * minimum(splat(1), splat(LIMIT) - absolute(f))
                    keeps = splat(1 if np.int64(tokens[row + i, t]) else 0)
                    store_i32(left, round_shift((splat(129) - f) * e, 8) * keeps)
                    vote = narrow(gate, kind_shift(draw, kind + V_GATE))
                    of_b_f = of_b_f + vote
                    w_f = w_f | as_byte(vote * (ends & splat(st.FREE_W_F)), r)
                    u_f = u_f | as_byte(vote * ((ends >> 1) & splat(st.FREE_U_F >> 1)), r)
                    vote = narrow(candidate, kind_shift(draw, kind + V_CANDIDATE))
                    of_b_h = of_b_h + vote
                    w_h = w_h | as_byte(vote * ((ends >> 2) & splat(st.FREE_W_H >> 2)), r)
                    u_h = u_h | as_byte(vote * ((ends >> 3) & splat(st.FREE_U_H >> 3)), r)
                    downs = downs | as_byte(narrow(down, kind_shift(draw, kind + V_DOWN)), r)
                    of_gates = of_gates + absolute(gate)
                    of_candidates = of_candidates + absolute(candidate)
                    of_downs = of_downs + absolute(down)
                store_i32(b_f, of_b_f)
                store_i32(b_h, of_b_h)
                at = quad_at(block.v, block.quads, column, j, width, quad)
                store_i32(at + st.V_W_F * step, w_f)
                store_i32(at + st.V_U_F * step, u_f)
                store_i32(at + st.V_W_H * step, w_h)
                store_i32(at + st.V_U_H * step, u_h)
                store_i32(at + st.V_W_DOWN * step, downs)
                add_magnitudes(magnitudes(block, model, kind + V_GATE), of_gates)
                add_magnitudes(magnitudes(block, model, kind + V_CANDIDATE), of_candidates)
                add_magnitudes(magnitudes(block, model, kind + V_DOWN), of_downs)
            of_rows = splat(0)
            for i in range(first, first + readers):
                wire = load_i32(block.wire + 4 * ((t * block.padded + i) * block.stride + j))
                of_rows = of_rows + absolute(wire)
                vote = narrow(wire, kind_shift(draw, st.EMBEDDING_KIND))
                store_i8(rows_out + ((row + i) * length + t) * d + j, vote)
            add_magnitudes(magnitudes(block, model, st.EMBEDDING_KIND), of_rows)


@njit(**JIT)
def read_and_credit(model, noise, tables, block, draw, tokens, states, states_out, row, first, vectors):
    """A block of readers, beginning at stream ``row``, reads its chunk; leaves the credit of the wire's end, and the
    head's votes.

    tokens : (streams, T + 1) uint8
    states, states_out : (streams, L, D) int8
    first : B step + i of the first stream given, for the rounding of the head's votes
    vectors : (1 + 4 L, D) int32, written: votes on the gains of the last norm, and zeros
    returns : the readers' score in 1/256 bit
    """
    load_states(model, block, states, row)
    length, whole = block.length, 0
    keeps = st.FOR_STATIONS if draw.stations else st.FOR_VOTES
    weight = tensor_at(model, 1 + st.LAYER_TENSORS * model.num_layers)
    for kind in range(st.LAYER_KINDS + (6 if draw.stations else 3) * model.num_layers):
        for lane in range(0, 32, 16):
            store_i32(magnitudes(block, model, kind) + 4 * lane, splat(0))
    vectors[:, :] = 0
    for t in range(length):
        read_token(model, noise, tables, block, t, tokens, row, keeps)
        fine_head(model, block, t)
        for i in range(block.members):
            target = np.int64(tokens[row + i, t + 1])
            n = length * (first + row + i) + t
            whole += score_reader(model, tables, block, t, i, target, 2531 * (n & 4095))
            c = credit_wire(model, block, draw, t, i, target)
            x = block.bytes + i * block.stride
            read = x + st.IN * block.padded * block.stride
            for j in range(0, model.hidden_size, 16):
                store_i32(c + 4 * j, load_i32(c + 4 * j) * free(load_offset(read + j)))
            wire = block.wire + 4 * (t * block.padded + i) * block.stride
            pass_norm(model, block, draw, st.GAIN_KIND, x, weight, c, address(vectors), wire, 0)
    save_states(model, block, states_out, row)
    return whole
