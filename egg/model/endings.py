"""How likely a model finds the ends of texts: many side by side, each from its own beginning."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from egg.kernels import Backend, Shape
from egg.model.evaluate import FRACTION_BITS, LANES, PIECE, ROWS, surprises


@dataclass(frozen=True)
class Ending:
    """What a model makes of the end of a text."""

    bits: float
    """Sum of -log2 softmax(logits / 16) of its bytes."""
    greedy: bool
    """Whether each of its bytes is the likeliest, the lowest of equals."""


def score_endings(
    backend: Backend,
    shape: Shape,
    weights: np.ndarray,
    texts: Sequence[tuple[bytes, bytes]],
    *,
    read: Callable[[int], None] | None = None,
) -> list[Ending]:
    """Score the second part of each text after the first, read from state zero after a NUL.

    weights : (parameters,) int8
    texts : a beginning, which may be empty, and the end. A NUL in either resets the state; one in the
        end is predicted like any byte
    read : is told now and then how many more texts are done
    A document alone, after an empty beginning, has the bits that ``evaluate`` gives it, to the last digit.
    """
    model = backend.prepare(shape, weights)
    order = sorted(range(len(texts)), key=lambda i: -len(texts[i][0]) - len(texts[i][1]))
    endings: list[Ending] = [Ending(0.0, True)] * len(texts)
    for first in range(0, len(order), LANES):
        lanes = order[first : first + LANES]
        for i, ending in zip(lanes, _score(backend, model, shape, [texts[i] for i in lanes]), strict=True):
            endings[i] = ending
        if read:
            read(len(lanes))
    return endings


def _score(backend, model, shape, texts: list[tuple[bytes, bytes]]) -> list[Ending]:
    """Endings of at most LANES texts, the longest first."""
    lengths = np.array([len(begin) + len(end) for begin, end in texts])
    begins = np.array([len(begin) for begin, _ in texts])
    tokens = np.zeros((len(texts), 1 + int(lengths.max())), np.uint8)
    for lane, (begin, end) in enumerate(texts):
        tokens[lane, 1 : 1 + lengths[lane]] = np.frombuffer(begin + end, np.uint8)
    states = np.zeros((len(texts), shape.num_layers, shape.hidden_size), np.int8)
    bits, greedy = [0] * len(texts), np.ones(len(texts), bool)  # bits in 2**-FRACTION_BITS
    for at in range(0, tokens.shape[1] - 1, PIECE):
        active = int(np.count_nonzero(lengths > at))
        targets = tokens[:active, at + 1 : at + 1 + PIECE]
        inputs = np.ascontiguousarray(tokens[:active, at : at + targets.shape[1]])
        logits, states = backend.forward(model, inputs, states[:active])
        place = np.arange(at, at + targets.shape[1])
        counted = (place >= begins[:active, None]) & (place < lengths[:active, None])
        lanes, rows, chosen = np.nonzero(counted)[0], logits[counted], targets[counted]
        greedy[lanes[rows.argmax(1) != chosen]] = False
        for row in range(0, len(rows), ROWS):
            found = surprises(rows[row : row + ROWS], chosen[row : row + ROWS])
            fixed = np.rint(np.ldexp(found, FRACTION_BITS)).astype(np.int64).tolist()
            for lane, value in zip(lanes[row : row + ROWS].tolist(), fixed, strict=True):
                bits[lane] += value
    return [Ending(b / (1 << FRACTION_BITS), bool(g)) for b, g in zip(bits, greedy, strict=True)]
