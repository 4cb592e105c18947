"""Exact bits per byte of a text, each document by itself, with figures that no batching changes.

A document begins with a NUL, which resets the state, so that whole documents laid end to end are
read as if each were alone. They are spread over lanes of about equal length, read side by side.
"""

import heapq
import math
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache

import numpy as np

from egg.errors import EggError
from kernels.arithmetic import SIXTEENTHS, exp2_table, floor_log2
from kernels.backend import Backend
from kernels.layout import Shape

LANES = 256  # documents read side by side
PIECE = 256  # bytes read of each before their logits are scored
BATCH = 1 << 24  # bytes of text laid out in lanes at a time, which bounds memory
ROWS = 512  # logits scored at a time: their 1 MB of float64 stay in the cache
SAMPLED_DOCUMENTS = 16  # that a sample has at the least, if the text has so many
FRACTION_BITS = 44  # of a surprise, which is below 2**5 bits: ROWS of them are below 2**58


@dataclass(frozen=True)
class Evaluation:
    """What a model makes of a text."""

    bits_per_byte: float
    """Mean of -log2 softmax(logits / 16) of the bytes, from float64."""
    integer_bits_per_byte: float
    """Mean of the integer score, in bits; its floors make it read about 0.03 too good."""
    documents: int
    """Documents read, each from state zero."""
    bytes: int
    """Bytes predicted: every byte of every document."""
    seconds: float
    """Time it took."""

    @property
    def byte_perplexity(self) -> float:
        """2 to the bits per byte: equally likely bytes that would be as hard to guess."""
        return 2.0**self.bits_per_byte


def evaluate(
    backend: Backend, shape: Shape, weights: np.ndarray, text: np.ndarray, *, lanes: int = LANES
) -> Evaluation:
    """Score every byte of every document with unperturbed weights.

    weights : (parameters,) int8
    text : (n,) uint8, a NUL before each document and none inside
    lanes : documents read side by side; changes the speed alone
    Raises EggError for a text with no bytes to predict.
    """
    began = time.perf_counter()
    model = backend.prepare(shape, weights)
    totals, documents = np.zeros(3, object), 0  # Python's integers: exact, whatever the size
    # While the model reads a piece, another thread scores the one before.
    with ThreadPoolExecutor(1) as scorer:
        waiting = deque()
        for starts, ends in _batches(text):
            documents += len(starts)
            for logits, targets in _read(backend, model, shape, text, starts, ends, lanes):
                waiting.append(scorer.submit(_score, logits, targets))
                if len(waiting) > 2:
                    totals += waiting.popleft().result()
        totals += sum((piece.result() for piece in waiting), np.zeros(3, object))
    surprise, score, size = totals
    if not size:
        raise EggError("there is no byte to evaluate: every document of the text is empty")
    return Evaluation(
        surprise / (size << FRACTION_BITS),  # division of integers rounds once, correctly
        -score / (SIXTEENTHS * size),
        documents,
        size,
        time.perf_counter() - began,
    )


def sample(text: np.ndarray, limit: int) -> np.ndarray:
    """Documents spread evenly over a text, about ``limit`` bytes of them; 0 is all.

    Of a long document only the beginning is taken, so that many documents are heard, side by side.

    text : (n,) uint8, a NUL before each document
    returns : (m,) uint8, laid out in the same way; equal calls give equal documents
    """
    if not limit or text.size <= limit:
        return text
    longest = 1 + max(1, limit // SAMPLED_DOCUMENTS)
    spans = [
        (start, min(end, start + longest))
        for starts, ends in _batches(text)
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True)
    ]
    stride = max(1, round(sum(end - start for start, end in spans) / limit))
    return np.concatenate([text[start:end] for start, end in spans[stride // 2 :: stride]])


def surprises(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """-log2 softmax(logits / 16) of the targets, in bits.

    logits : (n, 256) int8 in sixteenths of a bit
    targets : (n,) uint8
    returns : (n,) float64; a row's value depends on nothing but the row
    """
    powers = _exp2().take(logits.view(np.uint8))
    # Halves are added to halves: the same order for every row, on every machine.
    half = powers.shape[1] // 2
    while half:
        powers[:, :half] += powers[:, half : 2 * half]
        half //= 2
    chosen = np.take_along_axis(logits, targets[:, None].astype(np.intp), 1)[:, 0]
    # math.log2, one by one: a vectorised logarithm may differ between an array's body and its tail.
    logarithms = np.array([math.log2(v) for v in powers[:, 0].tolist()], np.float64)
    return logarithms - chosen / 16.0


def scores(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The integer log-likelihood of the targets, as ``kernels.reference.scores`` defines it, faster.

    logits : (n, 256) int8 in sixteenths of a bit
    targets : (n,) uint8
    returns : (n,) int32 in sixteenths of a bit
    """
    biased = logits.view(np.uint8) ^ np.uint8(0x80)  # logit + 128
    total = exp2_table().take(biased).sum(-1, dtype=np.int32)  # < 2**28
    target = np.take_along_axis(biased, targets[:, None].astype(np.intp), 1)[:, 0]
    return (target - floor_log2(total, SIXTEENTHS)).astype(np.int32)


@cache
def _exp2() -> np.ndarray:
    """(256,) float64: 2**(l / 16) at the unsigned byte of l, so that int8 logits index it as they are."""
    return np.array([2.0 ** (int(b) / 16) for b in np.arange(256).astype(np.int8)])


def _batches(text: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Starts and ends of whole documents, about BATCH bytes of them at a time, NULs included.

    yields : (documents,) int64 each; the byte at a start is the document's NUL
    """
    if text.size and text[0] != 0:
        raise EggError("the text does not begin with a NUL: prepare the data again")
    begin, starts = 0, np.empty(0, np.int64)
    while begin < text.size:
        end = min(begin + BATCH, text.size)
        found = np.flatnonzero(text[begin:end] == 0) + begin
        starts, begin = np.concatenate([starts, found]), end
        if begin == text.size:
            yield starts, np.append(starts[1:], text.size)
        elif len(starts) > 1:  # the last document goes on in the next stretch
            yield starts[:-1], starts[1:]
            starts = starts[-1:]


def _read(backend, model, shape, text, starts, ends, lanes):
    """Feed documents through the model, side by side.

    yields : logits (active lanes, PIECE, 256) int8 and the next bytes (active lanes, PIECE) uint8,
        where a NUL stands for no byte to predict
    """
    rows = _lanes(ends - starts, lanes)
    lengths = np.array([int((ends - starts)[row].sum()) for row in rows])
    longest = int(lengths.max())
    states = np.zeros((len(rows), shape.num_layers, shape.hidden_size), np.int8)
    tokens = np.zeros((len(rows), longest + 1), np.uint8)  # the last byte's target is a NUL
    for lane, row in enumerate(rows):
        tokens[lane, : lengths[lane]] = np.concatenate([text[starts[i] : ends[i]] for i in row])
    for begin in range(0, longest, PIECE):
        active = int(np.count_nonzero(lengths > begin))  # the lanes are sorted, longest first
        targets = tokens[:active, begin + 1 : begin + 1 + PIECE]
        inputs = np.ascontiguousarray(tokens[:active, begin : begin + targets.shape[1]])
        logits, states = backend.forward(model, inputs, states[:active])
        yield logits, targets


def _lanes(sizes: np.ndarray, lanes: int) -> list[list[int]]:
    """Documents given to lanes, the longest first, each to the shortest lane; longest lane first."""
    heap = [(0, lane) for lane in range(min(lanes, len(sizes)))]
    rows = [[] for _ in heap]
    for document in np.argsort(-sizes, kind="stable").tolist():
        length, lane = heap[0]
        rows[lane].append(document)
        heapq.heapreplace(heap, (length + int(sizes[document]), lane))
    return [rows[lane] for _, lane in sorted(heap, key=lambda item: (-item[0], item[1]))]


def _score(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """(3,) integers: surprise in 2**-FRACTION_BITS bit, score in sixteenths of a bit, and bytes."""
    counted = targets != 0
    logits, targets = logits[counted], targets[counted]
    totals = np.array([0, 0, len(targets)], object)
    for at in range(0, len(targets), ROWS):
        rows, bytes_ = logits[at : at + ROWS], targets[at : at + ROWS]
        fixed = np.rint(np.ldexp(surprises(rows, bytes_), FRACTION_BITS)).astype(np.int64)
        totals += [int(fixed.sum()), int(scores(rows, bytes_).sum(dtype=np.int64)), 0]
    return totals
