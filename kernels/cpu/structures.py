"""What the CPU kernels share: numbers of tensors and products, structures of addresses, look-ups."""

from typing import NamedTuple

from llvmlite import ir
from numba import carray, njit, types
from numba.extending import intrinsic

from egg.kernels.arithmetic import STATIONS
from egg.kernels.cpu.simd import I64, define, instruction_set, leading_zeros, load, load_long, load_word, offset

OFFSET = offset()  # of the bytes of a matrix input, see simd.py

JIT = {
    "nogil": True,
    "error_model": "numpy",
    "cache": instruction_set is not None,  # else this was not imported by ``load``, which says where
}

CLEAN, MOVED = range(2)  # modes of a block: weights as they are, or each member's own
# Numbers of the tensors within a layer, in the order of the flat vector; a layer has 10.
LN1, W_F, U_F, B_F, W_H, U_H, B_H, LN2, W_UP, W_DOWN = range(10)
LAYER_TENSORS = 10
# A layer's inputs that are voted with, in units of D: the last, the MLP's middle, is 4 wide. Of the head: o.
X_U, X_H, X_PAST, X_MID = range(4)
LAYER_INPUTS = 7
# A layer's outputs that vote, in units of D: those of w_f, u_f, w_h, u_h and w_down.
V_W_F, V_U_F, V_W_H, V_U_H, V_W_DOWN = range(5)
LAYER_OUTPUTS = 5
# A layer's vectors that are voted on; the last norm's gains are before all layers'
LN1_VOTES, LN2_VOTES, B_F_VOTES, B_H_VOTES = range(4)
# The kinds of credit of a layer
V_GATE, V_CANDIDATE, V_DOWN = range(3)
EMBEDDING_KIND, GAIN_KIND, LAYER_KINDS = range(3)  # kinds: the first two, then three a layer
# With stations three more a layer follow, and after the head's the MLP's middle of each layer as outputs that vote, 4
# wide, and what w_up reads as inputs.
V_UP, V_LN2, V_LN1 = range(3)
# What a reader leaves behind of each byte and layer: gate, candidate, the state before, and what is free (FREE_*).
S_GATE, S_CANDIDATE, S_STATE, S_FREE, S_PRODUCTS = range(5)
SAVED = 5
# And for stations: the residual before the layer and before the MLP, the MLP's output and its middle, 4 wide.
S_X, S_MIDDLE, S_DOWN, S_Y = range(5, 9)
SAVED_FOR_STATIONS = 12
# The residual after the MLP, the MLP's output, the residual before it, what the gates read, what the MLP reads
FREE_OUT, FREE_DOWN, FREE_MIDDLE, FREE_U, FREE_V = 1, 2, 4, 8, 16
# The products with w_f, u_f, w_h and u_h, each by itself
FREE_W_F, FREE_U_F, FREE_W_H, FREE_U_H = 1, 2, 4, 8
NOTHING, FOR_VOTES, FOR_STATIONS = range(3)  # what a reader leaves behind
ON = {name: 1 << i for i, name in enumerate(STATIONS)}
GATES, STATE, PAST_, MIDDLE, MLP = ON.values()  # bits of BranchParameters.stations


# What follows holds addresses, not arrays: Numba counts references to arrays, atomically, at every use. The backend
# keeps the arrays alive while a kernel runs.


class Model(NamedTuple):
    """Packed weights."""

    hidden_size: int
    num_layers: int
    packed: int  # (parameters,) int8: matrices in panels, the embedding and vectors as they are
    starts: int  # int32: -OFFSET * row sums, what accumulators begin with
    offset: int  # (tensors,) int64: where a tensor begins in packed
    start: int  # (tensors,) int64: where a matrix begins in starts
    a: int  # (tensors,) int64: byte offset of a tensor's a signs in a direction's bits
    b: int  # (tensors,) int64: of its b signs


class Tables(NamedTuple):
    """The constants of egg.kernels.arithmetic as the kernels read them."""

    exp2: int  # (16,) int32: the last octave of e
    log2_16: int  # (16,) int64: thresholds
    log2_256: int  # (256,) int64
    reciprocal: int  # (128,) int64, see ``norm_rows``
    reciprocal_shift: int  # (128,) int64
    reciprocal_offset: int  # (128,) int64


class NoiseParameters(NamedTuple):
    """What the members of a block share of their perturbations."""

    mode: int
    key_0: int
    key_1: int
    step: int
    shift: int  # 4 - sigma_shift
    vector_step: int
    directions: int  # that the pairs take in turns, or 0


UNMOVED = NoiseParameters(CLEAN, 0, 0, 0, 0, 0, 0)


class BranchParameters(NamedTuple):
    """What all readers of a step share: their branches, and how credit is narrowed."""

    # written by tasks:
    credit_shift: int
    place: int  # r
    wide_place: int
    count: int  # K
    moves: int  # (128, K, 2) int16: M, in 1/4096 bit
    rows: int  # (K,) int64: numbers of the branches' Hadamard rows
    signs: int  # (D,) int32: s
    turns: int  # (K,) int32: H[k][r]
    shifts: int  # (kinds,) int64
    # of stations, see stations.py:
    stations: int  # bits of those that are on
    station_moves: int  # (parameters,) int8: M of each matrix, where the matrix lies in the flat vector
    station_shifts: int  # (tensors,) int64: m
    all_turns: int  # (D,) int32: H[k][r]
    wide_signs: int  # (4 D,) int32: s
    wide_turns: int  # (4 D,) int32


class Block(NamedTuple):
    """A block's buffers, and how its members map to rows of text."""

    # written by tasks:
    members: int
    padded: int  # members rounded up to whole tiles
    quad: int  # the first of its quads
    # the same for all tasks:
    stride: int
    length: int  # T
    text_share: int  # members that read one row of text
    words_row: int  # bytes of a direction's signs
    bytes: int  # (BUFFERS, padded, stride) uint8
    mid: int  # (padded, 4 stride) uint8, offset
    states: int  # (L, padded, stride) uint8, offset
    logits: int  # (padded, 256) int8
    gains: int  # (padded, 2) int32
    words: int  # (padded, words_row) signs of each member's direction
    # with an adapter, see adapters.py:
    wide_row: int
    wide: int  # (padded, wide_row) uint8: a product's input and, after it, z, offset
    # of readers that branch:
    fine: int  # (padded, 256) int16: logits in 1/4096 bit
    planes: int  # SAVED, or with stations SAVED_FOR_STATIONS
    saved: int  # (T, L, planes, padded, stride) int8
    wire: int  # (T, padded, stride) int32: credit at the wire's end
    scratch: int  # (256 + 2 D + 64 L,) int32, (16 kinds,) int64: of one reader, or of four, see branches.py
    work: int  # of stations, see stations.py
    # what they leave for the votes' products, see votes.py; quads are rows of four members at one byte
    quads: int  # of the whole step
    v: int  # int32: outputs, a byte a member
    x: int  # int32: inputs, likewise, offset
    z: int  # (M, quads, 16) int32: an adapter's z, likewise


class Packing(NamedTuple):
    """What the tasks of ``prepare`` share; addresses."""

    weights: int  # (parameters,) int8
    panels: int  # (panels, 4) int64, see pack.py
    packed: int
    starts: int


class Reading(NamedTuple):
    """What the tasks of ``forward`` share; addresses."""

    model: int  # Model or AdaptedModel
    noise: int
    tables: int
    blocks: int  # (slots,) Block
    slots: int
    streams: int
    length: int  # T
    parts: int  # blocks of sequences
    text: int  # (streams, T) uint8
    states: int  # (streams, L, D) int8
    states_out: int
    logits: int  # (streams, T, 256) int8


class Step(NamedTuple):
    """What the tasks of ``cast_votes`` share; addresses."""

    model: int  # Model or AdaptedModel
    noise: int
    tables: int
    blocks: int  # (slots,) Block
    slots: int
    draw: int  # BranchParameters
    streams: int
    length: int  # T
    text: int  # (streams, T + 1) uint8
    states: int  # (streams, L, D) int8
    states_out: int
    first_row: int
    # of the branches:
    key_0: int
    key_1: int
    step: int
    weights: int  # (parameters,) int8
    head: int  # (256, D) int8
    words: int  # uint32
    transformed: int  # (256, D) int32: R
    magnitudes: int  # (16,) int64
    stations: int  # (matrices, 4) int64: number of the tensor, where it begins, outputs, inputs
    scratch: int  # (threads, 4 D D) int32
    # of the readers:
    parts: int  # blocks of readers
    vote: int  # task that follows
    rows: int  # (streams, T, D) int8: votes on the embedding's rows
    vectors: int  # (parts, 1 + 4 L, D) int32
    kinds: int
    totals: int  # (parts, kinds) int64
    scores: int  # (parts,) int64
    # of the sums:
    plan: int  # (panels, 7) int64, see votes.py
    panels: int
    places: int  # (1 + 4 L,) int64: where the vectors lie in votes
    votes: int  # int32
    size: int


class Moving(NamedTuple):
    """What the tasks of ``update_rows`` share; addresses."""

    parameters: int
    rows: int
    starts: int  # (rows + 1,) int64
    master: int  # (parameters,) int32
    squares: int  # (rows,) int64
    votes: int  # (parameters,) int32
    weights: int  # (parameters,) int8
    step: int
    step_size: int


@intrinsic
def load_as(typing_context, structure, at):
    """The structure at an address."""
    kind = types.NamedUniTuple(types.int64, len(structure.instance_class._fields), structure.instance_class)

    def codegen(context, b, _, values):
        loaded = ir.Constant(context.get_value_type(kind), ir.Undefined)
        for i in range(kind.count):
            loaded = b.insert_value(loaded, load(b, b.add(values[1], I64(8 * i)), I64), i)
        return loaded

    return kind(structure, types.int64), codegen


pointer = define(lambda b, at: b.inttoptr(at, ir.IntType(8).as_pointer()), types.voidptr, types.int64)


@njit(**JIT)
def array_at(at, shape, dtype):
    """The array that begins at an address."""
    return carray(pointer(at), shape, dtype)


X, IN, PAST, PRODUCT_1, PRODUCT_2, GATE = range(6)  # buffers in Block.bytes
BUFFERS = 6


@njit(**JIT)
def tensor_at(model, tensor):
    """Address of a tensor's packed weights."""
    return model.packed + load_long(model.offset + 8 * tensor)


@njit(**JIT)
def product_shift(inputs):
    """Right shift of a product with so many inputs: 4 + log2(inputs) / 2."""
    return 4 + ((63 - leading_zeros(inputs)) >> 1)


@njit(**JIT)
def state_at(block, layer, i):
    """Address of member i's state in a layer."""
    return block.states + (layer * block.padded + i) * block.stride


@njit(**JIT)
def a_signs(model, tensor):
    """Byte offset of a tensor's a signs, or of a vector's signs, in a direction's bits."""
    return load_long(model.a + 8 * tensor)


@njit(**JIT)
def b_signs(model, tensor):
    """Byte offset of a matrix's b signs in a direction's bits."""
    return load_long(model.b + 8 * tensor)


@njit(**JIT)
def direction_of(noise, pair):
    """Number of a pair's direction, of rank 1."""
    return pair % noise.directions if noise.directions else pair


@njit(**JIT)
def side(i):
    """r of member i, the side of an antithetic pair: +1 or -1."""
    return 1 - 2 * (i & 1)


@njit(**JIT)
def embedding_sign(model, block, i, byte):
    """a[byte] of member i's direction of the embedding: +1 or -1."""
    word = load_word(block.words + block.words_row * i + a_signs(model, 0) + 4 * (byte >> 5))
    return 2 * ((word >> (byte & 31)) & 1) - 1


@njit(**JIT)
def saved_at(model, block, t, layer, kind, i):
    """Address of what member i left behind at a byte in a layer, (D,) int8."""
    row = ((t * model.num_layers + layer) * block.planes + kind) * block.padded + i
    return block.saved + row * block.stride


@njit(**JIT)
def quad_at(rows, quads, first, column, width, quad):
    """Address of a quad's word for a column of those from ``first`` on, in panels of ``width``, at most 64."""
    panel = first + (column & -width)
    return rows + 4 * (quads * panel + quad * width + (column & (width - 1)))


@njit(**JIT)
def gain(v, shift):
    """v << shift, an arithmetic >> for a negative shift."""
    return v << shift if shift >= 0 else v >> -shift
