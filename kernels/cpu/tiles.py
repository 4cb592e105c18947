"""Register tiles of the two matrix products: members x weights in the forward pass, outputs x inputs in the votes.

A tile keeps 4 x 64 int32 sums in sixteen of AVX-512's vector registers (4 x 16 elsewhere, and where a
matrix has only sixteen outputs), and each 64-byte load of the right factor serves four rows. The epilogue
runs on the registers: nothing int32 is written.

Right factors are packed in panels of 64 (or 16) columns: for every four inputs (votes: every two rows)
the panel's columns lie side by side in 32-bit lanes, so that a step of the product loads whole vectors.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from egg.kernels.arithmetic import BRANCH_BITS, FITNESS_LIMIT, LIMIT
from egg.kernels.cpu import simd
from egg.kernels.cpu.simd import (
    BYTES,
    HALFWORDS,
    I8,
    I16,
    I32,
    I64,
    LANES,
    V_I8,
    V_I32,
    bit_mask,
    broadcast,
    call,
    clip8,
    constant,
    dot4,
    flip_offset,
    limit,
    load,
    prefetch,
    shuffle,
    store,
)

ROWS = 4
V_I16 = ir.VectorType(I16, LANES)


def sums(b, dot, factor_type, x, x_row, x_step, w, w_step, steps, start, vectors, beside=None):
    """Emit the loop: acc[row][vector] = start[vector] + sum over steps of dot(x word of the row, w vector).

    beside : how far behind x a second word lies, if ``dot`` takes both as a pair
    """
    before = b.block
    loop, done = b.append_basic_block("steps"), b.append_basic_block("done")
    b.branch(loop)
    b.position_at_end(loop)
    x_at, w_at, left = b.phi(I64), b.phi(I64), b.phi(I64)
    for phi, value in ((x_at, x), (w_at, w), (left, steps)):
        phi.add_incoming(value, before)
    acc = [[b.phi(V_I32) for _ in range(vectors)] for _ in range(ROWS)]
    for row in acc:
        for phi, value in zip(row, start, strict=True):
            phi.add_incoming(value, before)
    ws = [b.bitcast(load(b, b.add(w_at, I64(64 * v)), V_I32), factor_type) for v in range(vectors)]
    after = []
    for row in range(ROWS):
        at = b.add(x_at, b.mul(x_row, I64(row)))
        xs = b.bitcast(broadcast(b, load(b, at, I32), V_I32), factor_type)
        if beside is not None:
            xs = xs, b.bitcast(broadcast(b, load(b, b.add(at, beside), I32), V_I32), factor_type)
        after.append([dot(b, acc[row][v], xs, ws[v]) for v in range(vectors)])
    x_next, w_next, left_next = b.add(x_at, x_step), b.add(w_at, w_step), b.sub(left, I64(1))
    for phi, value in ((x_at, x_next), (w_at, w_next), (left, left_next)):
        phi.add_incoming(value, loop)
    for row in range(ROWS):
        for v in range(vectors):
            acc[row][v].add_incoming(after[row][v], loop)
    b.cbranch(b.icmp_signed(">", left_next, I64(0)), loop, done)
    b.position_at_end(done)
    return after


def _narrow(b, row, shift, flip):
    """clip8(acc >> shift) of a row's vectors as bytes, one after another; flip OFFSET gives offset bytes, else 0."""
    row = [b.ashr(acc, broadcast(b, b.trunc(shift, I32), V_I32)) for acc in row]
    if len(row) == 4:  # AVX-512 packs two vectors in one, within each quarter of their lanes, and saturates
        pairs = [call(b, "llvm.x86.avx512.packssdw.512", HALFWORDS, *row[at : at + 2]) for at in (0, 2)]
        packed = b.bitcast(call(b, "llvm.x86.avx512.packsswb.512", BYTES, *pairs), V_I32)
        packed = shuffle(b, packed, packed, [4 * lane + vector for vector in range(4) for lane in range(4)])
        packed = call(b, "llvm.smax.v64i8", BYTES, b.bitcast(packed, BYTES), constant(BYTES, -LIMIT))
        return [b.xor(packed, broadcast(b, b.trunc(flip, I8), BYTES))]
    flip = broadcast(b, b.trunc(flip, I8), V_I8)
    return [b.xor(b.trunc(clip8(b, acc), V_I8), flip) for acc in row]


def _product_tile(vectors, kind):
    """4 members x 16 * vectors outputs of a product.

    kind : "clean": clip8(acc >> shift); "moved": clip8((acc + gain(a p)) >> shift); "added": clip8((acc + term) >>
        shift), int32 terms being at ``bits``, from a row to the next ``bits_row``; "fine": acc >> (shift - 8) as int16,
        between -127 * 256 and 127 * 256 + 255, which is clip8(acc >> shift) with eight more bits; its argument shift is
        less by 6
    """

    @intrinsic
    def tile(typing_context, x, x_row, w, w_step, quads, start, shift, out, out_row, flip, bits, bits_row, gains):
        signature = types.void(*[types.int64] * 13)

        def codegen(context, b, _, values):
            x, x_row, w, w_step, quads, start, shift, out, out_row, flip = values[:10]
            bits, bits_row, gains = values[10:]
            begin = [load(b, b.add(start, I64(64 * v)), V_I32) for v in range(vectors)]
            acc = sums(b, dot4, BYTES, x, x_row, I64(4), w, w_step, quads, begin, vectors)
            shift_v = broadcast(b, b.trunc(shift, I32), V_I32)
            for row in range(ROWS):
                if kind == "moved":  # gains: a pair of int32 a member, for the signs +1 and -1
                    at = b.add(gains, I64(8 * row))
                    plus = broadcast(b, load(b, at, I32), V_I32)
                    minus = broadcast(b, load(b, b.add(at, I64(4)), I32), V_I32)
                    row_bits = b.add(bits, b.mul(bits_row, I64(row)))
                to = b.add(out, b.mul(out_row, I64(row)))
                for v in range(vectors):
                    value = acc[row][v]
                    if kind == "fine":  # |acc| < 2**25, shift is 6 or more
                        value = b.ashr(b.shl(value, constant(V_I32, 2)), shift_v)
                        value = limit(b, value, -LIMIT << BRANCH_BITS, (1 << 15) - 1)
                        value = b.trunc(value, V_I16)
                        store(b, value, b.add(to, I64(2 * LANES * v)))
                        continue
                    if kind == "moved":
                        mask = bit_mask(b, b.add(row_bits, I64(2 * v)), LANES)
                        acc[row][v] = b.add(value, b.select(mask, plus, minus))
                    if kind == "added":
                        at = b.add(bits, b.add(b.mul(bits_row, I64(row)), I64(4 * LANES * v)))
                        acc[row][v] = b.add(value, load(b, at, V_I32))
                if kind != "fine":
                    for value in _narrow(b, acc[row], shift, flip):
                        store(b, value, to)
                        to = b.add(to, I64(value.type.count))
            return context.get_dummy_value()

        return signature, codegen

    return tile


def _vote_tile(vectors):
    """Z (4 x 16 * vectors) int32 = or += sum over quads of rows of v x^T: the votes of 4 outputs.

    totals : address of (4,) int32, the sums of v, which undo the offset of x
    """

    def dot(b, acc, v, x):
        return dot4(b, acc, x, v)

    @intrinsic
    def tile(typing_context, v, v_step, x, x_step, quads, z, z_row, add, totals):
        signature = types.void(*[types.int64] * 9)

        def codegen(context, b, _, values):
            v, v_step, x, x_step, quads, z, z_row, add, totals = values
            for row in range(ROWS):  # Z of a large model is in no cache: ask for it while the sums are made
                for k in range(vectors):
                    prefetch(b, b.add(z, b.add(b.mul(z_row, I64(row)), I64(4 * LANES * k))))
            begin = [constant(V_I32, 0)] * vectors
            # |sum| <= 2**17 rows * 127 * 127 < 2**31; what the offset adds wraps, and is taken off again
            acc = sums(b, dot, BYTES, v, I64(4), v_step, x, x_step, quads, begin, vectors)
            # all ones where Z is added to, zero where it is set
            keep = broadcast(b, b.trunc(b.neg(add), I32), V_I32)
            for row in range(ROWS):
                total = load(b, b.add(totals, I64(4 * row)), I32)
                excess = broadcast(b, b.mul(total, I32(simd.offset())), V_I32)
                for k in range(vectors):
                    at = b.add(z, b.add(b.mul(z_row, I64(row)), I64(4 * LANES * k)))
                    old = b.and_(load(b, at, V_I32), keep)
                    store(b, b.add(old, b.sub(acc[row][k], excess)), at)
            return context.get_dummy_value()

        return signature, codegen

    return tile


def _station_tile(vectors):
    """Fitness of 16 * vectors branches of a matrix for each of 4 readers: sum of g (a + M, limited, - a).

    a, row : address of the outputs of the first reader, bytes, and from one reader's to the next's
    beside : from a to g, their credit
    moves, step : address of the branches' moves, four outputs to a word, and from one four to the next
    base : address of (4,) int32, sums of g a with a offset: what the reader itself has
    """

    def dot(b, acc, outputs, moves):
        a, g = outputs
        moved = call(b, f"llvm.sadd.sat.v{BYTES.count}i8", BYTES, a, moves)
        return dot4(b, acc, flip_offset(b, moved), g)

    @intrinsic
    def tile(typing_context, a, row, beside, moves, step, fours, base, out, out_row):
        signature = types.void(*[types.int64] * 9)

        def codegen(context, b, _, values):
            a, row, beside, moves, step, fours, base, out, out_row = values
            begin = [constant(V_I32, 0)] * vectors
            # |sum| <= 4,096 outputs * 255 * 127 < 2**27
            acc = sums(b, dot, BYTES, a, row, I64(4), moves, step, fours, begin, vectors, beside)
            for i in range(ROWS):
                own = broadcast(b, load(b, b.add(base, I64(4 * i)), I32), V_I32)
                for v in range(vectors):
                    value = limit(b, b.sub(acc[i][v], own), -FITNESS_LIMIT, FITNESS_LIMIT)
                    store(b, value, b.add(b.add(out, b.mul(out_row, I64(i))), I64(4 * LANES * v)))
            return context.get_dummy_value()

        return signature, codegen

    return tile


# Wide tiles need 32 registers of 16 lanes; elsewhere all tiles are narrow.
WIDE = 4 if simd.instruction_set == "avx512vnni" else 1
COLUMNS = LANES * WIDE
clean_tile, narrow_clean_tile = (_product_tile(v, "clean") for v in (WIDE, 1))
moved_tile, narrow_moved_tile = (_product_tile(v, "moved") for v in (WIDE, 1))
added_tile, narrow_added_tile = (_product_tile(v, "added") for v in (WIDE, 1))
fine_tile = _product_tile(WIDE, "fine")  # the head's: it always has 256 outputs
vote_tile, narrow_vote_tile = (_vote_tile(v) for v in (WIDE, 1))
station_tile, narrow_station_tile = (_station_tile(v) for v in (WIDE, 1))
