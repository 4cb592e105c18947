"""Where the votes of each tensor lie, as tables for votes.cu."""

import numpy as np

from egg.kernels.cuda.sources import kept_columns, vote_columns
from egg.kernels.layout import Shape

SIDE = 64  # of a tile of votes


def _tiles(tensor, v_column: int, x_column: int) -> list[tuple[int, ...]]:
    """Rows of ``Place`` in votes.cu that cover a matrix."""
    outputs, inputs = tensor.shape
    return [
        (
            v_column + n,
            x_column + k,
            min(SIDE, outputs - n),
            min(SIDE, inputs - k),
            inputs,
            tensor.offset + n * inputs + k,
        )
        for n in range(0, outputs, SIDE)
        for k in range(0, inputs, SIDE)
    ]


def pair_tables(shape: Shape) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Recipe paper: (tiles, 6) int32 of all matrices, (vectors, 3) int32, and the (stretches, 4) int32 of pairs.cu."""
    tiles, vectors, stretches, v, x = [], [], [], 0, 0
    for tensor in shape.tensors.values():
        stretches.append((tensor.a, tensor.shape[0], v, 0))
        if len(tensor.shape) == 1:
            vectors.append((v, tensor.size, tensor.offset))
        else:
            tiles += _tiles(tensor, v, x)
            stretches.append((tensor.b, tensor.shape[1], x, 1))
            x += tensor.shape[1]
        v += tensor.shape[0]
    return np.array(tiles, np.int32), np.array(vectors, np.int32), np.array(stretches, np.int32)


def branch_tables(shape: Shape, stations: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Recipe egg: (tiles, 6) int32 of the matrices that vote, and (vectors, 3) int32; credit.cuh draws the columns."""
    v, x, tiles, vectors = vote_columns(shape), kept_columns(shape), [], []
    read = {"gru.w_f": "u", "gru.u_f": "h", "gru.w_h": "u", "gru.u_h": "past", "mlp.w_down": "y"}
    for layer in range(shape.num_layers):
        for name, inputs in read.items():
            columns = v[name[4:]] + layer * v["layer"], x[inputs] + layer * x["layer"]
            tiles += _tiles(shape.tensors[f"layers.{layer}.{name}"], *columns)
        for name in ("b_f", "b_h"):
            bias = shape.tensors[f"layers.{layer}.gru.{name}"]
            vectors.append((v[name] + layer * v["layer"], bias.size, bias.offset))
        more = v["row"] + layer * v["more"]
        if "middle" in stations:
            tiles += _tiles(shape.tensors[f"layers.{layer}.mlp.w_up"], more + v["up"], x["v"] + layer * x["layer"])
        for station, name in (("mlp", "ln2"), ("gates", "ln1")):
            if station in stations:
                gains = shape.tensors[f"layers.{layer}.{name}.weight"]
                vectors.append((more + v[name], gains.size, gains.offset))
    gains = shape.tensors["ln_out.weight"]
    vectors.append((v["gain"], gains.size, gains.offset))
    tiles += _tiles(shape.tensors["head.weight"], v["head"], x["o"])
    return np.array(tiles, np.int32), np.array(vectors, np.int32)
