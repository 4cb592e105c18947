"""What the CPU kernels share: numbers of tensors and products, structures of addresses, look-ups."""

from typing import NamedTuple

from numba import njit

from kernels.cpu.simd import instruction_set, leading_zeros, load_byte, load_long, load_word, offset

OFFSET = offset()  # of the bytes of a matrix input, see simd.py

JIT = {
    "nogil": True,
    "error_model": "numpy",
    "cache": instruction_set
    is not None,  # else this was not imported by ``load``, which says where
}

CLEAN, MOVED, ALONG_INPUT = range(3)  # modes of a block
# Numbers of the tensors within a layer, in the order of the flat vector; a layer has 10.
LN1, W_F, U_F, B_F, W_H, U_H, B_H, LN2, W_UP, W_DOWN = range(10)
LAYER_TENSORS = 10
# Numbers of a layer's products among the projections, and of its inputs in the trace, in units of D.
P_W_F, P_U_F, P_W_H, P_U_H, P_UP, P_DOWN = range(6)
LAYER_PRODUCTS = 6
X_U, X_H, X_PAST, X_LN2, X_MID = range(5)
LAYER_INPUTS = 8  # the last, the MLP's middle, is 4 wide
# A layer's outputs that vote, in units of D: the two gates, the middle (4 wide), the MLP's output.
V_F, V_H, V_UP, V_DOWN = 0, 1, 2, 6
LAYER_OUTPUTS = 7


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
    """The constants of kernels.arithmetic as the kernels read them."""

    exp2: int  # (16,) int32: the last octave of e
    log2_16: int  # (16,) int64: thresholds
    log2_256: int  # (256,) int64
    reciprocal: int  # (128,) int64, see ``norm_rows``
    reciprocal_shift: int  # (128,) int64


class NoiseParameters(NamedTuple):
    """What the members of a block share of their perturbations."""

    mode: int
    tie_gates: int  # 1 in recipe egg
    key_0: int
    key_1: int
    step: int
    shift: int  # 4 - sigma_shift
    vector_step: int


class Block(NamedTuple):
    """A block's buffers, and how its members map to rows of text, states and directions."""

    members: int
    padded: int  # members rounded up to whole tiles
    stride: int
    length: int  # T
    text_share: int  # members that read one row of text
    state_share: int  # members that start from one state
    keep: int  # of which this one's state goes on
    words_row: int  # bytes of a direction's signs
    bytes: int  # (BUFFERS, padded, stride) uint8
    mid: int  # (padded, 4 stride) uint8, offset
    states: int  # (L, padded, stride) uint8, offset
    logits: int  # (2, padded, 256) int8: clean, moved
    gains: int  # (padded, 2) int32
    words: int  # (padded, words_row) signs of each member's direction
    b0: int  # (padded, 2 L) int8: first sign of each gate's bias
    r: int  # (T, padded to 16s) int8: the members' signs at each token
    projections: int  # (T, 6 L + 1, padded) int32
    arrived: (
        int  # (groups, T, 7 L D) int8: how much of a push at each first member's outputs arrived
    )
    inputs: (
        int  # (groups, T, (8 L + 1) D) uint8: what each group's first member's products saw, offset
    )
    # with an adapter of M matrices, see adapters.py:
    wide_row: int
    wide: int  # (padded, wide_row) uint8: a product's input and, after it, z, offset
    factor_projections: int  # (T, M, 2, padded) int32
    factor_arrived: int  # (groups, T, M, 16) int8
    factor_inputs: int  # (groups, T, M, 16) uint8: z of each group's first member, offset


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
def token_signs(block, t):
    """Address of the members' r at token t; rows are whole sixteens."""
    return block.r + t * ((block.padded + 15) & -16)


@njit(**JIT)
def token_sign(block, t, i):
    """r of member i at token t: +1 or -1."""
    return load_byte(token_signs(block, t) + i)


@njit(**JIT)
def embedding_sign(model, block, i, byte):
    """a[byte] of member i's direction of the embedding: +1 or -1."""
    word = load_word(block.words + block.words_row * i + a_signs(model, 0) + 4 * (byte >> 5))
    return 2 * ((word >> (byte & 31)) & 1) - 1


@njit(**JIT)
def projection(model, block, t, slot, i):
    """Address of member i's projection on product ``slot`` at token t."""
    slots = LAYER_PRODUCTS * model.num_layers + 1
    return block.projections + 4 * ((t * slots + slot) * block.padded + i)


@njit(**JIT)
def arrived_at(model, block, group, t, layer):
    """Address of what arrived at the outputs of a group's first member in a layer, (7 D,) int8."""
    row = (group * block.length + t) * model.num_layers + layer
    return block.arrived + row * LAYER_OUTPUTS * model.hidden_size


@njit(**JIT)
def gain(v, shift):
    """v << shift, an arithmetic >> for a negative shift."""
    return v << shift if shift >= 0 else v >> -shift
