"""Integer vectors for Numba: sixteen int32 lanes, or 32 int16, that LLVM lowers to whatever the CPU has.

A kernel written with these reads like the scalar formula, and its bytes never depend on the CPU. One
operation is chosen by instruction set: ``dot4`` (64 products of unsigned and signed bytes into sixteen
int32 sums), which AVX-512 VNNI does in one instruction. Plain Numba loops over int8 become neither:
LLVM widens them to int16 and runs 7 to 20 times slower.

Addresses are int64; loads and stores need no alignment. A matrix input is kept as *offset* bytes: value
+ 128 where the dot product wants one unsigned factor (AVX-512 VNNI), the value itself elsewhere. What the
offset adds, 128 * sum(W), is taken off where an accumulator starts.
"""

import ctypes
import math
import operator

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, overload, register_model

from egg.kernels.arithmetic import BRANCH_BITS, LIMIT, branch_table
from egg.kernels.layout import BackendError

LANES = 16
I1, I8, I16, I32, I64 = (ir.IntType(n) for n in (1, 8, 16, 32, 64))
V_I32, V_I8, V_I64 = (ir.VectorType(t, LANES) for t in (I32, I8, I64))
V_I64X8 = ir.VectorType(I64, 8)
QUARTER = ir.VectorType(I32, 4)
BYTES = ir.VectorType(I8, 4 * LANES)
HALFWORDS = ir.VectorType(I16, 2 * LANES)
BYTES_32 = ir.VectorType(I8, 2 * LANES)

instruction_set = None  # its name: set by egg.kernels.cpu.load, before anything is compiled


def offset() -> int:
    """What is added to the bytes of a matrix input.

    Raises BackendError where no instruction set is chosen: kernels that were compiled now would compute other numbers.
    """
    if instruction_set is None:
        raise BackendError("the kernels are imported by egg.kernels.get_backend('numba'), which chooses instructions")
    return 128 if instruction_set == "avx512vnni" else 0


class VectorType(types.Type):
    """The Numba type of a vector."""

    def __init__(self, name, llvm_type):
        super().__init__(name)
        self.llvm_type = llvm_type


i32x16 = VectorType("i32x16", V_I32)
i16x32 = VectorType("i16x32", HALFWORDS)


@register_model(VectorType)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager, fe_type):
        super().__init__(manager, fe_type, fe_type.llvm_type)


def define(emit, result, *arguments):
    """An operation usable in Numba functions from ``emit(builder, *llvm_values) -> llvm_value or None``."""
    signature = result(*arguments)

    def codegen(context, builder, _, values):
        value = emit(builder, *values)
        return context.get_dummy_value() if value is None else value

    def typed(*_):
        return signature, codegen

    # Numba reads the number of arguments from the function itself.
    by_arity = {
        1: lambda ctx, a: typed(),
        2: lambda ctx, a, b: typed(),
        3: lambda ctx, a, b, c: typed(),
        4: lambda ctx, a, b, c, d: typed(),
        5: lambda ctx, a, b, c, d, e: typed(),
        6: lambda ctx, a, b, c, d, e, f: typed(),
    }
    function = by_arity[len(arguments)]
    function.__name__ = emit.__name__.lstrip("_")
    return intrinsic(function)


def constant(vector_type, value):
    """A vector constant with every lane equal."""
    return ir.Constant(vector_type, [value] * vector_type.count)


def load(b, address, llvm_type):
    """Load from an integer address."""
    value = b.load(b.inttoptr(address, llvm_type.as_pointer()))
    value.align = 1
    return value


def store(b, value, address):
    """Store to an integer address."""
    b.store(value, b.inttoptr(address, value.type.as_pointer())).align = 1


def prefetch(b, address):
    """Bring a line that will be written into the first-level cache."""
    pointer = b.inttoptr(address, I8.as_pointer())
    void = ir.FunctionType(ir.VoidType(), [pointer.type, I32, I32, I32])
    function = cgutils.get_or_insert_function(b.module, void, "llvm.prefetch.p0")
    b.call(function, [pointer, I32(1), I32(3), I32(1)])


def broadcast(b, scalar, vector_type):
    """Every lane equal to a scalar of the element type."""
    undefined = ir.Constant(vector_type, ir.Undefined)
    one = b.insert_element(undefined, scalar, I32(0))
    lanes = ir.Constant(ir.VectorType(I32, vector_type.count), [0] * vector_type.count)
    return b.shuffle_vector(one, undefined, lanes)


def call(b, name, result, *values):
    """Call an LLVM intrinsic by name."""
    function_type = ir.FunctionType(result, [v.type for v in values])
    return b.call(cgutils.get_or_insert_function(b.module, function_type, name), values)


def limit(b, v, low, high):
    """Limit lanes to [low, high]."""
    v = call(b, "llvm.smax.v16i32", V_I32, v, constant(V_I32, low))
    return call(b, "llvm.smin.v16i32", V_I32, v, constant(V_I32, high))


def limit_to(b, v, most):
    """Limit lanes to [-most, most], an int64."""
    most = broadcast(b, b.trunc(most, I32), V_I32)
    v = call(b, "llvm.smin.v16i32", V_I32, v, most)
    return call(b, "llvm.smax.v16i32", V_I32, v, b.neg(most))


def clip8(b, v):
    """Limit lanes to [-127, 127]."""
    return limit(b, v, -LIMIT, LIMIT)


def bit_mask(b, address, lanes):
    """``lanes`` bits from memory as <lanes x i1>."""
    return b.bitcast(load(b, address, ir.IntType(lanes)), ir.VectorType(I1, lanes))


def dot4(b, acc, x, w):
    """acc + the sums of four products of bytes: x unsigned for AVX-512 VNNI, signed elsewhere; w signed."""
    if instruction_set == "avx512vnni":
        return call(b, "llvm.x86.avx512.vpdpbusd.512", V_I32, acc, x, w)
    if instruction_set == "neon":
        quarters = []
        for lanes in range(0, LANES, 4):
            part = b.shuffle_vector(acc, acc, ir.Constant(QUARTER, [lanes + i for i in range(4)]))
            byte = ir.Constant(V_I32, [4 * lanes + i for i in range(LANES)])
            factors = (b.shuffle_vector(v, v, byte) for v in (x, w))
            quarters.append(call(b, "llvm.aarch64.neon.sdot.v4i32.v16i8", QUARTER, part, *factors))
        eight = ir.Constant(ir.VectorType(I32, 8), list(range(8)))
        low, high = (b.shuffle_vector(*quarters[i : i + 2], eight) for i in (0, 2))
        return b.shuffle_vector(low, high, ir.Constant(V_I32, list(range(LANES))))
    if instruction_set == "avx2":
        # vpmaddubsw would saturate at 16 bits; vpmaddwd on the even and the odd bytes cannot overflow.
        x, w = (b.bitcast(v, HALFWORDS) for v in (x, w))
        eight = constant(HALFWORDS, 8)
        even = (b.ashr(b.shl(v, eight), eight) for v in (x, w))
        return dot2(b, dot2(b, acc, *even), b.ashr(x, eight), b.ashr(w, eight))
    x, w = (b.bitcast(v, V_I32) for v in (x, w))
    for at in range(0, 32, 8):
        x_byte, w_byte = (b.ashr(b.shl(v, constant(V_I32, 24 - at)), constant(V_I32, 24)) for v in (x, w))
        acc = b.add(acc, b.mul(x_byte, w_byte))
    return acc


def dot2(b, acc, x, y):
    """acc + the sums of two products of int16, the halves of int32 lanes."""
    if instruction_set == "avx512vnni":
        return call(b, "llvm.x86.avx512.vpdpwssd.512", V_I32, acc, x, y)
    if instruction_set == "avx2":
        halves = []
        for lanes in (range(LANES), range(LANES, 2 * LANES)):
            part = ir.Constant(ir.VectorType(I32, LANES), list(lanes))
            x_part, y_part = (b.shuffle_vector(v, v, part) for v in (x, y))
            halves.append(call(b, "llvm.x86.avx2.pmadd.wd", ir.VectorType(I32, 8), x_part, y_part))
        whole = ir.Constant(V_I32, list(range(LANES)))
        return b.add(acc, b.shuffle_vector(*halves, whole))
    x, y = (b.bitcast(v, V_I32) for v in (x, y))
    half = constant(V_I32, 16)
    acc = b.add(acc, b.mul(b.ashr(x, half), b.ashr(y, half)))
    return b.add(acc, b.mul(b.ashr(b.shl(x, half), half), b.ashr(b.shl(y, half), half)))


# --- operations on i32x16 -------------------------------------------------------------------------------------------


def flip_offset(b, v):
    """Bytes to offset bytes and back: adding 128 to a byte is flipping its sign bit."""
    return b.xor(v, constant(v.type, -128)) if offset() else v


def _load_offset(b, address):
    return b.sext(flip_offset(b, load(b, address, V_I8)), V_I32)


def _select_bits(b, address, one, zero):
    return b.select(bit_mask(b, address, LANES), one, zero)


def even_and_odd(b, v, signed=True):
    """Sixteen int32 as two vectors of eight int64: lanes 0, 2, ... and 1, 3, ..., where multiplication finds them."""
    v, half = b.bitcast(v, V_I64X8), constant(V_I64X8, 32)
    if signed:
        return b.ashr(b.shl(v, half), half), b.ashr(v, half)
    return b.and_(v, constant(V_I64X8, 0xFFFFFFFF)), b.lshr(v, half)


def interleaved(b, even, odd):
    """Back to sixteen int32: the lower halves of even and odd lanes."""
    even = b.and_(even, constant(V_I64X8, 0xFFFFFFFF))
    return b.bitcast(b.or_(even, b.shl(odd, constant(V_I64X8, 32))), V_I32)


def _multiply_high(b, v, factor, shift):
    factor = broadcast(b, b.and_(factor, I64(0xFFFFFFFF)), V_I64X8)
    shift = broadcast(b, shift, V_I64X8)
    return interleaved(b, *(b.lshr(b.mul(part, factor), shift) for part in even_and_odd(b, v, signed=False)))


def _shift_right(b, v, count):
    return b.ashr(v, broadcast(b, b.trunc(count, v.type.element), v.type))


def _shift_left(b, v, count):
    return b.shl(v, broadcast(b, b.trunc(count, v.type.element), v.type))


def _total(b, v):
    return b.sext(call(b, "llvm.vector.reduce.add.v16i32", I32, v), I64)


def shuffle(b, x, y, lanes):
    """Lanes of two vectors, those of the second counted on from the first's."""
    lanes = list(lanes)
    return b.shuffle_vector(x, y, ir.Constant(ir.VectorType(I32, len(lanes)), lanes))


def _store_interleaved(b, address, v0, v1, v2, v3):
    pairs = [lane for i in range(LANES) for lane in (i, LANES + i)]
    quads = [lane for i in range(LANES) for lane in (2 * i, 2 * i + 1, 32 + 2 * i, 33 + 2 * i)]
    store(b, shuffle(b, shuffle(b, v0, v1, pairs), shuffle(b, v2, v3, pairs), quads), address)


def _interleave_bytes(b, address, *rows):
    _store_interleaved(b, address, *(load(b, row, V_I8) for row in rows))


def _hadamard16(b, v):
    for h in (1, 2, 4, 8):
        other = shuffle(b, v, v, [i ^ h for i in range(LANES)])
        both = b.add(other, v), b.sub(other, v)
        v = shuffle(b, *both, [i + LANES * bool(i & h) for i in range(LANES)])
    return v


def _hadamard64(b, at):
    places = [b.add(at, I64(64 * i)) for i in range(4)]
    v = [load(b, place, V_I32) for place in places]
    for h in (1, 2):
        v = [b.add(v[i], v[i + h]) if not i & h else b.sub(v[i - h], v[i]) for i in range(4)]
    for part, place in zip(v, places, strict=True):
        store(b, _hadamard16(b, part), place)


def _add_magnitudes(b, address, v):
    v = call(b, "llvm.abs.v16i32", V_I32, v, I1(0))
    for half, part in enumerate(even_and_odd(b, v, signed=False)):
        at = b.add(address, I64(64 * half))
        store(b, b.add(load(b, at, part.type), part), at)


load_i16 = define(lambda b, at: b.sext(load(b, at, ir.VectorType(I16, LANES)), V_I32), i32x16, types.int64)
interleave_bytes = define(_interleave_bytes, types.void, *[types.int64] * 5)  # to; of four rows
hadamard16 = define(_hadamard16, i32x16, i32x16)  # Walsh-Hadamard transform, natural order
hadamard64 = define(_hadamard64, types.void, types.int64)  # the same of 64 int32 at an address, in place
add_magnitudes = define(_add_magnitudes, types.void, types.int64, i32x16)  # to 16 int64
clz_lanes = define(lambda b, v: call(b, "llvm.ctlz.v16i32", V_I32, v, I1(0)), i32x16, i32x16)
shift_up = define(lambda b, v, w: b.shl(v, w), i32x16, i32x16, i32x16)  # lane by lane
shift_down = define(
    lambda b, v, n: b.lshr(v, broadcast(b, b.trunc(n, I32), V_I32)), i32x16, i32x16, types.int64
)  # unsigned


def halves(b, v):
    """Sixteen int32 as two vectors of eight int64."""
    parts = (shuffle(b, v, v, range(at, at + 8)) for at in (0, 8))
    return [b.sext(part, V_I64X8) for part in parts]


@intrinsic
def sum_squares(typing_context, at, count, most):
    """Sum of the squares of ``count`` int32 at an address, each limited to +-most first; below 2**63.

    count : a multiple of 16
    """

    def codegen(context, b, _, values):
        at, count, most = values
        end = b.add(at, b.shl(count, I64(2)))
        before = b.block
        head, loop, done = (b.append_basic_block(name) for name in ("head", "squares", "done"))
        b.branch(head)
        b.position_at_end(head)
        here, acc = b.phi(I64), [b.phi(V_I64X8) for _ in range(2)]
        for phi, value in ((here, at), *((phi, constant(V_I64X8, 0)) for phi in acc)):
            phi.add_incoming(value, before)
        b.cbranch(b.icmp_signed("<", here, end), loop, done)
        b.position_at_end(loop)
        for phi, part in zip(acc, even_and_odd(b, limit_to(b, load(b, here, V_I32), most)), strict=True):
            phi.add_incoming(b.add(phi, b.mul(part, part)), loop)
        here.add_incoming(b.add(here, I64(64)), loop)
        b.branch(head)
        b.position_at_end(done)
        return call(b, "llvm.vector.reduce.add.v8i64", I64, b.add(*acc))

    return types.int64(*[types.int64] * 3), codegen


def _scaled_small(b, at, factor, most, shift):
    factor = b.sext(broadcast(b, b.trunc(factor, I32), ir.VectorType(I32, 8)), V_I64X8)
    shift_v, half = (broadcast(b, v, V_I64X8) for v in (shift, b.lshr(b.shl(I64(1), shift), I64(1))))
    v = limit_to(b, load(b, at, V_I32), most)
    return interleaved(b, *(b.lshr(b.add(b.mul(part, factor), half), shift_v) for part in even_and_odd(b, v)))


def _scaled(b, at, factor, most, shift):
    factor = broadcast(b, factor, V_I64X8)
    shift_v, half = (broadcast(b, v, V_I64X8) for v in (shift, b.lshr(b.shl(I64(1), shift), I64(1))))
    bound = constant(V_I64X8, 1 << 30)
    parts = []
    for part in halves(b, limit_to(b, load(b, at, V_I32), most)):
        v = b.ashr(b.add(b.mul(part, factor), half), shift_v)
        v = call(b, "llvm.smax.v8i64", V_I64X8, v, constant(V_I64X8, -(1 << 30)))
        parts.append(b.trunc(call(b, "llvm.smin.v8i64", V_I64X8, v, bound), ir.VectorType(I32, 8)))
    return shuffle(b, *parts, range(LANES))


def _transpose_words(b, source, row, to, step):
    lanes = [load(b, b.add(source, b.mul(row, I64(i))), V_I32) for i in range(LANES)]
    for h in (1, 2, 4, 8):  # lanes i and i + h exchange the blocks of h that lie across
        low = [j if not j & h else LANES + j - h for j in range(LANES)]
        high = [j + h if not j & h else LANES + j for j in range(LANES)]
        for i in range(LANES):
            if not i & h:
                one, two = lanes[i], lanes[i + h]
                lanes[i], lanes[i + h] = shuffle(b, one, two, low), shuffle(b, one, two, high)
    for i, v in enumerate(lanes):
        store(b, v, b.add(to, b.mul(step, I64(i))))


# round_shift(limited int32 * factor, shift), within 2**30
scaled = define(_scaled, i32x16, *[types.int64] * 4)
# The same of a factor below 2**31, within 2**30
scaled_small = define(_scaled_small, i32x16, *[types.int64] * 4)
# 16 x 16, rows to columns
transpose_words = define(_transpose_words, types.void, *[types.int64] * 4)
add_magnitude_bytes = define(
    lambda b, acc, at: dot4(b, acc, constant(BYTES, 1), call(b, "llvm.abs.v64i8", BYTES, load(b, at, BYTES), I1(0))),
    i32x16,
    i32x16,
    types.int64,
)  # acc + the sums of four signed bytes' magnitudes, at most 127
sum_bytes = define(
    lambda b, acc, at: dot4(b, acc, constant(BYTES, 1), load(b, at, BYTES)), i32x16, i32x16, types.int64
)  # acc + the sums of four signed bytes
splat = define(lambda b, s: broadcast(b, b.trunc(s, I32), V_I32), i32x16, types.int64)
load_i8 = define(lambda b, at: b.sext(load(b, at, V_I8), V_I32), i32x16, types.int64)
load_i32 = define(lambda b, at: load(b, at, V_I32), i32x16, types.int64)
load_offset = define(_load_offset, i32x16, types.int64)
store_i8 = define(lambda b, at, v: store(b, b.trunc(v, V_I8), at), types.void, types.int64, i32x16)
store_i32 = define(lambda b, at, v: store(b, v, at), types.void, types.int64, i32x16)
store_offset = define(lambda b, at, v: store(b, flip_offset(b, b.trunc(v, V_I8)), at), types.void, types.int64, i32x16)
store_interleaved = define(_store_interleaved, types.void, types.int64, *[i32x16] * 4)
clip8_lanes = define(clip8, i32x16, i32x16)
absolute = define(lambda b, v: call(b, "llvm.abs.v16i32", V_I32, v, I1(0)), i32x16, i32x16)
minimum = define(lambda b, v, w: call(b, "llvm.smin.v16i32", V_I32, v, w), i32x16, i32x16, i32x16)
maximum = define(lambda b, v, w: call(b, "llvm.smax.v16i32", V_I32, v, w), i32x16, i32x16, i32x16)
select_bits = define(_select_bits, i32x16, types.int64, i32x16, i32x16)  # bit 1 takes the first
# Unsigned products of 64 bits, shifted right, the lower 32 bits of what is left
multiply_high = define(_multiply_high, i32x16, i32x16, types.int64, types.int64)
total = define(_total, types.int64, i32x16)  # of all lanes, in int32
load_byte = define(lambda b, at: b.sext(load(b, at, I8), I64), types.int64, types.int64)
load_word = define(lambda b, at: b.sext(load(b, at, I32), I64), types.int64, types.int64)
load_long = define(lambda b, at: load(b, at, I64), types.int64, types.int64)
leading_zeros = define(lambda b, v: call(b, "llvm.ctlz.i64", I64, v, I1(0)), types.int64, types.int64)
store_byte = define(lambda b, at, v: store(b, b.trunc(v, I8), at), types.void, types.int64, types.int64)
store_word = define(lambda b, at, v: store(b, b.trunc(v, I32), at), types.void, types.int64, types.int64)
store_long = define(lambda b, at, v: store(b, v, at), types.void, types.int64, types.int64)


# --- operations on i16x32: what stays within 16 bits, at twice the lanes ----------------------------------------------


def _upper_product(extend):
    def emit(b, v, w):
        wide = ir.VectorType(I32, HALFWORDS.count)
        product = b.mul(getattr(b, extend)(v, wide), getattr(b, extend)(w, wide))
        return b.trunc(b.lshr(product, constant(wide, 16)), HALFWORDS)

    return define(emit, i16x32, i16x32, i16x32)


def _store_row(b, at, v, d):
    """Store 32 bytes, or the 16 of a row that has no more."""
    whole, part, done = (b.append_basic_block(name) for name in ("whole", "part", "done"))
    b.cbranch(b.icmp_signed(">=", d, I64(32)), whole, part)
    b.position_at_end(whole)
    store(b, v, at)
    b.branch(done)
    b.position_at_end(part)
    store(b, b.shuffle_vector(v, v, ir.Constant(V_I32, list(range(LANES)))), at)
    b.branch(done)
    b.position_at_end(done)


splat_half = define(lambda b, s: broadcast(b, b.trunc(s, I16), HALFWORDS), i16x32, types.int64)
load_half = define(lambda b, at: b.sext(load(b, at, BYTES_32), HALFWORDS), i16x32, types.int64)
load_half_offset = define(lambda b, at: b.sext(flip_offset(b, load(b, at, BYTES_32)), HALFWORDS), i16x32, types.int64)
# The last argument is D
store_half = define(
    lambda b, at, v, d: _store_row(b, at, b.trunc(v, BYTES_32), d), types.void, types.int64, i16x32, types.int64
)
store_half_offset = define(
    lambda b, at, v, d: _store_row(b, at, flip_offset(b, b.trunc(v, BYTES_32)), d),
    types.void,
    types.int64,
    i16x32,
    types.int64,
)
absolute_half = define(lambda b, v: call(b, "llvm.abs.v32i16", HALFWORDS, v, I1(0)), i16x32, i16x32)
minimum_half = define(lambda b, v, w: call(b, "llvm.smin.v32i16", HALFWORDS, v, w), i16x32, i16x32, i16x32)
maximum_half = define(lambda b, v, w: call(b, "llvm.smax.v32i16", HALFWORDS, v, w), i16x32, i16x32, i16x32)
select_half = define(
    lambda b, at, one, zero: b.select(bit_mask(b, at, 32), one, zero), i16x32, types.int64, i16x32, i16x32
)  # bit 1 takes the first
# Upper 16 bits of signed and of unsigned products
upper_product, upper_unsigned = _upper_product("sext"), _upper_product("zext")


def _operator(symbol, emit, kind, right):
    operation = define(emit, kind, kind, right)

    @overload(symbol)
    def overloaded(x, y):
        if x is kind and (y is right or (isinstance(right, types.Integer) and isinstance(y, types.Integer))):
            return lambda x, y: operation(x, y)


for _kind in (i32x16, i16x32):
    for _symbol, _emit in (
        (operator.add, lambda b, v, w: b.add(v, w)),
        (operator.sub, lambda b, v, w: b.sub(v, w)),
        (operator.mul, lambda b, v, w: b.mul(v, w)),
        (operator.and_, lambda b, v, w: b.and_(v, w)),
        (operator.or_, lambda b, v, w: b.or_(v, w)),
        (operator.xor, lambda b, v, w: b.xor(v, w)),
    ):
        _operator(_symbol, _emit, _kind, _kind)
    _operator(operator.rshift, _shift_right, _kind, types.int64)  # rounds towards minus infinity
    _operator(operator.lshift, _shift_left, _kind, types.int64)


def exp2_lanes(b, table_address, j):
    """e[j] for lanes 0..255: the last octave's sixteen values, shifted down; floors of shifts nest."""
    octave = b.lshr(j, constant(V_I32, 4))
    fraction = b.and_(j, constant(V_I32, 15))
    if instruction_set == "avx512vnni":
        table = load(b, table_address, V_I32)
        value = call(b, "llvm.x86.avx512.permvar.si.512", V_I32, table, fraction)
    else:
        value = ir.Constant(V_I32, ir.Undefined)
        for lane in range(LANES):
            at = b.zext(b.extract_element(fraction, I32(lane)), I64)
            element = load(b, b.add(table_address, b.shl(at, I64(2))), I32)
            value = b.insert_element(value, element, I32(lane))
    return b.lshr(value, b.sub(constant(V_I32, 15), octave))


exp2 = define(exp2_lanes, i32x16, types.int64, i32x16)

# --- scores of branches ---------------------------------------------------------------------------------------------


def _branch_weights(b, below):
    """E[d & 15] >> (d >> 4) of 32 distances d, 0 to 303; a shift of 15 or more leaves nothing."""
    octave = b.lshr(below, constant(HALFWORDS, 4))
    values = [int(v) for v in branch_table()]
    if instruction_set == "avx512vnni":
        table = ir.Constant(HALFWORDS, values * 2)  # bit 4 of the index counts too
        value = call(b, "llvm.x86.avx512.permvar.hi.512", HALFWORDS, table, below)
        return call(b, "llvm.x86.avx512.psrlv.w.512", HALFWORDS, value, octave)
    fraction = b.and_(below, constant(HALFWORDS, 15))
    if instruction_set == "avx2":
        half_type, byte_type = ir.VectorType(I16, LANES), ir.VectorType(I8, 2 * LANES)
        parts = []
        for at in (0, LANES):
            index = shuffle(b, fraction, fraction, range(at, at + LANES))
            value = constant(half_type, 0)
            for shift, unused in ((0, 0x8000), (8, 0x0080)):  # a byte with its top bit set gives 0
                table = ir.Constant(byte_type, [(v >> shift) & 255 for v in values] * 2)
                byte = b.or_(b.shl(index, constant(half_type, shift)), constant(half_type, unused))
                looked_up = call(b, "llvm.x86.avx2.pshuf.b", byte_type, table, b.bitcast(byte, byte_type))
                value = b.or_(value, b.bitcast(looked_up, half_type))
            parts.append(value)
        value = shuffle(b, *parts, range(2 * LANES))
    else:
        value = constant(HALFWORDS, 0)
        for j, entry in enumerate(values):
            same = b.icmp_signed("==", fraction, constant(HALFWORDS, j))
            value = b.select(same, constant(HALFWORDS, entry), value)
    last = constant(HALFWORDS, 15)
    octave = b.select(b.icmp_unsigned("<", octave, last), octave, last)
    return b.lshr(value, octave)


def _branch_sums(vectors):
    """S of 16 * vectors branches of a reader: sums over its 256 logits, each moved by each branch.

    fine : address of the logits, 256 int16 in 1/4096 bit
    moves, step : address of the branches' moves, two logits to a word, and from one two to the next
    beyond : what a logit is raised by at most, in sixteenths
    out : address of int32, a sum for each branch, written
    """

    @intrinsic
    def sums(typing_context, fine, moves, step, beyond, out):
        signature = types.void(*[types.int64] * 5)

        def codegen(context, b, _, values):
            fine, moves, step, beyond, out = values
            largest = load(b, fine, HALFWORDS)
            for at in range(64, 512, 64):
                largest = call(b, "llvm.smax.v32i16", HALFWORDS, largest, load(b, b.add(fine, I64(at)), HALFWORDS))
            largest = b.ashr(call(b, "llvm.vector.reduce.smax.v32i16", I16, largest), I16(BRANCH_BITS))
            top = broadcast(b, b.add(largest, b.trunc(beyond, I16)), HALFWORDS)
            bits, ones = constant(HALFWORDS, BRANCH_BITS), constant(HALFWORDS, 1)
            before = b.block
            loop, done = b.append_basic_block("logits"), b.append_basic_block("done")
            b.branch(loop)
            b.position_at_end(loop)
            at, moves_at = b.phi(I64), b.phi(I64)
            acc = [b.phi(V_I32) for _ in range(vectors)]
            for phi, value in ((at, I64(0)), (moves_at, moves), *((phi, constant(V_I32, 0)) for phi in acc)):
                phi.add_incoming(value, before)
            logits = b.bitcast(broadcast(b, load(b, b.add(fine, at), I32), V_I32), HALFWORDS)
            for v, phi in enumerate(acc):
                move = load(b, b.add(moves_at, I64(64 * v)), HALFWORDS)
                moved = call(b, "llvm.sadd.sat.v32i16", HALFWORDS, logits, move)
                below = b.sub(top, b.ashr(moved, bits))
                # < 2**15 each, < 2**23 together
                acc[v] = dot2(b, phi, _branch_weights(b, below), ones)
                phi.add_incoming(acc[v], loop)
            after = b.add(at, I64(4))
            at.add_incoming(after, loop)
            moves_at.add_incoming(b.add(moves_at, step), loop)
            b.cbranch(b.icmp_signed("<", after, I64(512)), loop, done)
            b.position_at_end(done)
            for v, value in enumerate(acc):
                store(b, value, b.add(out, I64(64 * v)))
            return context.get_dummy_value()

        return signature, codegen

    return sums


WIDE_SUMS = 4  # vectors of branches at a time, of which each broadcast of two logits serves all
branch_sums, narrow_branch_sums = (_branch_sums(v) for v in (WIDE_SUMS, 1))


# --- sums over signs ------------------------------------------------------------------------------------------------


def _add_signed_bytes(b, acc, address, bits):
    x = flip_offset(b, load(b, address, BYTES))
    signed = b.select(bit_mask(b, bits, 64), x, b.neg(x))
    return dot4(b, acc, constant(BYTES, 1), signed)


# acc, 64 bytes, 64 bits
add_signed_bytes = define(_add_signed_bytes, i32x16, i32x16, types.int64, types.int64)
add_products = define(
    lambda b, acc, x, w: dot4(b, acc, load(b, x, BYTES), load(b, w, BYTES)), i32x16, i32x16, types.int64, types.int64
)
# acc, 64 offset bytes, a word of four bytes for all lanes
add_word_products = define(
    lambda b, acc, x, w: dot4(b, acc, load(b, x, BYTES), b.bitcast(broadcast(b, load(b, w, I32), V_I32), BYTES)),
    i32x16,
    i32x16,
    types.int64,
    types.int64,
)


def _add_rank_4(b, acc, x, w):
    words = load(b, x, QUARTER)
    spread = b.bitcast(shuffle(b, words, words, [lane // 4 for lane in range(LANES)]), BYTES)
    return dot4(b, acc, spread, load(b, w, BYTES))


def _fold_rank_4(b, v):
    v = b.add(v, shuffle(b, v, v, [(lane + 8) % LANES for lane in range(LANES)]))
    v = b.add(v, shuffle(b, v, v, [(lane + 4) % LANES for lane in range(LANES)]))
    return shuffle(b, v, constant(V_I32, 0), [lane if lane < 4 else LANES for lane in range(LANES)])


# acc, four offset bytes for 16 ranks or 16 for 4, and 64 bytes with as many of each rank
add_rank_16 = define(
    lambda b, acc, x, w: dot4(b, acc, b.bitcast(broadcast(b, load(b, x, I32), V_I32), BYTES), load(b, w, BYTES)),
    i32x16,
    i32x16,
    types.int64,
    types.int64,
)
add_rank_4 = define(_add_rank_4, i32x16, i32x16, types.int64, types.int64)
fold_rank_4 = define(_fold_rank_4, i32x16, i32x16)  # sums of 4 ranks, the other lanes 0
first_lane = define(
    lambda b, s: b.insert_element(constant(V_I32, 0), b.trunc(s, I32), I32(0)), i32x16, types.int64
)  # the others are 0


@intrinsic
def address(typing_context, array):
    """Address of an array's first element, int64."""

    def codegen(context, builder, signature, args):
        struct = context.make_array(signature.args[0])(context, builder, args[0])
        return builder.ptrtoint(struct.data, I64)

    return types.int64(array), codegen


def aligned(shape, dtype) -> np.ndarray:
    """An uninitialised array that begins at a cache line."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    raw = np.empty(size + 64, np.uint8)
    at = -raw.ctypes.data % 64
    return raw[at : at + size].view(dtype).reshape(shape)


def pointer_to(array: np.ndarray) -> int:
    """The array's address."""
    try:
        return ctypes.addressof(ctypes.c_char.from_buffer(array))  # a quarter of the time of the other
    except (TypeError, ValueError):  # one that is read-only, or empty
        return array.ctypes.data
