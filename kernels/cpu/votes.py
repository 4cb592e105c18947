"""From what a block of groups lived through to votes on every weight (recipe egg), and the updates.

A group's vote on a matrix at one token is an outer product v x^T. Two tokens make a *pair of rows*, int16
halves of int32 lanes, so that Z += v x^T over all groups and tokens is one small GEMM that reads 32
products an instruction (tiles.py). Rows are packed in panels, [64 outputs or inputs][pair][column], so
that the GEMM reads memory in order.
"""

import numpy as np
from numba import njit

from kernels.arithmetic import (
    ARRIVED_BITS,
    CREDIT_LIMIT,
    CREDIT_MEAN,
    DISCOUNT,
    LIMIT,
    MASTER_BITS,
    VOTE_BITS,
    VOTE_LIMIT,
)
from kernels.cpu.simd import (
    address,
    load_byte,
    load_i8,
    load_i32,
    load_offset,
    load_word,
    maximum,
    minimum,
    select_bits,
    splat,
    store_i32,
    total,
)
from kernels.cpu.structures import (
    ALONG_INPUT,
    JIT,
    LAYER_INPUTS,
    LAYER_PRODUCTS,
    LAYER_TENSORS,
    LN1,
    LN2,
    P_UP,
    P_W_F,
    V_DOWN,
    V_F,
    V_H,
    V_UP,
    W_DOWN,
    W_F,
    W_UP,
    X_H,
    X_LN2,
    X_MID,
    X_PAST,
    a_signs,
    arrived_at,
    b_signs,
    embedding_sign,
    gain,
    product_shift,
    projection,
    token_sign,
)
from kernels.cpu.tiles import COLUMNS, ROWS, narrow_vote_tile, vote_tile

OWN, TO_GO, HEAD = range(3)  # kinds of credit


@njit(**JIT)
def round_div(v, m):
    """v / m for m > 0, rounded half up: // rounds towards minus infinity here as in Python."""
    return (2 * v + m) // (2 * m)


@njit(**JIT)
def assign_credit(tokens, row, group_size, s0, s1, scale, credit):
    """Scores become credits: credit (3, T, members) int32 in [-128, 128].

    tokens : (groups, T + 1) uint8, the block's groups beginning at ``row``
    s0, s1 : (T, members) int32 in 1/256 bit
    credit : (3, T, members) int32, written
    returns : the sum over members of |the chunk's score less the group's mean|
    """
    length, members = s0.shape
    deviation = 0
    for first in range(0, members, group_size):
        for t in range(length):
            sum_0, sum_1 = 0, 0
            for i in range(first, first + group_size):
                sum_0 += s0[t, i]
                sum_1 += s1[t, i] - s0[t, i]
            mean_0, mean_1 = round_div(sum_0, group_size), round_div(sum_1, group_size)
            for i in range(first, first + group_size):
                credit[OWN, t, i] = s0[t, i] - mean_0
                credit[HEAD, t, i] = s1[t, i] - s0[t, i] - mean_1
        for i in range(first, first + group_size):
            to_go, chunk = 0, 0
            for t in range(length - 1, -1, -1):
                own = np.int64(credit[OWN, t, i])
                chunk += own
                if t + 1 < length and tokens[row + first // group_size, t + 1] == 0:
                    to_go = 0  # the state is reset there: nothing reaches beyond
                to_go = own + ((DISCOUNT * to_go) >> 8)
                credit[TO_GO, t, i] = to_go
            deviation += abs(chunk)
    for kind in range(3):
        for t in range(length):
            for i in range(members):
                v = round_div(CREDIT_MEAN * np.int64(credit[kind, t, i]), scale)
                credit[kind, t, i] = min(CREDIT_LIMIT, max(-CREDIT_LIMIT, v))
    return deviation


@njit(**JIT)
def squared_length(x, count):
    """|x|**2 of offset bytes at an address; < 2**27 in int32."""
    acc = splat(0)
    for j in range(0, count, 16):
        v = load_offset(x + j)
        acc = acc + v * v
    return total(acc)


@njit(**JIT)
def nearest_exponent(n):
    """The e with 2**e nearest to n >= 1, in log: bit_length(n**2) // 2."""
    square, bits = n * n, 0  # < 2**54
    while square:
        square >>= 1
        bits += 1
    return bits >> 1


@njit(**JIT)
def pack_outputs(
    block, first, group_size, signs, coefficients, shifts, outputs, to, panel_step, arrived_0, arrived_1
):  # fmt: skip
    """Two tokens' v (outputs,) of a group, saturated to +-8,191, as int16 halves in a panel's row.

    coefficients : (2, group_size) int32, F p of each member at each of the two tokens; |sum| < 2**31
    shifts : (2,) int64, what the two sums are divided by, as right shifts, less VOTE_BITS
    arrived_0, arrived_1 : addresses of (outputs,) int8, how much arrived, in 1/128; 0 for the head, where all does
    """
    low, high = splat(-VOTE_LIMIT), splat(VOTE_LIMIT)
    half = splat((1 << ARRIVED_BITS) >> 1)
    bits_row = block.words_row
    bits = block.words + first * bits_row + signs
    up_0, down_0 = max(0, -shifts[0]), max(0, shifts[0])
    up_1, down_1 = max(0, -shifts[1]), max(0, shifts[1])
    half_0, half_1 = splat((1 << down_0) >> 1), splat((1 << down_1) >> 1)
    # A sum beyond the limit stays beyond it when shifted left: limit it first, or it would leave int32.
    most_0 = splat(VOTE_LIMIT if up_0 else (1 << 31) - 1)
    most_1 = splat(VOTE_LIMIT if up_1 else (1 << 31) - 1)
    for n in range(0, outputs, 16):
        v_0, v_1 = splat(0), splat(0)
        for i in range(group_size):
            at = bits + i * bits_row + (n >> 3)
            c_0, c_1 = splat(coefficients[0, i]), splat(coefficients[1, i])
            v_0 = v_0 + select_bits(at, c_0, splat(0) - c_0)
            v_1 = v_1 + select_bits(at, c_1, splat(0) - c_1)
        v_0 = maximum(splat(0) - most_0, minimum(most_0, v_0)) << up_0
        v_1 = maximum(splat(0) - most_1, minimum(most_1, v_1)) << up_1
        v_0 = maximum(low, minimum(high, (v_0 + half_0) >> down_0))
        v_1 = maximum(low, minimum(high, (v_1 + half_1) >> down_1))
        if arrived_0:
            v_0 = (v_0 * load_i8(arrived_0 + n) + half) >> ARRIVED_BITS
            v_1 = (v_1 * load_i8(arrived_1 + n) + half) >> ARRIVED_BITS
        panel = to + (n >> 6) * panel_step + 4 * (n & 63)
        store_i32(panel, (v_0 & splat(0xFFFF)) | (v_1 << 16))


@njit(**JIT)
def pack_inputs(x_0, x_1, count, to, panel_step):
    """Two tokens' inputs, offset bytes at two addresses (0: none), as int16 halves in a panel's row."""
    for k in range(0, count, 16):
        low = load_offset(x_0 + k) & splat(0xFFFF)
        high = load_offset(x_1 + k) << 16 if x_1 else splat(0)
        store_i32(to + (k >> 6) * panel_step + 4 * (k & 63), low | high)


@njit(**JIT)
def cast_rows(model, noise, block, group_size, credit, pair, pairs, v_rows, x_rows):
    """Every matrix's rows of the block's groups, from row pair ``pair`` on, of ``pairs`` in the buffers.

    credit : (3, T, members) int32
    v_rows : (pairs * outputs of all matrices,) int32: for each output set in turn its panels [panel][pair][column]
    x_rows : (pairs * inputs of all matrices,) int32, likewise for each input
    """
    d, length = model.hidden_size, block.length
    coefficients = np.zeros((2, group_size), np.int32)
    shifts = np.zeros(2, np.int64)
    half_pairs = (length + 1) >> 1
    input_row = (LAYER_INPUTS * model.num_layers + 1) * d
    for group in range(block.members // group_size):
        first = group * group_size
        for half in range(half_pairs):
            at_pair = pair + group * half_pairs + half
            t_0 = 2 * half
            count = min(2, length - t_0)
            x_0 = block.inputs + (group * length + t_0) * input_row
            x_1 = x_0 + input_row if count == 2 else 0
            # the inputs: u, h, past, ln2 of each layer, D each, its middle, 4 D; the head's
            for column in range(0, input_row, d):
                width = min(64, d)
                to = address(x_rows) + 4 * (pairs * column + at_pair * width)
                part = (column // d) % LAYER_INPUTS - X_MID
                if width < 64 and part >= 0:  # D = 16: the middle's 64 columns are one panel
                    to = address(x_rows) + 4 * (
                        pairs * (column - part * d) + at_pair * 64 + part * d
                    )
                pack_inputs(x_0 + column, x_1 + column if x_1 else 0, d, to, 4 * pairs * 64)
            outputs_before = 0
            for product in range(LAYER_PRODUCTS * model.num_layers + 1):
                layer, kind = product // LAYER_PRODUCTS, product % LAYER_PRODUCTS
                last = layer == model.num_layers - 1
                is_head = layer == model.num_layers
                gate = not is_head and kind < P_UP
                if gate and kind & 1:
                    continue  # u votes with w
                tensor = 1 + LAYER_TENSORS * layer
                x = LAYER_INPUTS * layer * d
                inputs, outputs, credit_kind = d, d, TO_GO
                if is_head:
                    tensor, outputs, credit_kind = tensor + 1, 256, HEAD
                elif gate:
                    tensor += W_F + 3 * (kind >> 1)
                elif kind == P_UP:
                    tensor, x, outputs = tensor + W_UP, x + X_LN2 * d, 4 * d
                else:
                    tensor, x, inputs = tensor + W_DOWN, x + X_MID * d, 4 * d
                if last and not gate:
                    credit_kind = OWN
                constant = 1 << product_shift(inputs)  # a gate's third input
                for side in range(2):
                    if side >= count:
                        shifts[side] = 0
                        coefficients[side, :] = 0
                        continue
                    t = t_0 + side
                    if noise.mode == ALONG_INPUT:
                        n = (2 if gate else 1) * gain(constant, noise.shift)
                        shifts[side] = nearest_exponent(n) - VOTE_BITS
                    else:
                        row = x_0 + side * input_row + x
                        n = squared_length(row, inputs)
                        if gate:
                            other = X_H if kind == P_W_F else X_PAST
                            n += squared_length(row + other * d, d) + constant * constant
                        shifts[side] = nearest_exponent(max(1, n)) - VOTE_BITS
                    for i in range(group_size):
                        member = first + i
                        r = token_sign(block, t, member)
                        if noise.mode == ALONG_INPUT:
                            p = r
                        else:
                            p = load_word(projection(model, block, t, product, member))
                            if gate:
                                p += load_word(projection(model, block, t, product + 1, member))
                                b0 = (
                                    block.b0
                                    + 2 * model.num_layers * member
                                    + 2 * layer
                                    + (kind >> 1)
                                )
                                p += r * load_byte(b0) * constant
                        coefficients[side, i] = credit[credit_kind, t, member] * p
                arrived_0, arrived_1 = 0, 0
                if not is_head:
                    output = V_UP if kind == P_UP else V_DOWN
                    if gate:
                        output = V_F if kind == P_W_F else V_H
                    arrived_0 = arrived_at(model, block, group, t_0, layer) + output * d
                    # without a second token its sum is zero, whatever it is multiplied by
                    arrived_1 = arrived_at(model, block, group, t_0 + count - 1, layer) + output * d
                width = min(64, outputs)
                to = address(v_rows) + 4 * (pairs * outputs_before + at_pair * width)
                pack_outputs(
                    block, first, group_size, a_signs(model, tensor), coefficients, shifts, outputs, to,
                    4 * pairs * width, arrived_0, arrived_1,
                )  # fmt: skip
                outputs_before += outputs


@njit(**JIT)
def cast_vectors(model, block, group_size, credit, gains, tokens, row, rows_out, length):
    """Votes that are no products: norm gains, and the embedding rows that were read.

    credit : (3, T, members) int32
    tokens : (groups, T + 1) uint8
    gains : (2 L + 1, D) int64, added to: ln1 and ln2 of each layer, ln_out
    rows_out : (groups, T, D) int32: the vote on the row of the byte read, by group and token, from ``row`` on
    """
    d, bits_row = model.hidden_size, block.words_row
    words = block.words
    layers = model.num_layers
    sums = np.zeros((2 * layers + 1, d), np.int32)  # |sum| <= members * T * 128
    for i in range(block.members):
        to_go, own = 0, 0
        for t in range(length):
            to_go += np.int64(credit[TO_GO, t, i]) * token_sign(block, t, i)
            own += np.int64(credit[OWN, t, i]) * token_sign(block, t, i)
        for k in range(2 * layers + 1):
            tensor = 1 + LAYER_TENSORS * (k >> 1) + (LN2 if k & 1 else LN1)
            c = splat(own if k >= 2 * layers - 1 else to_go)
            bits = words + i * bits_row + a_signs(model, tensor)
            at = address(sums) + 4 * d * k
            for j in range(0, d, 16):
                store_i32(
                    at + 4 * j, load_i32(at + 4 * j) + select_bits(bits + (j >> 3), c, splat(0) - c)
                )
    for k in range(2 * layers + 1):
        for j in range(d):
            gains[k, j] += np.int64(sums[k, j]) << VOTE_BITS
    for group in range(block.members // group_size):
        for t in range(length):
            byte = np.int64(tokens[row + group, t])
            to = address(rows_out) + 4 * d * ((row + group) * length + t)
            for j in range(0, d, 16):
                store_i32(to + 4 * j, splat(0))
            for i in range(group * group_size, (group + 1) * group_size):
                sign = token_sign(block, t, i) * embedding_sign(model, block, i, byte)
                c = splat(np.int64(credit[TO_GO, t, i]) * sign)
                bits = words + i * bits_row + b_signs(model, 0)
                for j in range(0, d, 16):
                    row_part = load_i32(to + 4 * j)
                    store_i32(to + 4 * j, row_part + select_bits(bits + (j >> 3), c, splat(0) - c))


@njit(**JIT)
def sum_embedding(votes, d, tokens, first, last, length, rows):
    """Add the embedding rows' votes of groups first..last; exact in int64.

    votes : (parameters,) int64
    tokens : (groups, T + 1) uint8
    rows : (groups, T, D) int32
    """
    for group in range(first, last):
        for t in range(length):
            at = np.int64(tokens[group, t]) * d
            for j in range(d):
                votes[at + j] += np.int64(rows[group, t, j]) << VOTE_BITS


@njit(**JIT)
def sum_matrix(
    votes, at, outputs, inputs, v_rows, v_column, x_rows, x_column, first, last, pairs, panel, add
):
    """Z = or += v x^T of one panel of a matrix's outputs over the row pairs first..last, at most 512.

    votes : (parameters,) int64
    v_rows, x_rows : (pairs * columns of all matrices,) int32, see ``cast_rows``
    """
    width_n, width_k = min(64, outputs), min(64, inputs)
    v = address(v_rows) + 4 * (pairs * (v_column + 64 * panel) + first * width_n)
    z = address(votes) + 8 * (at + 64 * panel * inputs)
    columns = min(COLUMNS, width_k)
    for k in range(0, inputs, columns):
        panel_x = x_column + (k & -width_k)
        x = address(x_rows) + 4 * (pairs * panel_x + first * width_k + (k & (width_k - 1)))
        for n in range(0, width_n, ROWS):
            arguments = (
                v + 4 * n, 4 * width_n, x, 4 * width_k, last - first, z + 8 * (n * inputs + k), 8 * inputs, add,
            )  # fmt: skip
            if columns == COLUMNS:
                vote_tile(*arguments)
            else:
                narrow_vote_tile(*arguments)


@njit(**JIT)
def sum_bias(votes, at, outputs, constant, v_rows, v_column, first, last, pairs, add):
    """The gate's bias: Z = or += c * sum of v over the row pairs first..last.

    votes : (parameters,) int64
    v_rows : (pairs * outputs of all matrices,) int32, see ``cast_rows``
    """
    width = min(64, outputs)
    for n in range(outputs):
        column = pairs * (v_column + (n & ~63)) + (n & 63)
        s = 0
        for pair in range(first, last):
            word = np.int64(v_rows[column + pair * width])
            low = ((word & 0xFFFF) ^ 0x8000) - 0x8000
            s += low + (word >> 16)
        votes[at + n] = constant * s + (votes[at + n] if add else 0)


@njit(**JIT)
def move_master(master, votes, offsets, multipliers, weights, first, last):
    """Elements first..last: masters move by votes * multiplier / 2**32, rounded half up.

    master : (parameters,) int16
    votes : (parameters,) int64; |votes * multiplier| < 2**62
    offsets : (tensors + 1,) int64, where each tensor begins
    multipliers : (tensors,) int64
    weights : (parameters,) int8, written
    """
    limit = LIMIT << MASTER_BITS
    for tensor in range(len(multipliers)):
        multiplier = multipliers[tensor]
        for i in range(max(first, offsets[tensor]), min(last, offsets[tensor + 1])):
            v = np.int64(master[i]) + ((votes[i] * multiplier + (1 << 31)) >> 32)
            v = min(limit, max(-limit, v))
            master[i] = v
            weights[i] = (v + (1 << (MASTER_BITS - 1))) >> MASTER_BITS


@njit(**JIT)
def move_signs(weights, votes, threshold, out, first, last):
    """Weights move by sign(votes) where 16 |votes| >= threshold.

    weights, out : (parameters,) int8
    votes : (parameters,) int64
    """
    for i in range(first, last):
        z = votes[i]
        move = 0
        if z != 0 and 16 * abs(z) >= threshold:
            move = 1 if z > 0 else -1
        out[i] = min(LIMIT, max(-LIMIT, np.int64(weights[i]) + move))
