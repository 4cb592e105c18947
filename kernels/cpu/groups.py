"""A block of groups from text to votes, in one call: at 64/2 a call from Python costs as much as a group's credit."""

import numpy as np
from numba import njit

from kernels.cpu.forward import run_group_block
from kernels.cpu.structures import JIT
from kernels.cpu.votes import assign_credit, cast_rows, cast_vectors


@njit(**JIT)
def run_and_vote(
    model, noise, tables, block, tokens, states, states_out, row, first, group_size, scale, pairs,
    v_rows, x_rows, embedding_rows, gains, scores,
):  # fmt: skip
    """The block's groups, beginning at group ``row``, read, are credited, and leave their rows of votes.

    tokens : (groups, T + 1) uint8
    states, states_out : (groups, L, D) int8
    first : global number of the block's first member
    scale : the credit scale, in 1/256 bit
    pairs : row pairs of the whole batch, of which each group fills (T + 1) // 2
    v_rows : (pairs * outputs of all matrices,) int32, written, see ``cast_rows``
    x_rows : (pairs * inputs of all matrices,) int32, likewise
    embedding_rows : (groups, T, D) int32, written, see ``cast_vectors``
    gains : (2 L + 1, D) int64, added to
    scores : (members of the batch,) int32, written: clean scores summed over the chunk, in 1/256 bit
    returns : the sum over members of |the chunk's score less the group's mean|
    """
    length, members = block.length, block.members
    s0 = np.empty((length, members), np.int32)
    s1 = np.empty((length, members), np.int32)
    credit = np.empty((3, length, members), np.int32)
    run_group_block(model, noise, tables, block, tokens, states, states_out, row, first, s0, s1)
    deviation = assign_credit(tokens, row, group_size, s0, s1, scale, credit)
    pair = row * ((length + 1) >> 1)
    cast_rows(model, noise, block, group_size, credit, pair, pairs, v_rows, x_rows)
    cast_vectors(model, block, group_size, credit, gains, tokens, row, embedding_rows, length)
    for i in range(members):
        chunk = 0
        for t in range(length):
            chunk += s0[t, i]
        scores[row * group_size + i] = chunk
    return deviation
