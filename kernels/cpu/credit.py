"""What branches of the wire and of stations share: the transform, votes of a byte, credit before a norm."""

from numba import njit

from egg.kernels.arithmetic import CREDIT_LIMIT
from egg.kernels.cpu.forward import log2_of, mean_magnitude
from egg.kernels.cpu.simd import (
    absolute,
    add_magnitudes,
    address,
    clip8_lanes,
    hadamard16,
    hadamard64,
    load_i8,
    load_i32,
    load_long,
    maximum,
    minimum,
    splat,
    store_i32,
    total,
)
from egg.kernels.cpu.structures import JIT


@njit(**JIT)
def walsh_hadamard(x, d):
    """Transform D int32 at an address in place, in natural order; D is 16, or a multiple of 64."""
    if d == 16:
        store_i32(x, hadamard16(load_i32(x)))
    for j in range(0, d & -64, 64):
        hadamard64(x + 4 * j)
    half = 64
    while half < d:
        for start in range(0, d, 2 * half):
            for j in range(start, start + half, 16):
                one, two = x + 4 * j, x + 4 * (j + half)
                a, b = load_i32(one), load_i32(two)
                store_i32(one, a + b)
                store_i32(two, a - b)
        half *= 2


@njit(**JIT)
def round_shift(v, s):
    """v / 2**s, rounded half up; a negative s shifts left."""
    if s <= 0:
        return v << -s
    return (v + splat((1 << s) >> 1)) >> s


@njit(**JIT)
def bit_length(v):
    """Bits of v >= 0."""
    bits = 0
    while v:
        v >>= 1
        bits += 1
    return bits


@njit(**JIT)
def transform_rows(weights, signs, turns, first, last, transformed):
    """What branches do to a matrix's outputs first..last; returns the sum of its magnitudes.

    weights : (N, K) int8
    signs, turns : (K,) int32, s and H[k][r]
    transformed : (N, K) int32, written: R
    """
    inputs = weights.shape[1]
    magnitude = 0
    for n in range(first, last):
        at, source = address(transformed) + 4 * inputs * n, address(weights) + inputs * n
        for k in range(0, inputs, 16):
            store_i32(at + 4 * k, load_i8(source + k) * load_i32(address(signs) + 4 * k))
        walsh_hadamard(at, inputs)
        sums = splat(0)
        for k in range(0, inputs, 16):  # |R| <= 127 * 4,096, so that a row's sum is below 2**31
            effect = load_i32(at + 4 * k) * load_i32(address(turns) + 4 * k)
            store_i32(at + 4 * k, effect)
            sums = sums + absolute(effect)
        magnitude += total(sums)
    return magnitude


@njit(**JIT)
def move_shift(magnitude, size, most):
    """m, what the moves of ``size`` outputs are shifted by so that less than ``most`` is left of the mean."""
    mean = magnitude // size
    if mean >= most:
        return bit_length(mean // most)
    return 1 - bit_length(most // max(1, mean))


@njit(**JIT)
def magnitudes(block, model, kind):
    """Address of 16 int64, the sums of a kind's magnitudes in each lane."""
    return block.scratch + 4 * (256 + 2 * model.hidden_size + 64 * model.num_layers) + 128 * kind


@njit(**JIT)
def sum_magnitudes(model, block, totals):
    """Totals of all kinds.

    totals : (kinds,) int64, written
    """
    for kind in range(len(totals)):
        totals[kind] = 0
        for lane in range(16):
            totals[kind] += load_long(magnitudes(block, model, kind) + 8 * lane)


@njit(**JIT)
def narrow(v, shift):
    """Credit as a vote: clip8(round_shift(v, shift)); |v| < 2**28, shift 0 to 31."""
    return clip8_lanes((v + splat((1 << shift) >> 1)) >> shift)


@njit(**JIT)
def deposit(at, r, v):
    """Sixteen bytes as byte r, 0 to 3, of sixteen words; byte 0 clears the others."""
    word = v & splat(255)
    if r:
        word = load_i32(at) | (word << (8 * r))
    store_i32(at, word)


@njit(**JIT)
def kind_shift(draw, kind):
    """What a kind's credit is shifted by."""
    return load_long(draw.shifts + 8 * kind)


@njit(**JIT)
def cast(model, block, draw, kind, credit, at, r):
    """Sixteen places' credit of a kind as votes in byte r of the words at an address."""
    add_magnitudes(magnitudes(block, model, kind), credit)
    deposit(at, r, narrow(credit, kind_shift(draw, kind)))


@njit(**JIT)
def vector_at(vectors, layer, which):
    """Address of the votes on a layer's gains or biases.

    vectors : (1 + 4 L, D) int32
    which : one of LN1_VOTES, LN2_VOTES, B_F_VOTES, B_H_VOTES
    """
    return address(vectors) + 4 * vectors.shape[1] * (1 + 4 * layer + which)


@njit(**JIT)
def limit(v):
    """Credit that travels: within 2**20."""
    return maximum(splat(-CREDIT_LIMIT), minimum(splat(CREDIT_LIMIT), v))


@njit(**JIT)
def pass_norm(model, block, draw, kind, x, weight, credit, gains, wire, adds):
    """From what a norm gives to the wire before it; and votes on the norm's gains.

    kind : of the gains' credit
    x, weight : addresses of (D,) int8, the wire and the gains
    credit : address of (D,) int32, 16 bits
    gains : address of (D,) int32, added to
    wire : address of (D,) int32, set or, with ``adds`` 1, added to
    """
    d = model.hidden_size
    log_d, inverse = log2_of(d), (1 << 14) // mean_magnitude(x, d)
    shift = kind_shift(draw, kind)
    rho, moves = splat(inverse), splat(0)
    for j in range(0, d, 16):
        # |x rho >> 6| <= 127 * 2**8 < 2**15, so that products stay below 2**30
        both = load_i32(credit + 4 * j) * round_shift(load_i8(x + j) * rho, 6)
        gain = both >> 8
        add_magnitudes(magnitudes(block, model, kind), gain)
        store_i32(gains + 4 * j, load_i32(gains + 4 * j) + narrow(gain, shift))
        moves = moves + round_shift(round_shift(both, 8) * load_i8(weight + j), 7)  # of all places < 2**17 D
    # A push moves the mean too, by which all places are divided.
    back = splat((total(moves) * inverse + (64 << log_d)) >> (7 + log_d))
    for j in range(0, d, 16):
        passed = round_shift(load_i32(credit + 4 * j) * round_shift(load_i8(weight + j) * rho, 6), 8)
        passed = passed - back * maximum(splat(-1), minimum(splat(1), load_i8(x + j)))
        if adds:
            passed = passed + load_i32(wire + 4 * j)
        store_i32(wire + 4 * j, limit(passed))
