"""Exact bits per byte of a text, each document by itself; batching changes no figure.

A document begins with a NUL, which resets the state, so that whole documents laid end to end are
read as if each were alone. They are spread over lanes of about equal length, read side by side.
"""

import heapq
import math
import re
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from egg.errors import EggError
from egg.kernels.arithmetic import SIXTEENTHS, SURPRISE_BITS, VOCABULARY, exp2_table, floor_log2
from egg.kernels.backend import Likelihoods
from egg.kernels.reference import shares

if TYPE_CHECKING:
    from egg.model.network import Network

LANES = 256  # documents read side by side
PIECE = 256  # bytes read of each before their logits are scored
BATCH = 1 << 24  # bytes of text laid out in lanes at a time, which bounds memory
ROWS = 1024  # surprises taken at a time: between them NumPy lets other threads have the interpreter
SAMPLED_DOCUMENTS = 16  # least number in a sample, if the text has so many
FRACTION_BITS = 44  # of a surprise, which is below 2**5 bits: ROWS of them are below 2**60
_WHITE = re.compile(r"\s+")


@dataclass(frozen=True)
class Evaluation:
    """The score of a text."""

    bits_per_byte: float
    """Mean of -log2 softmax(logits / 16) of the bytes, from float64."""
    integer_bits_per_byte: float
    """Mean of the integer score, in bits; its floors make it about 0.03 too low."""
    documents: int
    """Documents read, each from state zero."""
    bytes: int
    """Bytes predicted: every byte of every document."""
    seconds: float
    """Duration of the evaluation."""

    @property
    def byte_perplexity(self) -> float:
        """2 to the bits per byte: the number of equally likely bytes that would be as hard to predict."""
        return 2.0**self.bits_per_byte

    def word_perplexity(self, words: int) -> float:
        """2 to the bits per word, for the number of words that ``count_words`` finds; inf beyond 2**1024."""
        bits = self.bits_per_byte * self.bytes / words
        return 2.0**bits if bits < 1024 else math.inf


@dataclass(frozen=True)
class DocumentScore:
    """The score of one document."""

    index: int
    """Its place in the text, from 0."""
    bytes: int
    """Bytes predicted: all of them."""
    surprise: int
    """Sum of -log2 softmax(logits / 16) of its bytes, in 2**-FRACTION_BITS bit."""
    score: int
    """Sum of the integer scores, in sixteenths of a bit."""

    @property
    def bits(self) -> float:
        """Sum of -log2 softmax(logits / 16) of its bytes."""
        return self.surprise / (1 << FRACTION_BITS)

    @property
    def bits_per_byte(self) -> float | None:
        """The mean, exactly that of the document evaluated alone; None if it is empty."""
        return self.surprise / (self.bytes << FRACTION_BITS) if self.bytes else None

    @property
    def integer_bits_per_byte(self) -> float | None:
        """Mean of the integer score, in bits; None if the document is empty."""
        return -self.score / (SIXTEENTHS * self.bytes) if self.bytes else None


def evaluate(
    network: "Network",
    text: np.ndarray,
    *,
    lanes: int = LANES,
    read: Callable[[int], None] | None = None,
    scored: Callable[[DocumentScore], None] | None = None,
) -> Evaluation:
    """Score every byte of every document with unperturbed weights.

    text : (n,) uint8, a NUL before each document and none inside
    lanes : documents read side by side; changes the speed alone
    read : called from time to time with the number of bytes, NULs included, read since the last call
    scored : called with every document's score, in the order of the text
    Raises EggError for a text with no bytes to predict.
    """
    began = time.perf_counter()
    totals, documents = np.zeros(3, object), 0  # Python's integers: exact, whatever the size
    # While the model reads a piece, another thread adds up the one before.
    with ThreadPoolExecutor(1) as scorer:
        for starts, ends in _batches(text):
            per_document = np.zeros((len(starts), 3), object) if scored else None

            def add(piece, size, totals=totals, per_document=per_document):
                totals += _add(piece.result(), per_document)
                if read:
                    read(size)

            waiting = deque()
            for found, targets, numbers, size in _read(network, text, starts, ends, lanes):
                waiting.append((scorer.submit(_sum, found, targets, numbers), size))
                if len(waiting) > 2:
                    add(*waiting.popleft())
            for piece in waiting:
                add(*piece)
            if scored:
                for number, (surprise, score, size) in enumerate(per_document):
                    scored(DocumentScore(documents + number, size, surprise, score))
            documents += len(starts)
    surprise, score, size = totals
    if not size:
        raise EggError("no byte to evaluate: every document of the text is empty")
    return Evaluation(
        surprise / (size << FRACTION_BITS),  # division of integers rounds once, correctly
        -score / (SIXTEENTHS * size),
        documents,
        size,
        time.perf_counter() - began,
    )


def evaluate_parts(
    network: "Network", text: np.ndarray, parts: Mapping[str, np.ndarray], **options
) -> tuple[Evaluation, dict[str, float]]:
    """Score a text, and each of its parts: bits per byte by name.

    text, parts : (n,) uint8 as for ``evaluate``; parts that are the text, laid end to end, are read only once
    options : of ``evaluate``, for the text
    """
    if sum(part.size for part in parts.values()) != text.size:
        return evaluate(network, text, **options), {n: evaluate(network, p).bits_per_byte for n, p in parts.items()}
    scored, documents = options.pop("scored", None), []

    def add(document: DocumentScore) -> None:
        documents.append((document.surprise, document.bytes))
        if scored:
            scored(document)

    evaluation, at, bits = evaluate(network, text, scored=add, **options), 0, {}
    for name, part in parts.items():
        rows = documents[at : (at := at + int(np.count_nonzero(part == 0)))]
        bits[name] = sum(surprise for surprise, _ in rows) / (sum(size for _, size in rows) << FRACTION_BITS)
    return evaluation, bits


def count_words(text: np.ndarray) -> Iterator[int]:
    """Words of each document, as lm-evaluation-harness counts them: the parts between white space.

    White space at the beginning or end of a document adds an empty word; an empty document has one word.

    text : (n,) uint8, a NUL before each document
    Source: lm_eval/tasks/wikitext/preprocess_wikitext.py, len(re.split(r"\\s+", document)).
    """
    for starts, ends in _batches(text):
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
            document = text[start + 1 : end].tobytes().decode(errors="replace")
            yield 1 + sum(1 for _ in _WHITE.finditer(document))


def sample(text: np.ndarray, limit: int) -> np.ndarray:
    """Documents spread evenly over a text, about ``limit`` bytes of them; 0 is all.

    Of a long document only the beginning is taken, so that many documents are read, side by side.

    text : (n,) uint8, a NUL before each document
    returns : (m,) uint8, laid out in the same way; equal arguments give equal documents
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
    stride = min(stride, len(spans))  # at least one document
    return np.concatenate([text[start:end] for start, end in spans[stride // 2 :: stride]])


def surprises(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """-log2 softmax(logits / 16) of the targets, in bits.

    logits : (n, 256) int8 in sixteenths of a bit
    targets : (n,) uint8
    returns : (n,) float64; a row's value depends on nothing but the row
    """
    return _bits(*shares(logits, targets))


def _bits(totals: np.ndarray, below: np.ndarray) -> np.ndarray:
    """(n,) float64 surprises from (n,) ``totals`` and ``below`` of ``egg.kernels.backend.Likelihoods``."""
    # math.log2, one by one: a vectorised logarithm may differ between an array's body and its tail.
    logarithms = np.array([*map(math.log2, np.ldexp(totals.astype(np.float64), -SURPRISE_BITS).tolist())], np.float64)
    return logarithms + below / 16.0


def scores(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The integer log-likelihood of the targets, as ``egg.kernels.reference.scores`` defines it, faster.

    logits : (n, 256) int8 in sixteenths of a bit
    targets : (n,) uint8
    returns : (n,) int32 in sixteenths of a bit
    """
    total = np.take(_integer_exp2(), logits.view(np.uint8)).sum(1, dtype=np.int32)  # < 2**28
    chosen = np.take_along_axis(logits, targets[:, None].astype(np.intp), 1)[:, 0]
    return (chosen + np.int32(128) - floor_log2(total, SIXTEENTHS)).astype(np.int32)


@cache
def _integer_exp2() -> np.ndarray:
    """(256,) int32: the integer table of powers, at the unsigned byte of a logit."""
    return exp2_table()[np.arange(VOCABULARY) ^ 128].astype(np.int32)


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
        elif len(starts) > 1:  # the last document continues in the next stretch
            yield starts[:-1], starts[1:]
            starts = starts[-1:]


def _read(network, text, starts, ends, lanes):
    """Feed documents through the model, side by side.

    yields : likelihoods of the next bytes, these bytes (active lanes, PIECE) uint8, where a NUL stands for
        no byte to predict, the number of the document at each (int32), and how many bytes of the text were read
    """
    rows = [np.array(row, np.int32) for row in _lanes(ends - starts, lanes)]
    lengths = np.array([int((ends - starts)[row].sum()) for row in rows])
    longest = int(lengths.max())
    states = network.zero_states(len(rows))
    tokens = np.zeros((len(rows), longest + 1), np.uint8)  # the last byte's target is a NUL
    for lane, row in enumerate(rows):
        tokens[lane, : lengths[lane]] = np.concatenate([text[starts[i] : ends[i]] for i in row])
    begun = np.full(len(rows), -1)  # documents that each lane has begun, less one
    for begin in range(0, longest, PIECE):
        active = int(np.count_nonzero(lengths > begin))  # the lanes are sorted, longest first
        piece = tokens[:active, begin : begin + 1 + PIECE]
        inputs, targets = piece[:, :-1], piece[:, 1:]
        places = begun[:active, None] + (inputs == 0).cumsum(1)
        numbers = np.empty(inputs.shape, np.int32)
        for lane, place in enumerate(places):  # nothing is predicted beyond a lane's end
            numbers[lane] = rows[lane].take(place, mode="clip")
        begun[:active] = places[:, -1]
        found = network.backend.score(network.prepared, piece, states[:active])
        states = found.states
        size = int(np.minimum(lengths[:active] - begin, targets.shape[1]).sum())
        yield found, targets, numbers, size


def _lanes(sizes: np.ndarray, lanes: int) -> list[list[int]]:
    """Documents given to lanes, the longest first, each to the shortest lane; longest lane first."""
    heap = [(0, lane) for lane in range(min(lanes, len(sizes)))]
    rows = [[] for _ in heap]
    for document in np.argsort(-sizes, kind="stable").tolist():
        length, lane = heap[0]
        rows[lane].append(document)
        heapq.heapreplace(heap, (length + int(sizes[document]), lane))
    return [rows[lane] for _, lane in sorted(heap, key=lambda item: (-item[0], item[1]))]


def _sum(found: Likelihoods, targets: np.ndarray, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums over the stretches of a piece that belong to one document.

    returns : the documents' numbers (n,), and (n, 3) int64: surprise in 2**-FRACTION_BITS bit, score in
        sixteenths of a bit, and bytes
    """
    counted = targets != 0
    totals, below, numbers = found.totals[counted], found.below[counted], numbers[counted]
    sums = np.ones((len(numbers), 3), np.int64)
    if not len(sums):
        return numbers, sums
    for at in range(0, len(sums), ROWS):
        part = slice(at, at + ROWS)
        sums[part, 0] = np.rint(np.ldexp(_bits(totals[part], below[part]), FRACTION_BITS))
    sums[:, 1] = found.scores[counted]
    # A stretch ends with its document, or after ROWS bytes: its sum is below 2**60.
    changes = np.flatnonzero(numbers[1:] != numbers[:-1]) + 1
    firsts = np.union1d(changes, np.arange(0, len(sums), ROWS))
    return numbers[firsts], np.add.reduceat(sums, firsts)


def _add(piece: tuple[np.ndarray, np.ndarray], per_document: np.ndarray | None) -> np.ndarray:
    """(3,) integers: the sums of a piece; each document's are added to its row of ``per_document`` (documents, 3)."""
    numbers, sums = piece
    sums = sums.astype(object)  # Python's integers: the sums of a whole text can exceed int64
    if per_document is not None:
        np.add.at(per_document, numbers, sums)
    return sums.sum(0) if len(sums) else np.zeros(3, object)
