"""Low-rank factors beside a product: z = clip8((A . x) >> shift(K)), acc = W . x + ((B . z) << lift(K)).

z is appended to x, 2**lift times over, and B to the panels of W, so that one pass of the tiles yields both products;
that makes 4 * sqrt(K) * rank / 16 inputs more beside K. A has few rows: each is a dot product of its own.

An ``AdaptedModel`` in place of a ``Model`` compiles the forward pass a second time, with what stands here; the plain
one holds nothing of it. Members' factors move, their weights do not, so both run in mode CLEAN.
"""

from typing import NamedTuple

import numpy as np
from numba import njit
from numba.extending import overload

from egg.kernels.arithmetic import LIMIT, adapter_lift
from egg.kernels.backend import Adapter
from egg.kernels.cpu.noise import TERMS, summed_projection, summed_terms, summed_tile
from egg.kernels.cpu.simd import (
    add_products,
    add_signed_bytes,
    aligned,
    load_byte,
    load_i8,
    load_long,
    load_word,
    splat,
    store_byte,
    store_i8,
    store_word,
    total,
)
from egg.kernels.cpu.structures import JIT, OFFSET, Model, gain, product_shift, quad_at, side
from egg.kernels.cpu.tiles import COLUMNS, ROWS, clean_tile, fine_tile, moved_tile, narrow_clean_tile, narrow_moved_tile

RANKS = 16  # places for z among the votes' inputs: one vector
# Of AdaptedModel.members: pairs whose factors move; readers whose z is kept for votes
MOVES, KEEPS = 1, 2
A_A, B_A, A_B, B_B = range(4)  # signs of a pair of factors: a and b of A, a and b of B


class AdaptedModel(NamedTuple):
    """Packed weights, as in ``structures.Model``, and an adapter of M matrices; addresses."""

    hidden_size: int
    num_layers: int
    packed: int
    starts: int
    offset: int
    start: int
    a: int
    b: int
    rank: int
    matrices: int  # M
    members: int  # 0: plain sequences; MOVES or KEEPS
    shift: int  # 4 - sigma_shift
    number: int  # (tensors,) int64: number of a matrix in the adapter, or -1
    wide: int  # int8: panels of W with B appended
    wide_at: int  # (M,) int64: where a matrix begins in wide
    wide_starts: int  # int32: -OFFSET * row sums of these
    wide_start: int  # (M,) int64: where a matrix begins in wide_starts
    inner: int  # int8: rows of A, each filled up to a multiple of 64
    inner_at: int  # (M,) int64: where a matrix begins in inner
    inner_starts: int  # (M, 16) int32: -OFFSET * row sums of A
    signs: int  # (M, 4) int64: byte offsets in a direction's bits


def through_adapter(model, noise, block, t, tensor, x, x_row, inputs, outputs, out, out_row, flip, fine):
    """Compute an adapted product; False, at compile time, for a model without an adapter."""
    raise NotImplementedError("for kernels alone")


@overload(through_adapter)
def _through_adapter(model, noise, block, t, tensor, x, x_row, inputs, outputs, out, out_row, flip, fine):
    if model.instance_class is not AdaptedModel:
        return lambda model, noise, block, t, tensor, x, x_row, inputs, outputs, out, out_row, flip, fine: False

    def compute(model, noise, block, t, tensor, x, x_row, inputs, outputs, out, out_row, flip, fine):
        m = load_long(model.number + 8 * tensor)
        if m < 0:
            return False
        append_inner(model, noise, block, t, m, x, x_row, inputs)
        adapted_product(model, noise, block, m, inputs, outputs, out, out_row, flip, fine)
        return True

    return compute


def moves_factors(model):
    """Whether members' factors move; False, at compile time, for a model without an adapter."""
    raise NotImplementedError("for kernels alone")


@overload(moves_factors)
def _moves_factors(model):
    if model.instance_class is not AdaptedModel:
        return lambda model: False
    return lambda model: model.members == MOVES


OVERLOADS = {through_adapter: _through_adapter, moves_factors: _moves_factors}
"""What Numba compiles in place of a function: the catalogue follows it to the kernels it calls."""


@njit(**JIT)
def factor_signs(model, block, m, kind):
    """Address of a factor's signs in the first member's direction."""
    return block.words + load_long(model.signs + 8 * (4 * m + kind))


@njit(**JIT)
def append_inner(model, noise, block, t, m, x, x_row, inputs):
    """Every member's input with its z appended, in block.wide; and what its outputs gain for a = +1 and -1.

    A member's directions are bits where it has one, else bytes (noise.py).

    |A . x + gain(p)| <= 127 * 4,096 * (127 + 2**4) < 2**27; |gain(p)| << lift <= 2**4 * 16 * 127 << 4 < 2**19
    """
    shift, rank = product_shift(inputs), model.rank
    lift = shift - 6
    filled = max(64, inputs)
    rows = model.inner + load_long(model.inner_at + 8 * m)
    start = model.inner_starts + 4 * RANKS * m
    a_a, b_a = factor_signs(model, block, m, A_A), factor_signs(model, block, m, B_A)
    b_b = factor_signs(model, block, m, B_B)
    moves = model.members == MOVES
    summed = moves and summed_projection(noise, block.members, 2 * m, x, x_row, inputs)
    moves = moves and not summed
    terms = 0
    for i in range(block.members):
        at, to = x + i * x_row, block.wide + i * block.wide_row
        for k in range(0, inputs, 16):
            store_i8(to + k, load_i8(at + k))
        to += inputs
        p, direction = 0, i * block.words_row
        if moves:
            acc = splat(0)
            for k in range(0, inputs, 64):
                acc = add_signed_bytes(acc, at + k, b_a + direction + (k >> 3))
            p = side(i) * total(acc)
        if summed:
            terms = terms + TERMS if i & 1 else summed_terms(noise, 2 * m, i, 0, RANKS, 0)
        p_b = 0
        quad = block.quad + (i >> 2) * block.length + t
        for j in range(rank):
            acc = splat(0)
            for k in range(0, inputs, 64):
                acc = add_products(acc, at + k, rows + j * filled + k)
            z = total(acc) + load_word(start + 4 * j)
            if summed:
                z += load_word(terms + 4 * j)
            if moves:
                plus = (load_byte(a_a + direction + (j >> 3)) >> (j & 7)) & 1
                z += gain(p if plus else -p, model.shift)
            z = min(LIMIT, max(-LIMIT, z >> shift))
            for copy in range(1 << lift):
                store_byte(to + copy * rank + j, z + OFFSET)
            if moves:
                plus = (load_byte(b_b + direction + (j >> 3)) >> (j & 7)) & 1
                p_b += z if plus else -z
            if model.members == KEEPS:
                kept = quad_at(block.z, block.quads, RANKS * m, j, RANKS, quad)
                store_byte(kept + (i & 3), z + OFFSET)
        if moves:
            p_b *= side(i)
            store_word(block.gains + 8 * i, gain(p_b, model.shift) << lift)
            store_word(block.gains + 8 * i + 4, gain(-p_b, model.shift) << lift)
    if summed:  # the inputs of B are the first of z's copies; its b is 0 beyond the adapter's rank
        summed_projection(noise, block.members, 2 * m + 1, block.wide + inputs, block.wide_row, RANKS)


@njit(**JIT)
def adapted_product(model, noise, block, m, inputs, outputs, out, out_row, flip, fine):
    """clip8((W . x + ((B . z) << lift(K))) >> shift(K)) of every member, x and z being in block.wide.

    out : address of (members, outputs) bytes; flip OFFSET writes offset bytes
    fine : whether to write int16 with eight bits more, see ``tiles.fine_tile``
    """
    shift = product_shift(inputs)
    quads = (inputs >> 2) + (((model.rank << (shift - 6)) + 3) >> 2)
    w = model.wide + load_long(model.wide_at + 8 * m)
    start = model.wide_starts + 4 * load_long(model.wide_start + 8 * m)
    bits, bits_row = factor_signs(model, block, m, A_B), block.words_row
    moves = model.members == MOVES
    width = min(64, outputs)
    columns = min(COLUMNS, width)
    for n in range(0, outputs, columns):
        panel = w + (n & -width) * 4 * quads + 4 * (n & (width - 1))
        for i in range(0, block.padded, ROWS):
            x, row_bits = block.wide + i * block.wide_row, bits + i * bits_row + (n >> 3)
            if fine:
                fine_tile(
                    x,
                    block.wide_row,
                    panel,
                    4 * width,
                    quads,
                    start + 4 * n,
                    shift - 6,
                    out + i * out_row + 2 * n,
                    out_row,
                    0,
                    0,
                    0,
                    0,
                )
                continue
            common = (
                x,
                block.wide_row,
                panel,
                4 * width,
                quads,
                start + 4 * n,
                shift,
                out + i * out_row + n,
                out_row,
                flip,
            )
            if moves and summed_tile(noise, 2 * m + 1, i, n, columns, shift - 6, *common):
                continue
            arguments = (*common, row_bits, bits_row, block.gains + 8 * i)
            if columns == COLUMNS:
                if moves:
                    moved_tile(*arguments)
                else:
                    clean_tile(*arguments)
            elif moves:
                narrow_moved_tile(*arguments)
            else:
                narrow_clean_tile(*arguments)


def widen(model: Model, shape, weights: np.ndarray, adapter: Adapter):
    """The packed model with an adapter, and the arrays that must live as long.

    weights : (parameters,) int8
    """
    layout, factors = adapter.shape, adapter.shape.views(adapter.factors)
    matrices, views = layout.matrices, shape.views(weights)
    number = np.full(len(shape.tensors), -1, np.int64)
    panels, starts, rows = [], [], []
    inner_starts = np.zeros((len(matrices), RANKS), np.int32)
    signs = np.empty((len(matrices), 4), np.int64)
    for m, name in enumerate(matrices):
        number[shape.tensors[name].number] = m
        w, a, b = views[name], factors[name + ".A"], factors[name + ".B"]
        (outputs, inputs), rank = w.shape, layout.rank
        copies = 1 << adapter_lift(inputs)
        extra = -(-rank * copies // 4) * 4
        wide = np.zeros((outputs, inputs + extra), np.int8)
        wide[:, :inputs] = w
        wide[:, inputs : inputs + rank * copies] = np.tile(b, copies)
        width = min(64, outputs)
        quads = wide.reshape(outputs // width, width, -1, 4).transpose(0, 2, 1, 3)
        panels.append(np.ascontiguousarray(quads).ravel())
        starts.append(-OFFSET * wide.sum(1, dtype=np.int32))
        filled = np.zeros((rank, max(64, inputs)), np.int8)
        filled[:, :inputs] = a
        rows.append(filled.ravel())
        inner_starts[m, :rank] = -OFFSET * a.sum(1, dtype=np.int32)
        places = (layout.tensors[f"{name}.{factor}"] for factor in "AB")
        signs[m] = [bit >> 3 for t in places for bit in (t.a, t.b)]
    arrays = (number, *_joined(panels), *_joined(starts), *_joined(rows), inner_starts, signs)
    addresses = (array.ctypes.data for array in arrays)
    return AdaptedModel(*model, layout.rank, len(matrices), 0, 0, *addresses), arrays


def _joined(parts):
    """Arrays one after another at the beginning of a cache line, and where each begins."""
    sizes = [part.size for part in parts]
    whole = aligned((sum(sizes),), parts[0].dtype)
    np.concatenate(parts, out=whole)
    return whole, np.cumsum([0, *sizes[:-1]])
