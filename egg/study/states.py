"""Hidden states of every layer over a text, as integers: what ``egg geometry`` measures.

A backend's kernels read the text; where a state is kept, the reference definition, which exposes every stage, reads
the byte before it. Both give the same integers.
"""

from collections.abc import Iterator

import numpy as np

from egg.errors import EggError
from egg.kernels.layout import Shape
from egg.kernels.reference import Model
from egg.model.network import Network

BLOCK = 512  # positions that the reference reads together; bounds memory, not results
STRETCH = 2048  # bytes to read of a document, if the text allows it: fewer would sample beginnings alone
KINDS = {"state": "state", "stream": "mlp"}
"""What is kept of a layer -> the stage of docs/arithmetic.md: the recurrent state h, and the residual stream x that
leaves the layer."""


class _Recorder(Model):
    """The reference's model, which keeps the chosen stages of all positions."""

    def __init__(self, shape: Shape, weights: dict[str, np.ndarray], stages: set[str]):
        super().__init__(shape, weights)
        self.stages, self.kept = stages, {}

    def seen(self, stage, values_mn):
        if stage in self.stages:
            self.kept[stage] = values_mn.astype(np.int8)


def hidden_states(network: Network, text: np.ndarray, points: int, stride: int) -> dict[tuple[int, str], np.ndarray]:
    """The states of every layer after every ``stride``-th byte of documents spread evenly over a text.

    A state moves only part of the way at each byte, so that neighbours in time lie on a thread; a stride separates
    them.

    text : (n,) uint8, a NUL before each document
    points : largest number of states to keep of each layer
    stride : bytes between them, 1 or more
    returns : (layer, kind) -> (m, D) int8, kind of KINDS, row i of each after the same byte
    Raises EggError for a text too short for a single point.
    """
    kept, shape = list(_positions(network, text, points, stride)), network.shape
    if not kept:
        raise EggError(f"the text has less than {stride} bytes: give more of it, or a smaller --stride")
    tokens, before = (np.concatenate(parts) for parts in zip(*kept, strict=True))
    if len(tokens) > points:
        even = np.arange(points) * len(tokens) // points
        tokens, before = tokens[even], before[even]
    names = {
        (layer, kind): f"layers.{layer}.{stage}" for layer in range(shape.num_layers) for kind, stage in KINDS.items()
    }
    model = _Recorder(shape, shape.views(network.weights.astype(np.int64)), set(names.values()))
    found = {key: np.empty((len(tokens), shape.hidden_size), np.int8) for key in names}
    for at in range(0, len(tokens), BLOCK):
        rows = slice(at, at + BLOCK)
        model.read(tokens[rows], before[rows].astype(np.int64))
        for key, name in names.items():
            found[key][rows] = model.kept[name]
    return found


def _positions(network, text, points, stride) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Bytes to read (m,) uint8 with the states before them (m, L, D) int8, a piece of each document at a time."""
    starts, sizes = _stretches(text, points * stride)
    # The longest first, so that those still active come first
    order = np.argsort(-sizes, kind="stable")
    starts, sizes = starts[order], sizes[order]
    states = network.zero_states(len(starts))
    for begin in range(0, int(sizes.max(initial=0)), stride):
        active = int(np.count_nonzero(sizes >= begin + stride))
        if not active:
            return
        rows = starts[:active, None] + np.arange(begin, begin + stride)
        tokens, states = text[rows], states[:active]
        if stride > 1:
            _, states = network.forward(np.ascontiguousarray(tokens[:, :-1]), states)
        last = np.ascontiguousarray(tokens[:, -1:])
        yield last[:, 0], states
        _, states = network.forward(last, states)


def _stretches(text: np.ndarray, total: int) -> tuple[np.ndarray, np.ndarray]:
    """Beginnings of documents spread evenly over a text: ``total`` bytes or a few more, if the text has so many.

    returns : starts (n,) int64, of a document's NUL, and sizes (n,) int64
    """
    starts = np.flatnonzero(text == 0)
    sizes = np.diff(np.append(starts, text.size))
    documents = max(1, total // STRETCH)
    while True:
        even = np.unique(np.arange(documents) * len(starts) // documents)
        if len(even) == len(starts) or sizes[even].sum() >= total:
            break
        documents *= 2
    starts, sizes = starts[even], sizes[even]
    low, high = 1, int(sizes.max())  # the shortest stretches that give enough bytes
    while low < high:
        middle = (low + high) // 2
        if np.minimum(sizes, middle).sum() >= total:
            high = middle
        else:
            low = middle + 1
    return starts, np.minimum(sizes, high)
