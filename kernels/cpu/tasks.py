"""What threads share of a call, see team.py: each task finds its part of the work, and calls the kernels that do it.

A task reads all it needs from a structure in memory (structures.py), so that the threads start at once.
"""

import numpy as np
from numba import njit

from egg.kernels.arithmetic import BRANCH_MEAN, VOCABULARY
from egg.kernels.cpu import structures as st
from egg.kernels.cpu.branches import draw_rows, draw_turns, prepare_moves, read_and_credit, vote_along
from egg.kernels.cpu.credit import move_shift, transform_rows
from egg.kernels.cpu.forward import log2_of, run_sequences
from egg.kernels.cpu.pack import pack_panels
from egg.kernels.cpu.simd import load_i32, load_long, splat, store_i32, store_long, store_word
from egg.kernels.cpu.structures import JIT, array_at, load_as, product_shift
from egg.kernels.cpu.team import call_task
from egg.kernels.cpu.votes import move_rows, sum_embedding, sum_panels

BLOCK = 8 * len(st.Block._fields)  # bytes
CREDIT_SHIFT, PLACE, WIDE_PLACE = (8 * i for i in range(3))  # fields of BranchParameters that tasks write
HEAD_ROWS = 16  # of the head, that a task prepares
UPDATED_ROWS = 64
WORDS = 192  # that the draws of a step's branches take at least


@njit(**JIT)
def block_at(call, thread, i):
    """Address of the block that part i is read with: its own, or the thread's if there are fewer than parts."""
    return call.blocks + BLOCK * (i if call.parts == call.slots else thread)


@njit(**JIT)
def take_block(at, members, quad):
    """The block at an address, with so many members."""
    store_long(at, members)
    store_long(at + 8, (members + 3) & -4)
    store_long(at + 16, quad)
    return load_as(st.Block, at)


@njit(**JIT)
def pack_panel(arguments, thread, panel):
    """A panel of a matrix."""
    call = load_as(st.Packing, arguments)
    panels = array_at(call.panels, (panel + 1, 4), np.int64)
    pack_panels(call.weights, panels, panel, panel + 1, call.packed, call.starts)


@njit(**JIT)
def draw_branches(arguments, thread, wide):
    """The signs of a step's branches: of D places or, for w_down, of 4 D; and which branches there are."""
    call = load_as(st.Step, arguments)
    draw, d = load_as(st.BranchParameters, call.draw), load_as(st.Model, call.model).hidden_size
    most = max(WORDS, d)
    words = array_at(call.words + 4 * most * wide, (most,), np.uint32)
    if wide:
        signs, turns = array_at(draw.wide_signs, (4 * d,), np.int32), array_at(draw.wide_turns, (4 * d,), np.int32)
        place = draw_turns(call.key_0, call.key_1, call.step, 1, words, signs, turns)
        store_long(call.draw + WIDE_PLACE, place)
        return
    signs, turns = array_at(draw.signs, (d,), np.int32), array_at(draw.all_turns, (d,), np.int32)
    store_long(call.draw + PLACE, draw_turns(call.key_0, call.key_1, call.step, 0, words, signs, turns))
    rows = array_at(draw.rows, (draw.count,), np.int64)
    draw_rows(call.key_0, call.key_1, call.step, d, words, rows)
    for k in range(draw.count):
        store_word(draw.turns + 4 * k, turns[rows[k]])


@njit(**JIT)
def transform_head(arguments, thread, i):
    """Some of the head's rows as the branches turn them."""
    call = load_as(st.Step, arguments)
    draw, d = load_as(st.BranchParameters, call.draw), load_as(st.Model, call.model).hidden_size
    magnitude = transform_rows(
        array_at(call.head, (VOCABULARY, d), np.int8),
        array_at(draw.signs, (d,), np.int32),
        array_at(draw.all_turns, (d,), np.int32),
        HEAD_ROWS * i,
        HEAD_ROWS * (i + 1),
        array_at(call.transformed, (VOCABULARY, d), np.int32),
    )
    store_long(call.magnitudes + 8 * i, magnitude)


@njit(**JIT)
def prepare_head(arguments, thread, i):
    """What the branches add to some of the logits; and what their credit is shifted by."""
    call = load_as(st.Step, arguments)
    draw, d = load_as(st.BranchParameters, call.draw), load_as(st.Model, call.model).hidden_size
    magnitude = 0
    for part in range(VOCABULARY // HEAD_ROWS):
        magnitude += load_long(call.magnitudes + 8 * part)
    m = move_shift(magnitude, VOCABULARY * d, BRANCH_MEAN)
    if i == 0:
        fewer = log2_of(d) - log2_of(draw.count)
        store_long(call.draw + CREDIT_SHIFT, product_shift(d) + (log2_of(d) >> 1) - 11 - m - fewer)
    prepare_moves(
        array_at(call.transformed, (VOCABULARY, d), np.int32),
        m,
        array_at(draw.rows, (draw.count,), np.int64),
        HEAD_ROWS * i,
        HEAD_ROWS * (i + 1),
        array_at(draw.moves, (VOCABULARY // 2, draw.count), np.int32),
    )


@njit(**JIT)
def readers_of(call, i):
    """The first reader of part i, and the one after its last."""
    fours = (call.streams + 3) >> 2
    return 4 * (fours * i // call.parts), min(call.streams, 4 * (fours * (i + 1) // call.parts))


@njit(**JIT)
def states_of(call):
    """The states of all readers, before and after."""
    model = load_as(st.Model, call.model)
    size = call.streams, model.num_layers, model.hidden_size
    return array_at(call.states, size, np.int8), array_at(call.states_out, size, np.int8)


@njit(**JIT)
def open_block(call, thread, i):
    """The block of part i, made ready, and its first reader."""
    first, end = readers_of(call, i)
    return take_block(block_at(call, thread, i), end - first, (first >> 2) * call.length), first


@njit(**JIT)
def read_part(arguments, thread, i):
    """Part i of sequences, from text to logits."""
    call = load_as(st.Reading, arguments)
    model, noise = load_as(st.Model, call.model), load_as(st.NoiseParameters, call.noise)
    block, first = open_block(call, thread, i)
    text = array_at(call.text, (call.streams, call.length), np.uint8)
    logits = array_at(call.logits, (call.streams, call.length, VOCABULARY), np.int8)
    run_sequences(model, noise, load_as(st.Tables, call.tables), block, text, *states_of(call), first, logits)


@njit(**JIT)
def what_votes(call, thread, i):
    """Of part i: block, branches, all rows of text, the first reader, votes on vectors."""
    model = load_as(st.Model, call.model)
    d, vectors = model.hidden_size, 1 + 4 * model.num_layers
    return (
        load_as(st.Block, block_at(call, thread, i)),
        load_as(st.BranchParameters, call.draw),
        array_at(call.text, (call.streams, call.length + 1), np.uint8),
        readers_of(call, i)[0],
        array_at(call.vectors + 4 * vectors * d * i, (vectors, d), np.int32),
    )


@njit(**JIT)
def open_readers(call, thread, i):
    """The same, the block being made ready."""
    open_block(call, thread, i)
    return what_votes(call, thread, i)


@njit(**JIT)
def read_and_vote(arguments, thread, i):
    """Part i of the readers, from text to votes."""
    call = load_as(st.Step, arguments)
    model, noise = load_as(st.Model, call.model), load_as(st.NoiseParameters, call.noise)
    block, draw, text, row, vectors = open_readers(call, thread, i)
    tables, states = load_as(st.Tables, call.tables), states_of(call)
    score = read_and_credit(model, noise, tables, block, draw, text, *states, row, call.first_row, vectors)
    store_long(call.scores + 8 * i, score)
    call_task(call.vote, arguments, thread, i)


@njit(**JIT)
def vote_wire(arguments, thread, i):
    """Votes of part i along the wire alone."""
    call = load_as(st.Step, arguments)
    block, draw, text, row, vectors = what_votes(call, thread, i)
    totals = array_at(call.totals + 8 * call.kinds * i, (call.kinds,), np.int64)
    vote_along(load_as(st.Model, call.model), block, draw, text, row, call.rows, vectors, totals)


@njit(**JIT)
def sum_panel(arguments, thread, panel):
    """The votes' products of a panel."""
    call = load_as(st.Step, arguments)
    block = load_as(st.Block, call.blocks)
    plan, votes = array_at(call.plan, (call.panels, 7), np.int64), array_at(call.votes, (call.size,), np.int32)
    sum_panels(plan, panel, panel + 1, block.v, block.x, block.z, block.quads, votes, 0)


@njit(**JIT)
def sum_part(arguments, thread, i):
    """The same, then columns of the embedding's votes, and at last those of vectors."""
    call = load_as(st.Step, arguments)
    model = load_as(st.Model, call.model)
    d, columns = model.hidden_size, i - call.panels
    if columns < 0:
        sum_panel(arguments, thread, i)
    elif columns < d >> 4:
        sum_embedding(
            array_at(call.votes, (call.size,), np.int32),
            d,
            array_at(call.text, (call.streams, call.length + 1), np.uint8),
            16 * columns,
            16 * columns + 16,
            array_at(call.rows, (call.streams, call.length, d), np.int8),
        )
    else:
        vectors = 1 + 4 * model.num_layers
        for which in range(vectors):
            to = call.votes + 4 * load_long(call.places + 8 * which)
            for j in range(0, d, 16):
                sums = splat(0)
                for block in range(call.parts):
                    sums = sums + load_i32(call.vectors + 4 * ((block * vectors + which) * d + j))
                store_i32(to + 4 * j, sums)


@njit(**JIT)
def move_some(arguments, thread, i):
    """Some rows' update."""
    call = load_as(st.Moving, arguments)
    move_rows(
        array_at(call.master, (call.parameters,), np.int32),
        array_at(call.squares, (call.rows,), np.int64),
        array_at(call.votes, (call.parameters,), np.int32),
        array_at(call.starts, (call.rows + 1,), np.int64),
        UPDATED_ROWS * i,
        min(call.rows, UPDATED_ROWS * (i + 1)),
        call.step,
        call.step_size,
        array_at(call.weights, (call.parameters,), np.int8),
    )
