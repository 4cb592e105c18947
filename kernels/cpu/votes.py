"""Votes: Z = sum over rows of v x^T, as products of bytes; and the updates.

    axes        r rows (a member and a byte, or a direction), four to a quad; n outputs, k inputs
    v           [panel of 64 outputs][quad][output] words of four bytes, the rows' votes
    x           [panel of 64 inputs][quad][input] words of four bytes, what the rows' products read, offset

so that Z is one small GEMM that reads 64 products an instruction (tiles.py), in order. Panels have 16 columns where a
matrix has no more. Sums are int32: |Z| <= 2**17 rows * 127 * 127 < 2**31.
"""

import numpy as np
from numba import njit

from egg.kernels.arithmetic import LIMIT, MASTER_BITS, REWARD_MASTER_BITS, VOTE_LIMIT, WINDOW
from egg.kernels.cpu.simd import (
    address,
    leading_zeros,
    load_i8,
    load_i32,
    maximum,
    minimum,
    scaled,
    scaled_small,
    splat,
    store_i8,
    store_i32,
    sum_bytes,
    sum_squares,
)
from egg.kernels.cpu.structures import JIT
from egg.kernels.cpu.tiles import COLUMNS, ROWS, narrow_vote_tile, vote_tile

# Columns of a plan, which has a row for each panel of a matrix's outputs: where Z begins there, the panel's outputs,
# the matrix's inputs (0: a vector), the columns before the panel's v and before the matrix's x, whose x it is (0, or 1:
# an adapter's z), and where the sums of v go (-1: nowhere).
Z, OUTPUTS, INPUTS, V, X, SOURCE, BIAS = range(7)
TOGETHER = 16  # rows that are updated in turns


@njit(**JIT)
def sum_panels(plan, first, last, v, x, z, quads, votes, add):
    """Votes on the panels first..last of a plan.

    plan : (panels, 7) int64, see above
    v, x, z : addresses of rows; z an adapter's
    votes : (parameters,) int32, set or, with ``add`` 1, added to
    """
    totals = np.empty(64, np.int32)
    for panel in range(first, last):
        outputs, inputs = plan[panel, OUTPUTS], plan[panel, INPUTS]
        rows = v + 4 * quads * plan[panel, V]
        for n in range(0, outputs, 16):
            total = splat(0)
            for quad in range(quads):
                total = sum_bytes(total, rows + 4 * (quad * outputs + n))
            store_i32(address(totals) + 4 * n, total)
        bias = plan[panel, BIAS]
        if bias >= 0:
            for n in range(outputs):
                votes[bias + n] = totals[n] + (votes[bias + n] if add else 0)
        source = z if plan[panel, SOURCE] else x
        width = min(64, inputs)
        columns = max(1, min(COLUMNS, width))
        for k in range(0, inputs, columns):
            x_at = source + 4 * quads * (plan[panel, X] + (k & -width)) + 4 * (k & (width - 1))
            for n in range(0, outputs, ROWS):
                arguments = (
                    rows + 4 * n,
                    4 * outputs,
                    x_at,
                    4 * width,
                    quads,
                    address(votes) + 4 * (plan[panel, Z] + n * inputs + k),
                    4 * inputs,
                    add,
                    address(totals) + 4 * n,
                )
                if columns == COLUMNS:
                    vote_tile(*arguments)
                else:
                    narrow_vote_tile(*arguments)


@njit(**JIT)
def sum_embedding(votes, d, tokens, first, last, rows):
    """Columns first..last, in sixteens, of the votes on the embedding's rows.

    votes : (parameters,) int32, the embedding first, set
    tokens : (streams, T + 1) uint8
    rows : (streams, T, D) int8: the vote on the row of the byte read
    """
    to, source = address(votes), address(rows)
    for byte in range(256):
        for j in range(first, last, 16):
            store_i32(to + 4 * (byte * d + j), splat(0))
    streams, length, _ = rows.shape
    for stream in range(streams):
        for t in range(length):
            row = to + 4 * d * np.int64(tokens[stream, t])
            for j in range(first, last, 16):
                at = row + 4 * j
                store_i32(at, load_i32(at) + load_i8(source + (stream * length + t) * d + j))


@njit(**JIT)
def integer_root(v):
    """floor(sqrt(v)) of 0 <= v < 2**62, by Newton's method from above.

    It begins with the tangent at 3/2 of the lower power of two, at most 9 % too large: three steps leave an error below
    2**-35, less than one.
    """
    if v < 16:
        return (v > 0) + (v > 3) + (v > 8)
    k = (63 - leading_zeros(v)) >> 1  # 4**k <= v < 4**(k + 1)
    root = (v >> k) // 3 + (3 << k >> 2) + 2
    for _ in range(3):
        root = (root + v // root) >> 1
    return root - (root * root > v)


@njit(**JIT)
def divided(v, m):
    """v // m for m >= 1; by a power of two, as nearly always, a shift."""
    return v // m if m & (m - 1) else v >> (63 - leading_zeros(m))


@njit(**JIT)
def move_rows(master, squares, votes, starts, first, last, step, step_size, weights):
    """Rows first..last: masters move by votes over the running root mean square of their row.

    master : (parameters,) int32
    squares : (rows,) int64
    votes : (parameters,) int32
    starts : (rows + 1,) int64, where each row begins, and the end
    step : steps done before
    step_size : in 2**-16 int8 steps
    weights : (parameters,) int8, written
    """
    most = LIMIT << MASTER_BITS
    window = min(WINDOW, step + 1)
    factors, totals = np.empty(TOGETHER, np.int64), np.empty(TOGETHER, np.int64)
    low, high, half = splat(-most), splat(most), splat(1 << (MASTER_BITS - 1))
    for group in range(first, last, TOGETHER):  # in turns: divisions of several rows overlap
        rows = min(TOGETHER, last - group)
        for i in range(rows):
            begin, end = starts[group + i], starts[group + i + 1]
            whole = begin + ((end - begin) & ~15)  # of an adapter's rows nothing is a whole vector
            total = sum_squares(address(votes) + 4 * begin, whole - begin, VOTE_LIMIT)  # <= 4,096 * 2**46
            for at in range(whole, end):
                z = np.int64(min(VOTE_LIMIT, max(-VOTE_LIMIT, votes[at])))
                total += z * z
            totals[i] = total
        for i in range(rows):
            row = group + i
            mean = divided(totals[i] << 4, starts[row + 1] - starts[row])
            squares[row] += divided(mean - squares[row], window)
            # <= 2**39, times a vote 2**62
            factors[i] = (step_size << 16) // max(1, integer_root(squares[row]))
        for i in range(rows):
            begin, end, factor = starts[group + i], starts[group + i + 1], factors[i]
            whole = begin + ((end - begin) & ~15)
            # |Z| <= sqrt(total): whether no vote moves its master by 2**30
            bits = ((65 - leading_zeros(totals[i])) >> 1) + 64 - leading_zeros(factor)
            small = bits <= 44 and factor < 1 << 31
            for j in range(begin, whole, 16):
                at, z_at = address(master) + 4 * j, address(votes) + 4 * j
                if small:
                    moved = scaled_small(z_at, factor, VOTE_LIMIT, 14)
                else:
                    moved = scaled(z_at, factor, VOTE_LIMIT, 14)
                moved = load_i32(at) + moved  # < 2**31
                moved = minimum(high, maximum(low, moved))
                store_i32(at, moved)
                store_i8(address(weights) + j, (moved + half) >> MASTER_BITS)
            for j in range(whole, end):
                z = np.int64(min(VOTE_LIMIT, max(-VOTE_LIMIT, votes[j])))
                moved = np.int64(master[j]) + ((z * factor + (1 << 13)) >> 14)
                moved = min(most, max(-most, moved))
                master[j] = moved
                weights[j] = (moved + (1 << (MASTER_BITS - 1))) >> MASTER_BITS


@njit(**JIT)
def move_master(master, votes, multiplier, weights, first, last):
    """Elements first..last: masters move by votes * multiplier / 2**32, rounded half up.

    master : (parameters,) int16
    votes : (parameters,) int64; |votes * multiplier| < 2**62
    weights : (parameters,) int8, written
    """
    limit = LIMIT << REWARD_MASTER_BITS
    for i in range(first, last):
        v = np.int64(master[i]) + ((votes[i] * multiplier + (1 << 31)) >> 32)
        v = min(limit, max(-limit, v))
        master[i] = v
        weights[i] = (v + (1 << (REWARD_MASTER_BITS - 1))) >> REWARD_MASTER_BITS


@njit(**JIT)
def move_signs(weights, votes, threshold, out, first, last):
    """Weights move by sign(votes) where 16 |votes| >= threshold.

    weights, out : (parameters,) int8
    votes : (parameters,) int32
    """
    for i in range(first, last):
        z = np.int64(votes[i])
        move = 0
        if z != 0 and 16 * abs(z) >= threshold:
            move = 1 if z > 0 else -1
        out[i] = min(LIMIT, max(-LIMIT, np.int64(weights[i]) + move))
