"""Initial weights: the same bytes on every platform, from the counter-based generator and a quantile table."""

from math import isqrt

import numpy as np

from egg.kernels.arithmetic import LIMIT, normal_table, round_shift
from egg.kernels.layout import Shape
from egg.kernels.philox import INITIAL_WEIGHTS, words

GAIN = 16  # 1.0 in 4 fractional bits
# Recipe egg begins with activations that use more of the int8 range, and moves gains slowly (docs/learning.md).
EGG_GAINS = {"ln1": 48, "ln2": 24, "ln_out": 64}
# It draws the tensors whose outputs must differ, and zeroes those that can grow from zero: gates begin half open,
# nothing is remembered beyond what the gate keeps, the MLPs add nothing, and the first loss is exactly 8 bits a byte.
EGG_ZEROS = ("w_f", "u_f", "u_h", "w_down", "head.weight")
# Every layer adds its memory to the same stream: candidates' matrices are twice as large, less from three layers on.
EGG_LARGER = "w_h"
CONSTANT_COLUMN = 64  # of the embedding in recipe egg: a feature that every byte shares


def normal_weights(seed: int, stream: int, number: int, size: int) -> np.ndarray:
    """(size,) int8: round(16 z) from the generator's halfwords, for the tensor of this number."""
    drawn = words(seed, stream, number, 0, -(-size // 2))
    halfwords = drawn.astype("<u4").view("<u2")[:size]  # the low half comes first
    return normal_table()[halfwords]


def initial_weights(shape: Shape, seed: int, recipe: str) -> np.ndarray:
    """(parameters,) int8: round(16 z) for matrices, 16 for gains, 0 for biases.

    Recipe ``egg`` has its own gains, zero matrices, and larger candidates' matrices, see above.
    """
    flat = np.zeros(shape.parameters, np.int8)
    larger = isqrt((1 << 19) // max(2, shape.num_layers))  # 256 * 2 sqrt(2 / L), 512 at most
    for name, weights in shape.views(flat).items():
        if weights.ndim == 1:
            gain = EGG_GAINS[name.split(".")[-2]] if recipe == "egg" and "ln" in name else GAIN
            weights[...] = 0 if ".gru.b_" in name else gain
        elif recipe == "paper" or not name.endswith(EGG_ZEROS):
            drawn = normal_weights(seed, INITIAL_WEIGHTS, shape.tensors[name].number, weights.size)
            if recipe == "egg" and name.endswith(EGG_LARGER):
                drawn = np.clip(round_shift(larger * drawn.astype(np.int32), 8), -LIMIT, LIMIT)
            weights[...] = drawn.reshape(weights.shape)
        if name == "embedding.weight" and recipe == "egg":
            weights[:, 0] = CONSTANT_COLUMN
    return flat
