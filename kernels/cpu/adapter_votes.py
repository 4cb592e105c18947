"""Groups whose factors alone move, from text to votes on these: as forward.py, votes.py and groups.py for weights."""

import numpy as np
from numba import njit

from kernels.cpu.adapters import (
    A_A,
    A_B,
    KEEPS,
    MOVES,
    RANKS,
    adapted_product,
    factor_projection,
    factor_row,
)
from kernels.cpu.forward import load_states, product, read_token, save_states
from kernels.cpu.score import score
from kernels.cpu.signs import LANES, draw_token_signs, draw_words
from kernels.cpu.simd import address, load_i8, load_long, load_word, store_byte, store_i8
from kernels.cpu.structures import IN, JIT, LAYER_INPUTS, LAYER_TENSORS, arrived_at, token_signs
from kernels.cpu.votes import (
    VOTE_BITS,
    assign_credit,
    nearest_exponent,
    pack_inputs,
    pack_outputs,
    squared_length,
)
from kernels.philox import ADAPTER_SIGNS

# Columns of a plan, which has a row for each adapted matrix: its sizes, where its input lies in a row of the trace,
# its layer, where what arrived at its outputs begins there (-1: all did), its kind of credit, and the columns before
# its own in the rows of votes: outputs and inputs, A's then B's.
INPUTS, OUTPUTS, COLUMN, LAYER, ARRIVED, CREDIT, V_BEFORE, X_BEFORE = range(8)


@njit(**JIT)
def draw_factor_signs(noise, block, first):
    """Fill the directions of the block's members, the first of which has the global number ``first``, and their r."""
    words = block.words_row >> 2
    for i in range(block.members):
        draw_words(
            ADAPTER_SIGNS, first + i, noise.step, noise.key_0, noise.key_1, address(LANES),
            block.words + block.words_row * i, words,
        )  # fmt: skip
    draw_token_signs(noise, block, first)


@njit(**JIT)
def run_factor_pairs(model, noise, tables, block, tokens, states_in, states_out, row, logits):
    """Logits for the block's members, which begin at ``row``, an even number: two for each direction.

    tokens : (members, T) uint8
    states_in, states_out : (members, L, D) int8
    logits : (members, T, 256) int8, written
    """
    load_states(model, block, states_in, row)
    for i in range(block.members):
        draw_words(
            ADAPTER_SIGNS, (row + i) >> 1, noise.step, noise.key_0, noise.key_1, address(LANES),
            block.words + block.words_row * i, block.words_row >> 2,
        )  # fmt: skip
        for t in range(block.length):
            store_byte(token_signs(block, t) + i, 1 - 2 * (i & 1))
    x = block.bytes + IN * block.padded * block.stride
    tensor = 2 + LAYER_TENSORS * model.num_layers
    out = address(logits)
    for t in range(block.length):
        read_token(model, noise, tables, block, t, tokens, row, False)
        product(
            model, noise, block, t, 0, tensor, tensor, x, block.stride, model.hidden_size, 256, block.logits, 256,
            0, 0,
        )  # fmt: skip
        for i in range(block.members):
            to = out + 256 * ((row + i) * block.length + t)
            for j in range(0, 256, 16):
                store_i8(to + j, load_i8(block.logits + 256 * i + j))
    save_states(model, block, states_out, row)


@njit(**JIT)
def run_factor_block(
    model, noise, tables, block, tokens, states_in, states_out, row, first, s0, s1
):
    """The block's groups, beginning at group ``row``, read the chunk; what votes need stays in the block.

    tokens : (groups, T + 1) uint8
    states_in, states_out : (groups, L, D) int8
    s0, s1 : (T, members of the block) int32, scores without and with the move of the head's factors, in 1/256 bit
    """
    load_states(model, block, states_in, row)
    draw_factor_signs(noise, block, first)
    x = block.bytes + IN * block.padded * block.stride
    tensor, d = 2 + LAYER_TENSORS * model.num_layers, model.hidden_size
    m = load_long(model.number + 8 * tensor)
    moved = block.logits + 256 * block.padded
    for t in range(block.length):
        read_token(model, noise, tables, block, t, tokens, row, True)
        if m < 0:
            product(
                model,
                noise,
                block,
                t,
                0,
                tensor,
                tensor,
                x,
                block.stride,
                d,
                256,
                block.logits,
                256,
                0,
                0,
            )
        else:
            adapted_product(model, block, t, m, x, block.stride, d, 256, block.logits, 256, 0, 0)
            adapted_product(
                model, block, t, m, x, block.stride, d, 256, moved, 256, 0, MOVES | KEEPS
            )
        for i in range(block.members):
            target = np.int64(tokens[row + i // block.text_share, t + 1])
            at = block.logits + 256 * i
            s0[t, i] = score(at, target, tables, True)
            s1[t, i] = s0[t, i]
            if m >= 0:
                s1[t, i] = score(at + 256 * block.padded, target, tables, True)
    save_states(model, block, states_out, row)


@njit(**JIT)
def cast_factor_rows(model, block, group_size, credit, plan, pair, pairs, v_rows, x_rows):
    """Every factor's rows of the block's groups, from row pair ``pair`` on, of ``pairs`` in the buffers.

    credit : (3, T, members) int32
    plan : (M, 8) int64, see above
    v_rows : (pairs * outputs of all factors,) int32, A's filled up to 16: panels as in ``votes.cast_rows``
    x_rows : (pairs * inputs of all factors,) int32, B's filled up to 16
    """
    length = block.length
    coefficients = np.zeros((2, group_size), np.int32)
    shifts = np.zeros(2, np.int64)
    half_pairs = (length + 1) >> 1
    input_row = (LAYER_INPUTS * model.num_layers + 1) * model.hidden_size
    factor_step = RANKS * model.matrices
    for group in range(block.members // group_size):
        first = group * group_size
        for half in range(half_pairs):
            at_pair = pair + group * half_pairs + half
            t_0 = 2 * half
            count = min(2, length - t_0)
            for m in range(model.matrices):
                z_at = factor_row(model, block, group, t_0, m)
                for factor in range(2):
                    if factor == 0:
                        x = block.inputs + (group * length + t_0) * input_row + plan[m, COLUMN]
                        x_step, inputs, outputs = input_row, plan[m, INPUTS], RANKS
                        arrived = block.factor_arrived + z_at
                        arrived_step = factor_step
                        v_before, x_before = plan[m, V_BEFORE], plan[m, X_BEFORE]
                    else:
                        x = block.factor_inputs + z_at
                        x_step, inputs, outputs = factor_step, RANKS, plan[m, OUTPUTS]
                        arrived, arrived_step = 0, 0
                        if plan[m, ARRIVED] >= 0:
                            at = arrived_at(model, block, group, t_0, plan[m, LAYER])
                            arrived = at + plan[m, ARRIVED]
                            arrived_step = (
                                arrived_at(model, block, group, t_0 + 1, plan[m, LAYER]) - at
                            )
                        v_before = plan[m, V_BEFORE] + RANKS
                        x_before = plan[m, X_BEFORE] + plan[m, INPUTS]
                    width = min(64, inputs)
                    pack_inputs(
                        x, x + x_step if count == 2 else 0, inputs,
                        address(x_rows) + 4 * (pairs * x_before + at_pair * width), 4 * pairs * 64,
                    )  # fmt: skip
                    for side in range(2):
                        if side >= count:
                            shifts[side] = 0
                            coefficients[side, :] = 0
                            continue
                        n = squared_length(x + side * x_step, inputs)
                        shifts[side] = nearest_exponent(max(1, n)) - VOTE_BITS
                        for i in range(group_size):
                            p = load_word(
                                factor_projection(model, block, t_0 + side, m, factor, first + i)
                            )
                            c = np.int64(credit[plan[m, CREDIT], t_0 + side, first + i])
                            coefficients[side, i] = c * p
                    width = min(64, outputs)
                    signs = load_long(model.signs + 8 * (4 * m + (A_B if factor else A_A)))
                    # without a second token its sum is zero, whatever it is multiplied by
                    pack_outputs(
                        block, first, group_size, signs, coefficients, shifts, outputs,
                        address(v_rows) + 4 * (pairs * v_before + at_pair * width),
                        4 * pairs * width, arrived, arrived + (count - 1) * arrived_step,
                    )  # fmt: skip


@njit(**JIT)
def run_and_vote_on_factors(
    model, noise, tables, block, tokens, states, states_out, row, first, group_size, scale, plan, pairs,
    v_rows, x_rows, scores,
):  # fmt: skip
    """The block's groups, beginning at group ``row``, read, are credited, and leave their rows of votes.

    As ``groups.run_and_vote``, for an adapter.

    tokens : (groups, T + 1) uint8
    states, states_out : (groups, L, D) int8
    plan : (M, 8) int64, see above
    v_rows : (pairs * outputs of all factors,) int32, written, see ``cast_factor_rows``
    x_rows : (pairs * inputs of all factors,) int32, likewise
    scores : (members of the batch,) int32, written: clean scores summed over the chunk, in 1/256 bit
    """
    length, members = block.length, block.members
    s0 = np.empty((length, members), np.int32)
    s1 = np.empty((length, members), np.int32)
    credit = np.empty((3, length, members), np.int32)
    run_factor_block(model, noise, tables, block, tokens, states, states_out, row, first, s0, s1)
    deviation = assign_credit(tokens, row, group_size, s0, s1, scale, credit)
    pair = row * ((length + 1) >> 1)
    cast_factor_rows(model, block, group_size, credit, plan, pair, pairs, v_rows, x_rows)
    for i in range(members):
        chunk = 0
        for t in range(length):
            chunk += s0[t, i]
        scores[row * group_size + i] = chunk
    return deviation
