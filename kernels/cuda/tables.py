"""Where the votes of each tensor lie, as tables for votes.cu."""

import numpy as np

from kernels.layout import Shape

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


def traced_tables(shape: Shape) -> tuple[np.ndarray, np.ndarray]:
    """Recipe egg: (tiles, 6) int32 of all matrices but the embedding, and (biases, 3) int32.

    Columns are those of outputs.cu: a layer has 8 D inputs (u, h, past, ln2, the middle's 4) and 7 D outputs (the
    gates, the middle's 4, the MLP's); the head follows.
    """
    d, tiles, biases = shape.hidden_size, [], []
    for i in range(shape.num_layers):
        layer, v, x = f"layers.{i}.", 7 * d * i, 8 * d * i
        for gate, v_at, other in (("f", 0, 1), ("h", 1, 2)):  # u_f reads h, u_h reads past
            at = v + v_at * d
            tiles += _tiles(shape.tensors[f"{layer}gru.w_{gate}"], at, x)
            tiles += _tiles(shape.tensors[f"{layer}gru.u_{gate}"], at, x + other * d)
            biases.append((at, d, shape.tensors[f"{layer}gru.b_{gate}"].offset))
        tiles += _tiles(shape.tensors[layer + "mlp.w_up"], v + 2 * d, x + 3 * d)
        tiles += _tiles(shape.tensors[layer + "mlp.w_down"], v + 6 * d, x + 4 * d)
    head = shape.tensors["head.weight"]
    tiles += _tiles(head, 7 * d * shape.num_layers, 8 * d * shape.num_layers)
    return np.array(tiles, np.int32), np.array(biases, np.int32)


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
    return tuple(np.array(table, np.int32) for table in (tiles, vectors, stretches))
