"""Simple models of a text, for comparison with a trained one: single bytes, pairs, triples, compressors.

All read documents as the model does, each by itself after a NUL, and predict every byte of them. The
figures are float64 and are only printed.
"""

import lzma
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

FIT_BYTES = 64 << 20  # largest part of the training text to count: a second's work
PIECE = 1 << 20  # bytes counted at a time, which bounds memory


@dataclass(frozen=True)
class Baselines:
    """Bits per byte of a text."""

    unigram: float
    """By the frequencies of bytes in the training text."""
    bigram: float
    """By the byte before, and the frequencies of pairs in the training text."""
    gzip: float
    """After gzip -9 of the text's documents end to end, without the training text."""
    fit_bytes: int
    """Bytes of the training text that were counted, NULs among them."""


def baselines(training: np.ndarray, text: np.ndarray, limit: int = FIT_BYTES) -> Baselines:
    """Fit on one text, measure on another.

    training, text : (n,) uint8, a NUL before each document; in ``text`` at least one byte is none
    limit : bytes of ``training`` to count; of a longer text, pieces spread evenly over it
    """
    pieces = _pieces(training.size, limit)
    pairs, measured = _pairs(training, pieces), _pairs(text, _pieces(text.size, text.size))
    return Baselines(
        unigram=_bits(measured, np.broadcast_to(unigram(pairs), (256, 256))),
        bigram=_bits(measured, bigram(pairs)),
        gzip=gzip_bits(text),
        fit_bytes=sum(end - begin for begin, end in pieces),
    )


@dataclass(frozen=True)
class StrongBaselines:
    """Bits per byte of a text, by models that take longer than a second."""

    trigram: float
    """By the two bytes before, and the frequencies of triples in the training text."""
    xz: float
    """After xz -9e of the text's documents end to end."""
    zstd: float
    """After zstd -19 of them."""


def strong_baselines(training: np.ndarray, text: np.ndarray, limit: int = FIT_BYTES) -> StrongBaselines:
    """As ``baselines``; needs 400 MB of memory, and a second for each megabyte of ``text``."""
    return StrongBaselines(trigram_bits(training, text, limit), xz_bits(text), zstd_bits(text))


def gzip_bits(text: np.ndarray) -> float:
    """Bits per byte of the documents after gzip -9.

    text : (n,) uint8; NULs are left out
    """
    return _packed_bits(zlib.compressobj(9, wbits=31), text)  # 31: gzip's own header and checksum


def xz_bits(text: np.ndarray) -> float:
    """Bits per byte of the documents after xz -9e, as ``gzip_bits``."""
    return _packed_bits(lzma.LZMACompressor(preset=9 | lzma.PRESET_EXTREME), text)


def zstd_bits(text: np.ndarray) -> float:
    """Bits per byte of the documents after zstd -19, as ``gzip_bits``."""
    import zstandard

    size = int(np.count_nonzero(text))  # known in advance, as the size of a file is to the program
    packer = zstandard.ZstdCompressor(level=19, write_checksum=True)
    return _packed_bits(packer.compressobj(size=size), text)


def _packed_bits(packer, text: np.ndarray) -> float:
    size = packed = 0
    for begin, end in _pieces(text.size, text.size):
        piece = text[begin:end]
        piece = piece[piece != 0].tobytes()
        size, packed = size + len(piece), packed + len(packer.compress(piece))
    return 8 * (packed + len(packer.flush())) / size


def trigram_bits(training: np.ndarray, text: np.ndarray, limit: int = FIT_BYTES) -> float:
    """Bits per byte by frequencies of triples, interpolated with the bigram as the bigram is with the unigram.

    training, text : (n,) uint8, a NUL before each document; in ``text`` at least one byte is none
    limit : bytes of ``training`` to count, as for ``baselines``
    """
    pieces = _pieces(training.size, limit)
    below = bigram(_pairs(training, pieces))
    counts, measured = np.zeros(1 << 24, np.int32), np.zeros(1 << 24, np.int32)
    for keys in _triples(training, pieces):
        _count(counts, keys)
    for keys in _triples(text, _pieces(text.size, text.size)):
        _count(measured, keys)
    contexts = counts.reshape(1 << 16, 256)
    followed = contexts.sum(1, dtype=np.int64)
    kinds = np.maximum(np.count_nonzero(contexts, axis=1), 1)
    seen = np.flatnonzero(measured)
    context, pair = seen >> 8, seen & 0xFFFF
    numerator = counts[seen] + kinds[context] * below.ravel()[pair]
    bits = -np.log2(numerator / (followed + kinds)[context])
    return float((measured[seen] * bits).sum() / measured.sum(dtype=np.int64))


def _triples(text: np.ndarray, pieces: list[tuple[int, int]]) -> Iterator[np.ndarray]:
    """For each piece, first << 16 | second << 8 | third for its bytes other than NULs.

    Where ``second`` is the document's NUL, ``first`` is a NUL as well, as the byte before belongs to another document.
    """
    for begin, end in pieces:
        last = text[begin:end].astype(np.int32)
        before = np.zeros((2, len(last)), np.int32)
        for back in (1, 2):
            earlier = text[max(0, begin - back) : max(0, end - back)]
            before[back - 1, len(last) - len(earlier) :] = earlier
        second, first = before
        keys = (first * (second != 0) << 16) | second << 8 | last
        yield keys[last != 0]


def _count(counts: np.ndarray, keys: np.ndarray) -> None:
    """Add one to ``counts`` for each key; sorted, twice as fast as in any order, as ``counts`` fits no cache."""
    ordered = np.sort(keys)
    first = np.flatnonzero(np.diff(ordered, prepend=-1))
    counts[ordered[first]] += np.diff(first, append=ordered.size)


def _pairs(text: np.ndarray, pieces: list[tuple[int, int]]) -> np.ndarray:
    counts = np.zeros((256, 256), np.int64)
    for begin, end in pieces:
        counts += pair_counts(text[max(0, begin - 1) : end])
    return counts


def pair_counts(text: np.ndarray) -> np.ndarray:
    """How often each byte follows each; NULs have successors, but are never one.

    text : (n,) uint8
    returns : (256, 256) int64, row: the byte before, column: the byte
    """
    pairs = text[:-1].astype(np.int64) << 8 | text[1:]
    counts = np.bincount(pairs, minlength=1 << 16).reshape(256, 256)
    counts[:, 0] = 0
    return counts


def unigram(pairs: np.ndarray) -> np.ndarray:
    """(256,) float64: the probability of each byte, with one added to every count but the NUL's."""
    counts = pairs.sum(0) + 1
    counts[0] = 0
    return counts / counts.sum()


def bigram(pairs: np.ndarray) -> np.ndarray:
    """(256, 256) float64: the probability of each byte after each, by Witten and Bell's interpolation.

    A byte that T different bytes were seen to follow, n times in all, takes T / (n + T) of its
    successor's probability from the unigram: the share of new pairs so far. A byte never seen
    takes all of it.
    Source: Witten and Bell, The zero-frequency problem, IEEE Trans. Inf. Theory 37 (4), 1991, method C.
    """
    followed = pairs.sum(1, keepdims=True)
    kinds = np.maximum(np.count_nonzero(pairs, axis=1, keepdims=True), 1)
    return (pairs + kinds * unigram(pairs)) / (followed + kinds)


def _bits(counts: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean surprise in bits of the counted bytes."""
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
