"""Members whose perturbations are sums of directions, or Gaussian: recipe paper with rank 4, 16 or noise gaussian.

A pair's factors a and b are drawn as bytes once per block, so that both products with them are dot products of bytes:

    b           [inputs / 4][rank][4], after 16 int32 that undo the offset of the inputs: p of all ranks from one pass
    a           [rank / 4][outputs][4], offset; of rank 1 [outputs]: sums over the ranks, four to a word
    p           three bytes with a sign each, p = d0 + 2**8 d1 + 2**16 d2, of 16 ranks

The embedding is read by rows: its b lies as an a, and its a as a b. A member's gains and biases are moved as they are
drawn. What a product gains, the term, is written as int32 for a tile of members and outputs, just before the tile.

``SummedNoise`` in place of ``NoiseParameters`` compiles the forward pass a second time, with what stands here; signs of
rank 1 are bits that go straight into mask registers (forward.py), and nothing of this is in their code.
"""

from typing import NamedTuple

import numpy as np
from numba import njit
from numba.extending import overload

from egg.kernels.arithmetic import GAUSSIAN_LIMIT, LIMIT
from egg.kernels.cpu.signs import LANES, draw_words
from egg.kernels.cpu.simd import (
    add_products,
    add_rank_4,
    add_rank_16,
    add_word_products,
    address,
    aligned,
    clip8_lanes,
    first_lane,
    fold_rank_4,
    load_byte,
    load_i8,
    load_i32,
    load_long,
    load_offset,
    load_word,
    maximum,
    minimum,
    splat,
    store_byte,
    store_i8,
    store_i32,
    store_word,
    total,
)
from egg.kernels.cpu.structures import JIT, OFFSET, direction_of, side, tensor_at
from egg.kernels.cpu.tiles import COLUMNS, ROWS, added_tile, narrow_added_tile

PLACES = 6  # of a tensor: where a and b begin in the word string, and as bytes; outputs and inputs, 0 of a vector
A_DRAWN, B_DRAWN, A, B, OUTPUTS, INPUTS = range(PLACES)
HELD = 64  # bytes of a member's p: d0, d1, d2 of 16 ranks, what undoes the offset of a, p of rank 1
D_1, D_2, UNDO, P = 16, 32, 48, 52
TERMS = 256  # bytes of a member's term: 64 int32


class SummedNoise(NamedTuple):
    """What a block's members share of their perturbations, as ``NoiseParameters``, and their factors; addresses."""

    mode: int
    key_0: int
    key_1: int
    step: int
    shift: int
    vector_step: int
    directions: int
    rank: int
    gaussian: int  # 0 or 1
    stream: int  # of the generator
    limit: int  # of |p|
    halving: int  # log2 of the rank's root
    vector_shift: int
    up: int  # what a term is shifted by, to the left and then to the right
    down: int
    tensors: int
    places: int  # (tensors, PLACES) int64
    table: int  # (65536,) int8
    words: int  # of a direction, in whole 64s
    strings: int  # (words + 1,) uint32, scratch
    row: int  # bytes of a pair's factors
    factors: int  # (pairs, row)
    own_row: int  # bytes of a member's moved vectors
    own: int  # (members, own_row)
    held: int  # (members, HELD)
    terms: int  # (ROWS, TERMS)


def _filled(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple


def place_factors(layout, rank: int, gaussian: bool) -> tuple[np.ndarray, int, int]:
    """Where the factors of a layout's tensors lie.

    returns : (tensors, PLACES) int64, the bytes of a pair's factors, and of a member's moved vectors
    """
    drawn = layout.gaussian if gaussian else layout.tensors
    places, factors, own = np.zeros((len(layout.tensors), PLACES), np.int64), 0, 0
    for place, (name, t) in zip(places, layout.tensors.items(), strict=True):
        place[: B_DRAWN + 1] = drawn[name].a, drawn[name].b
        place[OUTPUTS] = t.shape[0]
        if len(t.shape) == 1:
            place[A], own = own, own + _filled(t.size, 64)
            continue
        outputs, inputs = t.shape[::-1] if name == "embedding.weight" else t.shape
        place[INPUTS] = t.shape[1]
        a, b = rank * _filled(outputs, 16), 64 + rank * _filled(inputs, 64 if rank == 1 else 16)
        place[A], place[B] = factors, factors + _filled(a, 64) + 64
        if name == "embedding.weight":
            place[A], place[B] = place[B], place[A]
        factors += _filled(a, 64) + _filled(b, 64)
    return places, factors, own


def factor_buffers(places: tuple, members: int, words: int) -> tuple[np.ndarray, ...]:
    """What a block's noise is kept in: a word string, factors, moved vectors, p and terms; zeros.

    places : of ``place_factors``
    members : in whole tiles
    words : of a direction's word string
    """
    _, row, own_row = places
    sizes = 4 * _filled(words, 64) + 4, members // 2 * row, members * own_row, members * HELD, ROWS * TERMS
    found = tuple(aligned((size,), np.uint8) for size in sizes)
    for array in found:
        array[...] = 0
    return found


def summed_noise(plain, noise, places: tuple, stream: int, table: np.ndarray, buffers: tuple) -> SummedNoise:
    """The noise of a block.

    plain : its NoiseParameters
    table : (65536,) int8
    """
    at, row, own_row = places
    strings, factors, own, held, terms = (array.ctypes.data for array in buffers)
    halving = noise.root.bit_length() - 1
    shift = halving + noise.sigma_shift + (4 if noise.gaussian else -4)
    return SummedNoise(
        *plain._replace(vector_step=1 if noise.gaussian else plain.vector_step),
        noise.rank,
        int(noise.gaussian),
        stream,
        GAUSSIAN_LIMIT // noise.rank,  # of signs |p| <= 127 * 4,096 is less
        halving,
        noise.sigma_shift + 4 if noise.gaussian else 0,
        max(0, -shift),
        max(0, shift),
        len(at),
        at.ctypes.data,
        table.ctypes.data,
        (len(buffers[0]) >> 2) - 1,
        strings,
        row,
        factors,
        own_row,
        own,
        held,
        terms,
    )


@njit(**JIT)
def tensor_place(noise, tensor, kind):
    """One of a tensor's places."""
    return load_long(noise.places + 8 * (PLACES * tensor + kind))


@njit(**JIT)
def drawn(noise, e):
    """Element e of the direction that was drawn last."""
    if noise.gaussian:
        return load_byte(noise.table + (load_word(noise.strings + 2 * e) & 0xFFFF))
    return 2 * ((load_word(noise.strings + 4 * (e >> 5)) >> (e & 31)) & 1) - 1


@njit(**JIT)
def draw_inputs(noise, q, first, count, to):
    """Elements ``first`` on as b of rank q, and what undoes the offset of the inputs that it is multiplied with."""
    sums = 0
    for k in range(count):
        v = drawn(noise, first + k)
        sums += v
        store_byte(to + (k >> 2) * 4 * noise.rank + 4 * q + (k & 3), v)
    store_word(to - 64 + 4 * q, -OFFSET * sums)


@njit(**JIT)
def draw_outputs(noise, q, first, count, to):
    """Elements ``first`` on as a of rank q."""
    if noise.rank == 1:
        for n in range(count):
            store_byte(to + n, drawn(noise, first + n) + OFFSET)
        return
    to += 4 * (q >> 2) * ((count + 15) & ~15) + (q & 3)
    for n in range(count):
        store_byte(to + 4 * n, drawn(noise, first + n) + OFFSET)


@njit(**JIT)
def move_vector(model, noise, i, tensor):
    """A vector as members i and i + 1 have it, clip8(v + r e V)."""
    a, b = tensor_place(noise, tensor, A_DRAWN), tensor_place(noise, tensor, B_DRAWN)
    weights, to = tensor_at(model, tensor), noise.own + tensor_place(noise, tensor, A)
    for k in range(tensor_place(noise, tensor, OUTPUTS)):
        e = drawn(noise, a + k) * noise.vector_step
        if noise.gaussian:
            e *= drawn(noise, b + k)
        for member in range(i, i + 2):
            v = load_byte(weights + k) + ((side(member) * e) >> noise.vector_shift)
            store_byte(to + noise.own_row * member + k, min(LIMIT, max(-LIMIT, v)))


@njit(**JIT)
def draw_factors(noise, model, members, first):
    """The factors of the members' directions, and their moved vectors; ``first`` is the first pair. True."""
    for i in range(0, members, 2):
        factors = noise.factors + noise.row * (i >> 1)
        number = noise.rank * direction_of(noise, first + (i >> 1))
        for q in range(noise.rank):
            draw_words(
                noise.stream,
                number + q,
                noise.step,
                noise.key_0,
                noise.key_1,
                address(LANES),
                noise.strings,
                noise.words,
            )
            for tensor in range(noise.tensors):
                inputs = tensor_place(noise, tensor, INPUTS)
                if inputs == 0:
                    if q == 0:
                        move_vector(model, noise, i, tensor)
                    continue
                outputs = tensor_place(noise, tensor, OUTPUTS)
                a, b = tensor_place(noise, tensor, A_DRAWN), tensor_place(noise, tensor, B_DRAWN)
                to_a = factors + tensor_place(noise, tensor, A)
                to_b = factors + tensor_place(noise, tensor, B)
                if to_a < to_b:
                    draw_outputs(noise, q, a, outputs, to_a)
                    draw_inputs(noise, q, b, inputs, to_b)
                else:  # the embedding
                    draw_inputs(noise, q, a, outputs, to_a)
                    draw_outputs(noise, q, b, inputs, to_b)
    return True


@njit(**JIT)
def hold(noise, i, p):
    """Keep a member's p, limited, in bytes."""
    limit = splat(noise.limit)
    p = maximum(splat(0) - limit, minimum(limit, p))
    d_0 = (p << 24) >> 24
    rest = (p - d_0) >> 8
    d_1 = (rest << 24) >> 24
    at, all_ = noise.held + HELD * i, total(p)
    store_i8(at, d_0)
    store_i8(at + D_1, d_1)
    store_i8(at + D_2, (rest - d_1) >> 8)
    store_word(at + UNDO, -OFFSET * all_)
    store_word(at + P, all_)


@njit(**JIT)
def project_pair(noise, i, b, x, x_row, inputs):
    """p = r (b . x) of members i and i + 1, who share b; |b . x| <= 69 * 127 * 4,096 < 2**26."""
    x_0, start = x + i * x_row, load_i32(b - 64)
    x_1 = x_0 + x_row
    one, two = start, start
    if noise.rank == 1:
        for k in range(0, inputs, 64):
            one, two = add_products(one, x_0 + k, b + k), add_products(two, x_1 + k, b + k)
        one, two = first_lane(total(one)), first_lane(total(two))
    elif noise.rank == 4:
        for k in range(0, inputs, 16):
            one, two = add_rank_4(one, x_0 + k, b + 4 * k), add_rank_4(two, x_1 + k, b + 4 * k)
        one, two = fold_rank_4(one), fold_rank_4(two)
    else:
        three, four = splat(0), splat(0)  # chains of their own
        for k in range(0, inputs, 8):
            at = b + 16 * k
            one, two = add_rank_16(one, x_0 + k, at), add_rank_16(two, x_1 + k, at)
            three, four = add_rank_16(three, x_0 + k + 4, at + 64), add_rank_16(four, x_1 + k + 4, at + 64)
        one, two = one + three, two + four
    hold(noise, i, one)
    hold(noise, i + 1, splat(0) - two)


@njit(**JIT)
def sum_ranks(noise, i, a, outputs, columns, up, down, lift):
    """The terms ((sum_q a_q[n] p_q) << up >> down) << lift of members i and i + 1 for some outputs.

    a : address of a of the first of these outputs; outputs : all of the matrix, in whole sixteens
    columns : how many, 64 at the most
    """
    one, two = noise.held + HELD * i, noise.held + HELD * (i + 1)
    to = noise.terms + TERMS * (i & (ROWS - 1))
    for n in range(0, columns, 16):
        if noise.rank == 1:
            v = load_offset(a + n)
            first, second = v * splat(load_word(one + P)), v * splat(load_word(two + P))
        else:
            first, first_1, first_2 = splat(load_word(one + UNDO)), splat(0), splat(0)
            second, second_1, second_2 = splat(load_word(two + UNDO)), splat(0), splat(0)
            for q in range(0, noise.rank, 4):
                at = a + q * outputs + 4 * n
                first = add_word_products(first, at, one + q)
                first_1 = add_word_products(first_1, at, one + D_1 + q)
                first_2 = add_word_products(first_2, at, one + D_2 + q)
                second = add_word_products(second, at, two + q)
                second_1 = add_word_products(second_1, at, two + D_1 + q)
                second_2 = add_word_products(second_2, at, two + D_2 + q)
            first = first + (first_1 << 8) + (first_2 << 16)
            second = second + (second_1 << 8) + (second_2 << 16)
        store_i32(to + 4 * n, ((first << up) >> down) << lift)
        store_i32(to + TERMS + 4 * n, ((second << up) >> down) << lift)


@njit(**JIT)
def project_members(noise, members, tensor, x, x_row, inputs):
    """p of all members, for a tensor whose inputs are offset bytes at an address; True."""
    b = noise.factors + tensor_place(noise, tensor, B)
    for i in range(0, members, 2):
        project_pair(noise, i, b + noise.row * (i >> 1), x, x_row, inputs)
    return True


@njit(**JIT)
def pair_terms(noise, tensor, i, n, columns, lift):
    """Address of the terms of members i and i + 1 for ``columns`` outputs of a tensor from n on, see ``sum_ranks``."""
    each = 1 if noise.rank == 1 else 4
    at = noise.factors + noise.row * (i >> 1) + tensor_place(noise, tensor, A) + each * n
    outputs = (tensor_place(noise, tensor, OUTPUTS) + 15) & ~15
    sum_ranks(noise, i, at, outputs, columns, noise.up, noise.down, lift)
    return noise.terms + TERMS * (i & (ROWS - 1))


@njit(**JIT)
def tile_with_terms(noise, tensor, i, n, columns, lift, x, x_row, w, w_step, quads, start, shift, out, out_row, flip):
    """A tile of a product, clip8((acc + term) >> shift), of the members from i and the outputs from n on; True."""
    for pair in range(i, i + ROWS, 2):
        pair_terms(noise, tensor, pair, n, columns, lift)
    arguments = (x, x_row, w, w_step, quads, start, shift, out, out_row, flip, noise.terms, TERMS, 0)
    if columns == COLUMNS:
        added_tile(*arguments)
    else:
        narrow_added_tile(*arguments)
    return True


@njit(**JIT)
def moved_row(noise, model, i, byte, to):
    """A byte's row of the embedding as members i and i + 1 have it; nothing for an odd i. True.

    to : address of member i's row, (D,) int8, in block.bytes
    """
    if i & 1:
        return True
    d = model.hidden_size
    factors, p = noise.factors + noise.row * (i >> 1), splat(0)
    at = factors + tensor_place(noise, 0, A) + (byte >> 2) * 4 * noise.rank + (byte & 3)
    one = noise.held + HELD * i
    store_i8(one, splat(0))
    for q in range(noise.rank):
        store_byte(one + q, load_byte(at + 4 * q) * noise.vector_step)
    p = load_i8(one)
    hold(noise, i, p)
    hold(noise, i + 1, splat(0) - p)
    b, each = factors + tensor_place(noise, 0, B), 1 if noise.rank == 1 else 4
    weights = model.packed + byte * d
    for n in range(0, d, 64):
        sum_ranks(noise, i, b + each * n, d, min(64, d), 0, noise.halving + noise.vector_shift, 0)
        for member in range(2):
            terms = noise.terms + TERMS * ((i & (ROWS - 1)) + member)
            row = to + member * max(64, d) + n
            for j in range(0, min(64, d), 16):
                store_i8(row + j, clip8_lanes(load_i8(weights + n + j) + load_i32(terms + 4 * j)))
    return True


@njit(**JIT)
def own_vector(noise, tensor, i):
    """Address of a member's moved gains or biases."""
    return noise.own + noise.own_row * i + tensor_place(noise, tensor, A)


OVERLOADS = {}
"""What Numba compiles in place of a function, as in adapters.py."""


def _of_sums(kernel, otherwise):
    """A function of a noise that is the kernel of a SummedNoise and, at compile time, a constant of any other."""

    def function(noise, *arguments):
        raise NotImplementedError("for kernels alone")

    @overload(function)
    def choose(noise, *arguments):
        if noise.instance_class is SummedNoise:
            return lambda noise, *arguments: kernel(noise, *arguments)
        return lambda noise, *arguments: otherwise

    OVERLOADS[function] = kernel
    return function


summed_factors = _of_sums(draw_factors, False)
summed_projection = _of_sums(project_members, False)
summed_terms = _of_sums(pair_terms, 0)
summed_tile = _of_sums(tile_with_terms, False)
summed_row = _of_sums(moved_row, False)
summed_vector = _of_sums(own_vector, 0)
