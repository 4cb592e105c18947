"""Text that tests learn from: a small vocabulary with structure, the same on every machine."""

import numpy as np

from egg.kernels.philox import words

WORDS = (
    "the of and integer evolution member votes weight reads text sign group stream byte state norm gate head "
    "clip shift score credit trace step population seed learns without gradient never floats exactly"
).split()


def documents(count: int, seed: int = 0) -> list[bytes]:
    """Sentences of words drawn by the counter-based generator."""
    drawn = words(seed, 99, np.arange(count), 0, 40)
    return [
        (" ".join(WORDS[int(w) % len(WORDS)] for w in row[: 20 + int(row[0]) % 20]) + ".\n").encode() for row in drawn
    ]


def corpus(count: int, seed: int = 0) -> np.ndarray:
    """(n,) uint8: the documents, each after a NUL."""
    return np.frombuffer(b"".join(b"\0" + d for d in documents(count, seed)), np.uint8)


def unigram_bits(text: np.ndarray) -> float:
    """Entropy of the bytes of the documents, in bits a byte."""
    counts = np.bincount(text[text != 0], minlength=256)
    p = counts[counts > 0] / counts.sum()
    return float(-(p * np.log2(p)).sum())
