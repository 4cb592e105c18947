"""Figures of a prepared corpus."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from egg.data.corpus import Corpus, open_file, split_path
from egg.data.errors import DataError

BLOCK = 1 << 20
"""Bytes counted or sampled at a time."""

SAMPLE_BLOCKS = 16
"""Equally spaced blocks that gzip's figure is measured on."""


@dataclass(frozen=True)
class SplitDescription:
    """Figures of one split."""

    name: str
    """Name of the split."""
    documents: int
    """Number of documents."""
    bytes: int
    """Bytes of the documents, separators not counted."""
    empty_documents: int
    """Documents of the source that were left out because they were empty."""
    nuls_removed: int
    """NULs dropped inside documents."""
    unigram_bits: float
    """Entropy of single bytes in bits per byte, over the whole split with its separators."""
    gzip_bits: float
    """Bits per byte after gzip -9, over a sample of the split."""
    sample_bytes: int
    """Size of that sample: sixteen equally spaced blocks of a mebibyte, or the whole split."""


@dataclass(frozen=True)
class Description:
    """Figures of a corpus."""

    name: str
    """Short name of the corpus."""
    spec: str
    """The specification it was prepared from."""
    fingerprint: str
    """SHA-256 of the corpus, in hexadecimal."""
    folder: Path
    """The folder in the cache."""
    splits: tuple[SplitDescription, ...]
    """One description per split."""


def describe(corpus: Corpus) -> Description:
    """Return the figures of a corpus, which is read whole; raises DataError if it cannot be read."""
    return Description(
        name=corpus.name,
        spec=corpus.spec,
        fingerprint=corpus.fingerprint,
        folder=corpus.folder,
        splits=tuple(_describe_split(corpus, name) for name in corpus.splits),
    )


def _describe_split(corpus: Corpus, name: str) -> SplitDescription:
    figures = corpus.manifest["splits"][name]
    path = split_path(corpus.folder, name)
    counts = np.zeros(256, np.int64)
    sample = bytearray()
    try:
        # Read, not mapped: mapped pages would count as this process's memory.
        with open_file(path) as file:
            while block := file.read(BLOCK):
                counts += np.bincount(np.frombuffer(block, np.uint8), minlength=256)
            for position in _sample_positions(figures["size"]):
                file.seek(position)
                sample += file.read(BLOCK)
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror}): prepare it again") from error
    return SplitDescription(
        name=name,
        documents=figures["documents"],
        bytes=figures["bytes"],
        empty_documents=figures["empty_documents"],
        nuls_removed=figures["nuls_removed"],
        unigram_bits=_entropy(counts),
        gzip_bits=8 * len(gzip.compress(bytes(sample), 9, mtime=0)) / len(sample),
        sample_bytes=len(sample),
    )


def _sample_positions(size: int) -> list[int]:
    if size <= SAMPLE_BLOCKS * BLOCK:
        return list(range(0, size, BLOCK))
    return [(size - BLOCK) * block // (SAMPLE_BLOCKS - 1) for block in range(SAMPLE_BLOCKS)]


def _entropy(counts: np.ndarray) -> float:
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log2(shares)).sum())
