"""The probability of texts, or of their ends, under a model: many side by side, each from its own beginning."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from egg.model.evaluate import FRACTION_BITS, LANES, PIECE, ROWS, scores, surprises

if TYPE_CHECKING:
    from egg.model.network import Network


@dataclass(frozen=True)
class Ending:
    """The score of the end of a text."""

    bits: float
    """Sum of -log2 softmax(logits / 16) of its bytes."""
    greedy: bool
    """Whether each of its bytes is the likeliest, ties going to the lowest byte."""


def score_endings(
    network: "Network", texts: Sequence[tuple[bytes, bytes]], *, read: Callable[[int], None] | None = None
) -> list[Ending]:
    """Score the second part of each text after the first, read from state zero after a NUL.

    texts : a beginning, which may be empty, and the end. A NUL in either resets the state; one in the
        end is predicted like any byte
    read : called from time to time with the number of texts scored since the last call
    A single document after an empty beginning has exactly the bits that ``evaluate`` gives it.
    """
    order = sorted(range(len(texts)), key=lambda i: -len(texts[i][0]) - len(texts[i][1]))
    endings: list[Ending] = [Ending(0.0, True)] * len(texts)
    for first in range(0, len(order), LANES):
        lanes = order[first : first + LANES]
        for i, ending in zip(lanes, _score(network, [texts[i] for i in lanes]), strict=True):
            endings[i] = ending
        if read:
            read(len(lanes))
    return endings


def _score(network: "Network", texts: list[tuple[bytes, bytes]]) -> list[Ending]:
    """Endings of at most LANES texts, the longest first."""
    begins = np.array([len(begin) for begin, _ in texts])
    bits, greedy = [0] * len(texts), np.ones(len(texts), bool)  # bits in 2**-FRACTION_BITS
    whole = [np.frombuffer(b"\0" + begin + end, np.uint8) for begin, end in texts]
    for place, logits, targets, counted in _side_by_side(network, whole):
        counted &= place >= begins[: len(counted), None]
        lanes, rows, chosen = np.nonzero(counted)[0], logits[counted], targets[counted]
        greedy[lanes[rows.argmax(1) != chosen]] = False
        for row in range(0, len(rows), ROWS):
            found = surprises(rows[row : row + ROWS], chosen[row : row + ROWS])
            fixed = np.rint(np.ldexp(found, FRACTION_BITS)).astype(np.int64).tolist()
            for lane, value in zip(lanes[row : row + ROWS].tolist(), fixed, strict=True):
                bits[lane] += value
    return [Ending(b / (1 << FRACTION_BITS), bool(g)) for b, g in zip(bits, greedy, strict=True)]


def score_texts(network: "Network", texts: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The integer score of every byte of texts but their first, each read from state zero.

    texts : (T,) uint8 each, T at least 1
    returns : (T - 1,) int32 each, in sixteenths of a bit
    """
    found = [np.empty(text.size - 1, np.int32) for text in texts]
    order = sorted(range(len(texts)), key=lambda i: -texts[i].size)
    for first in range(0, len(order), LANES):
        lanes = order[first : first + LANES]
        for place, logits, targets, counted in _side_by_side(network, [texts[i] for i in lanes]):
            for lane, (row, logits_of, targets_of) in enumerate(zip(counted, logits, targets, strict=True)):
                found[lanes[lane]][place[row]] = scores(logits_of[row], targets_of[row])
    return found


def _side_by_side(network: "Network", texts: list[np.ndarray]) -> Iterator[tuple[np.ndarray, ...]]:
    """Read texts together, PIECE bytes of each at a time.

    texts : (T,) uint8 each, at most LANES of them, the longest first
    yields : places (k,) int64, logits (active texts, k, 256) int8 after the bytes there, the bytes that came next
        (active texts, k) uint8, and (active texts, k) bool: whether the text has one there
    """
    lengths = np.array([text.size - 1 for text in texts])
    tokens = np.zeros((len(texts), 1 + int(lengths.max())), np.uint8)
    for lane, text in enumerate(texts):
        tokens[lane, : text.size] = text
    states = network.zero_states(len(texts))
    for at in range(0, tokens.shape[1] - 1, PIECE):
        active = int(np.count_nonzero(lengths > at))
        targets = tokens[:active, at + 1 : at + 1 + PIECE]
        inputs = np.ascontiguousarray(tokens[:active, at : at + targets.shape[1]])
        logits, states = network.forward(inputs, states[:active])
        place = np.arange(at, at + targets.shape[1])
        yield place, logits, targets, place < lengths[:active, None]
