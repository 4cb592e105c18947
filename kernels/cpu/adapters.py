"""Low-rank factors beside a product: z = clip8((A . x) >> shift(K)), acc = W . x + ((B . z) << lift(K)).

z is appended to x, 2**lift times over, and B to the panels of W, so that one pass of the tiles yields both products;
that makes 4 * sqrt(K) * rank / 16 inputs more beside K. A has few rows: each is a dot product of its own.

An ``AdaptedModel`` in place of a ``Model`` compiles the forward pass a second time, with what stands here; the plain
one holds nothing of it. Members' factors move, their weights do not, so both run in mode CLEAN.
"""

from typing import NamedTuple

from numba import njit
from numba.extending import overload

from kernels.arithmetic import LIMIT
from kernels.cpu.simd import (
    add_products,
    add_signed_bytes,
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
from kernels.cpu.structures import JIT, OFFSET, gain, product_shift, token_sign
from kernels.cpu.tiles import (
    COLUMNS,
    ROWS,
    clean_tile,
    moved_tile,
    narrow_clean_tile,
    narrow_moved_tile,
)

RANKS = 16  # places for z in the trace: one vector
MOVES, KEEPS = 1, 2  # of AdaptedModel.members: their factors move; and what votes need is kept
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
    members: int  # 0: none, all read with the factors as they are; MOVES, KEEPS
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


def through_adapter(model, block, t, tensor, x, x_row, inputs, outputs, out, out_row, flip):
    """Compute an adapted product; False, at compile time, for a model without an adapter."""
    raise NotImplementedError("for kernels alone")


@overload(through_adapter)
def _through_adapter(model, block, t, tensor, x, x_row, inputs, outputs, out, out_row, flip):
    if model.instance_class is not AdaptedModel:
        return lambda model, block, t, tensor, x, x_row, inputs, outputs, out, out_row, flip: False

    def compute(model, block, t, tensor, x, x_row, inputs, outputs, out, out_row, flip):
        m = load_long(model.number + 8 * tensor)
        if m < 0:
            return False
        adapted_product(
            model, block, t, m, x, x_row, inputs, outputs, out, out_row, flip, model.members
        )
        return True

    return compute


@njit(**JIT)
def factor_signs(model, block, m, kind):
    """Address of a factor's signs in the first member's direction."""
    return block.words + load_long(model.signs + 8 * (4 * m + kind))


@njit(**JIT)
def factor_projection(model, block, t, m, factor, i):
    """Address of member i's projection on factor A (0) or B (1) of a matrix at token t."""
    return block.factor_projections + 4 * (
        ((t * model.matrices + m) * 2 + factor) * block.padded + i
    )


@njit(**JIT)
def factor_row(model, block, group, t, m):
    """Offset of a group's z, or of what arrived there, at token t in the trace."""
    return RANKS * ((group * block.length + t) * model.matrices + m)


@njit(**JIT)
def append_inner(model, block, t, m, x, x_row, inputs, members):
    """Every member's input with its z appended, in block.wide; and what its outputs gain for a = +1 and -1.

    |A . x + gain(p)| <= 127 * 4,096 * (127 + 2**4) < 2**27; |gain(p)| << lift <= 2**4 * 16 * 127 << 4 < 2**19
    """
    shift, rank = product_shift(inputs), model.rank
    lift = shift - 6
    filled = max(64, inputs)
    rows = model.inner + load_long(model.inner_at + 8 * m)
    start = model.inner_starts + 4 * RANKS * m
    a_a, b_a = factor_signs(model, block, m, A_A), factor_signs(model, block, m, B_A)
    b_b = factor_signs(model, block, m, B_B)
    for i in range(block.members):
        at, to = x + i * x_row, block.wide + i * block.wide_row
        for k in range(0, inputs, 16):
            store_i8(to + k, load_i8(at + k))
        to += inputs
        p, sign, direction = 0, 0, i * block.words_row
        if members:
            acc = splat(0)
            for k in range(0, inputs, 64):
                acc = add_signed_bytes(acc, at + k, b_a + direction + (k >> 3))
            sign = token_sign(block, t, i)
            p = sign * total(acc)
        p_b = 0
        first = members & KEEPS and i % block.text_share == 0
        trace = factor_row(model, block, i // block.text_share, t, m)
        for j in range(rank):
            acc = splat(0)
            for k in range(0, inputs, 64):
                acc = add_products(acc, at + k, rows + j * filled + k)
            z = total(acc) + load_word(start + 4 * j)
            if members:
                plus = (load_byte(a_a + direction + (j >> 3)) >> (j & 7)) & 1
                z += gain(p if plus else -p, model.shift)
            z = min(LIMIT, max(-LIMIT, z >> shift))
            for copy in range(1 << lift):
                store_byte(to + copy * rank + j, z + OFFSET)
            if members:
                plus = (load_byte(b_b + direction + (j >> 3)) >> (j & 7)) & 1
                p_b += z if plus else -z
            if first:
                store_byte(block.factor_inputs + trace + j, z + OFFSET)
                store_byte(block.factor_arrived + trace + j, LIMIT if abs(z) < LIMIT else 0)
        if members:
            p_b *= sign
            store_word(block.gains + 8 * i, gain(p_b, model.shift) << lift)
            store_word(block.gains + 8 * i + 4, gain(-p_b, model.shift) << lift)
        if members & KEEPS:
            store_word(factor_projection(model, block, t, m, 0, i), p)
            store_word(factor_projection(model, block, t, m, 1, i), p_b)


@njit(**JIT)
def adapted_product(
    model, block, t, m, x, x_row, inputs, outputs, out, out_row, flip, members
):  # fmt: skip
    """clip8((W . x + ((B . z) << lift(K))) >> shift(K)) of every member, whose factors move if ``members`` says so.

    x, out : addresses of (members, inputs) offset bytes and (members, outputs) bytes; flip OFFSET writes offset bytes
    """
    append_inner(model, block, t, m, x, x_row, inputs, members)
    shift = product_shift(inputs)
    quads = (inputs >> 2) + (((model.rank << (shift - 6)) + 3) >> 2)
    w = model.wide + load_long(model.wide_at + 8 * m)
    start = model.wide_starts + 4 * load_long(model.wide_start + 8 * m)
    bits, bits_row = factor_signs(model, block, m, A_B), block.words_row
    width = min(64, outputs)
    columns = min(COLUMNS, width)
    for n in range(0, outputs, columns):
        panel = w + (n & -width) * 4 * quads + 4 * (n & (width - 1))
        for i in range(0, block.padded, ROWS):
            arguments = (
                block.wide + i * block.wide_row, block.wide_row, panel, 4 * width, quads, start + 4 * n, shift,
                out + i * out_row + n, out_row, flip, bits + i * bits_row + (n >> 3), bits_row,
                block.gains + 8 * i, out + i * out_row + n,
            )  # fmt: skip
            if columns == COLUMNS:
                if members:
                    moved_tile(*arguments)
                else:
                    clean_tile(*arguments)
            elif members:
                narrow_moved_tile(*arguments)
            else:
                narrow_clean_tile(*arguments)
