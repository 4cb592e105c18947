"""The SHA-256 of a model or an adapter, by which files name what they belong to."""

import hashlib

import numpy as np

from egg.kernels import Adapter, Shape

# Two kinds of file hold it, with a different byte between the sizes and the weights. Both are contracts, as files of
# either kind exist.
PACKED = b"\n"
ADAPTER_BASE = b" "


def digest(shape: Shape, weights: np.ndarray, between: bytes = PACKED) -> bytes:
    """(32 bytes) of a model, however it is stored: hidden size, layers, and the weights in the order of ``Shape``.

    It covers everything that determines the model's logits, and nothing else: no configuration, no training state, no
    adapter.

    weights : (parameters,) int8
    between : PACKED in a compressed file, in exported C and on a model's card; ADAPTER_BASE in an adapter's file, in
        the config.json beside it, and in results of ``egg intrinsic-dimension``
    """
    sizes = f"egg {shape.hidden_size} {shape.num_layers}".encode()
    return hashlib.sha256(sizes + between + np.ascontiguousarray(weights).tobytes()).digest()


def adapter_digest(adapter: Adapter) -> bytes:
    """(32 bytes) of an adapter: rank, names of its matrices, and factors, in the order of ``AdapterShape``.

    A compressed file holds it beside the digest of the adapter's base.
    """
    layout = adapter.shape
    line = " ".join(["egg adapter", str(layout.rank), *layout.matrices]) + "\n"
    return hashlib.sha256(line.encode() + np.ascontiguousarray(adapter.factors).tobytes()).digest()
