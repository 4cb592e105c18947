"""Where the CPU's kernels find things: tensors in the flat vector, the columns of votes, a direction's factors."""

from functools import cache
from typing import NamedTuple

import numpy as np

from egg.kernels.arithmetic import VOCABULARY
from egg.kernels.backend import Noise
from egg.kernels.cpu import structures
from egg.kernels.cpu.adapters import RANKS
from egg.kernels.cpu.noise import place_factors
from egg.kernels.cpu.simd import pointer_to
from egg.kernels.layout import AdapterShape, Shape


class Places(NamedTuple):
    """Where the tensors of a shape lie, as the kernels look it up."""

    panels: np.ndarray  # (panels, 4) int64, see pack.py
    sums: int  # row sums of all matrices
    arrays: tuple  # (tensors,) int64 each: offset, start, a, b of ``structures.Model``
    panels_at: int
    addresses: tuple[int, ...]


@cache
def tensor_places(shape: Shape) -> Places:
    """The places of a shape's tensors; the arrays live as long as the process."""
    tensors = list(shape.tensors.values())
    panels, starts, sums = [], np.zeros(len(tensors), np.int64), 0
    for t in tensors[1:]:  # the embedding is read by rows
        if len(t.shape) == 1:
            continue
        starts[t.number] = sums
        outputs, inputs = t.shape
        width = min(64, outputs)
        first = range(0, outputs, width)
        panels += [(t.offset + n * inputs, width, inputs, sums + n) for n in first]
        sums += outputs
    panels = np.array(panels, np.int64)
    columns = zip(*((t.offset, int(starts[t.number]), t.a >> 3, t.b >> 3) for t in tensors), strict=True)
    arrays = tuple(np.array(column, np.int64) for column in columns)
    return Places(panels, sums, arrays, pointer_to(panels), tuple(map(pointer_to, arrays)))


def columns(shape: Shape) -> tuple[int, int]:
    """Columns of all outputs that vote and of all inputs, the head's last; those of stations follow."""
    d, layers = shape.hidden_size, shape.num_layers
    outputs = structures.LAYER_OUTPUTS * layers * d + VOCABULARY
    return outputs, (structures.LAYER_INPUTS * layers + 1) * d


# kind of matrix -> its output and its input among a layer's; w_up has a vote with a station alone
_COLUMNS = {
    "w_f": (structures.V_W_F, structures.X_U),
    "u_f": (structures.V_U_F, structures.X_H),
    "w_h": (structures.V_W_H, structures.X_U),
    "u_h": (structures.V_U_H, structures.X_PAST),
    "w_down": (structures.V_W_DOWN, structures.X_MID),
}


def _voters(shape: Shape, with_up: bool = False) -> dict[str, tuple[int, int]]:
    """Matrices that are voted on -> columns before their outputs and before their inputs."""
    d, found = shape.hidden_size, {}
    for name in shape.matrices:
        if name == "head.weight":
            outputs, inputs = columns(shape)
            found[name] = outputs - VOCABULARY, inputs - d
            continue
        layer, kind = int(name.split(".")[1]), name.split(".")[-1]
        if kind == "w_up" and with_up:
            outputs, inputs = columns(shape)
            found[name] = outputs + 4 * d * layer, inputs + d * layer
        if kind in _COLUMNS:
            output, column = _COLUMNS[kind]
            before = structures.LAYER_OUTPUTS * layer, structures.LAYER_INPUTS * layer
            found[name] = (before[0] + output) * d, (before[1] + column) * d
    return found


def panels_of(tensor, v: int, x: int, source: int, bias: int, inputs: int | None = None, z=None):
    """Rows of a plan, see votes.py: one for each 64 of a tensor's outputs."""
    outputs = tensor.shape[0]
    if inputs is None:
        inputs = tensor.shape[1] if len(tensor.shape) == 2 else 0
    z = tensor.offset if z is None else z
    width = min(64, outputs)
    return [
        (z + n * inputs, width, inputs, v + n, x, source, -1 if bias < 0 else bias + n)
        for n in range(0, outputs, width)
    ]


def vote_plan(shape: Shape, with_up: bool) -> tuple[np.ndarray, int]:
    """Products of votes: what ``votes.sum_panels`` takes, and how many numbers they make."""
    rows = []
    for name, (v, x) in _voters(shape, with_up).items():
        rows += panels_of(shape.tensors[name], v, x, 0, -1)
    return np.array(rows, np.int64), shape.parameters


def adapter_plan(layout: AdapterShape) -> tuple[np.ndarray, int]:
    """The same of an adapter's factors B, with ranks filled up to 16."""
    voters, rows, at = _voters(layout.base), [], 0
    for m, name in enumerate(layout.matrices):
        if name in voters:
            tensor = layout.tensors[name + ".B"]
            rows += panels_of(tensor, voters[name][0], RANKS * m, 1, -1, RANKS, at)
            at += tensor.shape[0] * RANKS
    return np.array(rows, np.int64).reshape(-1, 7), at


def vector_places(shape: Shape) -> list[slice]:
    """Places of gains and biases in the flat vector, in the order of their votes."""
    of_a_layer = "ln1.weight", "ln2.weight", "gru.b_f", "gru.b_h"
    names = ["ln_out.weight", *(f"layers.{layer}.{name}" for layer in range(shape.num_layers) for name in of_a_layer)]
    return [shape.tensors[name].slice for name in names]


def without_filling(layout: AdapterShape, filled: np.ndarray) -> np.ndarray:
    """(parameters,) int32 of the sums with ranks filled up to 16; factors A have none."""
    votes, voters, at = np.zeros(layout.parameters, np.int32), _voters(layout.base), 0
    for name, z in layout.views(votes).items():
        matrix, factor = name.rsplit(".", 1)
        if factor == "B" and matrix in voters:
            size = len(z) * RANKS
            z[...] = filled[at : at + size].reshape(-1, RANKS)[:, : layout.rank]
            at += size
    return votes


@cache
def factor_places(layout: Shape | AdapterShape, rank: int, gaussian: bool) -> tuple[np.ndarray, int, int]:
    """See ``place_factors``; the array lives as long as the process."""
    return place_factors(layout, rank, gaussian)


def is_bits(noise: Noise) -> bool:
    """Whether a direction is bits: signs of rank 1."""
    return noise.rank == 1 and not noise.gaussian


def direction_bytes(layout: Shape | AdapterShape, noise: Noise) -> int:
    """Of a member's directions, which as bytes its pair shares."""
    if is_bits(noise):
        return 4 * layout.sign_words
    return factor_places(layout, noise.rank, noise.gaussian)[1] // 2


def gaussian_words(layout: Shape | AdapterShape) -> int:
    """Words of one direction's Gaussian factors."""
    return (layout.gaussian_halfwords + 1) // 2
