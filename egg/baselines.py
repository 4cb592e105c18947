"""What simple models make of a text, to hold a trained one against: single bytes, pairs of bytes, gzip.

All read documents as the model does, each by itself after a NUL, and predict every byte of them. The
figures are of float64 and are printed, nothing more.
"""

import zlib
from dataclasses import dataclass

import numpy as np

FIT_BYTES = 64 << 20  # of the training text that are counted at the most: a second's work
PIECE = 1 << 20  # bytes counted at a time, which bounds memory


@dataclass(frozen=True)
class Baselines:
    """Bits per byte of a text."""

    unigram: float
    """By how frequent each byte is in the training text."""
    bigram: float
    """By the byte before, and how frequent pairs are there."""
    gzip: float
    """After gzip -9 of the text's documents end to end, which knows no other text."""
    fit_bytes: int
    """Bytes of the training text that were counted, NULs among them."""


def baselines(training: np.ndarray, text: np.ndarray, limit: int = FIT_BYTES) -> Baselines:
    """Fit on one text, measure on another.

    training, text : (n,) uint8, a NUL before each document; in ``text`` at least one byte is none
    limit : bytes of ``training`` to count; of a longer one, pieces spread evenly over it
    """
    pieces = _pieces(training.size, limit)
    pairs, measured = _pairs(training, pieces), _pairs(text, _pieces(text.size, text.size))
    return Baselines(
        unigram=_bits(measured, np.broadcast_to(unigram(pairs), (256, 256))),
        bigram=_bits(measured, bigram(pairs)),
        gzip=gzip_bits(text),
        fit_bytes=sum(end - begin for begin, end in pieces),
    )


def gzip_bits(text: np.ndarray) -> float:
    """Bits per byte of the documents after gzip -9.

    text : (n,) uint8; NULs are left out
    """
    packer = zlib.compressobj(9, wbits=31)  # 31: gzip's own header and checksum
    size = packed = 0
    for begin, end in _pieces(text.size, text.size):
        piece = text[begin:end]
        piece = piece[piece != 0].tobytes()
        size, packed = size + len(piece), packed + len(packer.compress(piece))
    return 8 * (packed + len(packer.flush())) / size


def _pairs(text: np.ndarray, pieces: list[tuple[int, int]]) -> np.ndarray:
    counts = np.zeros((256, 256), np.int64)
    for begin, end in pieces:
        counts += pair_counts(text[max(0, begin - 1) : end])
    return counts


def pair_counts(text: np.ndarray) -> np.ndarray:
    """How often each byte follows each; NULs are followed, but follow nothing.

    text : (n,) uint8
    returns : (256, 256) int64, row: the byte before, column: the byte
    """
    pairs = text[:-1].astype(np.int64) << 8 | text[1:]
    counts = np.bincount(pairs, minlength=1 << 16).reshape(256, 256)
    counts[:, 0] = 0
    return counts


def unigram(pairs: np.ndarray) -> np.ndarray:
    """(256,) float64: the probability of each byte, one added to every count but the NUL's."""
    counts = pairs.sum(0) + 1
    counts[0] = 0
    return counts / counts.sum()


def bigram(pairs: np.ndarray) -> np.ndarray:
    """(256, 256) float64: the probability of each byte after each, by Witten and Bell's interpolation.

    A byte that T different ones were seen to follow, n times in all, takes T / (n + T) of its
    successor's probability from the unigram: the share of new pairs seen so far. A byte never
    seen takes all.
    Source: Witten and Bell, The zero-frequency problem, IEEE Trans. Inf. Theory 37 (4), 1991, method C.
    """
    followed = pairs.sum(1, keepdims=True)
    kinds = np.maximum(np.count_nonzero(pairs, axis=1, keepdims=True), 1)
    return (pairs + kinds * unigram(pairs)) / (followed + kinds)


def _bits(counts: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean surprise in bits of what was counted."""
    seen = counts > 0
    return float(-(counts[seen] * np.log2(probabilities[seen])).sum() / counts.sum())


def _pieces(size: int, limit: int) -> list[tuple[int, int]]:
    """Where pieces of a text begin and end: all of it, or evenly spread ones that make up the limit."""
    if size <= limit:
        starts = range(0, size, PIECE)
    else:
        count = max(1, limit // PIECE)
        starts = [(size - PIECE) * i // max(1, count - 1) for i in range(count)]
    return [(start, min(start + PIECE, size)) for start in starts]
