"""Several corpora as one, interleaved in proportion to their weights."""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import count
from math import lcm
from pathlib import Path
from typing import Any

from egg.data.corpus import ALL, SPLITS, Corpus, split_path
from egg.data.errors import DataError
from egg.data.source import Contents, Document, Reader, Source

BLOCK = 1 << 20
"""Bytes read at a time from a prepared corpus."""


def parse_mixture(spec: str) -> list[tuple[str, Fraction]] | None:
    """Return the parts of a mixture and their weights; None if `spec` is not a mixture.

    A mixture is `part,part,...`, each part a specification of its own, with `:weight` after it
    unless its weight is 1. A specification that exists as a path is not a mixture.
    Raises DataError for an empty part or a weight of zero.
    """
    if "," not in spec or os.path.exists(os.path.expanduser(spec)):
        return None
    parts = []
    for text in spec.split(","):
        part, weight = _part(text.strip())
        if not part or not (weight := Fraction(weight)):
            raise DataError(
                f"{text.strip()!r} is not a part of a mixture: write {spec!r} as part:weight,"
                "part:weight with weights above zero, such as stdlib:2,book.txt:1"
            )
        parts.append((part, weight))
    return parts


def _part(text: str) -> tuple[str, str]:
    """A part's specification, and its weight as text."""
    found = re.fullmatch(r"(.+):(\d{1,12}(?:\.\d{1,12})?)", text)
    if found and not os.path.exists(os.path.expanduser(text)):
        return found[1].strip(), found[2]
    return text, "1"


def rewritten(spec: str, change: Callable[[str], str]) -> str | None:
    """Return a mixture with `change` applied to each part's specification; None if `spec` is not a mixture.

    It is unchanged if the new parts could not be separated again. Raises DataError as `parse_mixture`.
    """
    before = parse_mixture(spec)
    if before is None:
        return None
    parts = [_part(text.strip()) for text in spec.split(",")]
    changed = ",".join(f"{change(part)}:{weight}" for part, weight in parts)
    after = [(change(part), weight) for part, weight in before]
    return changed if parse_mixture(changed) == after else spec


def mixture_source(spec: str, parts: list[tuple[Corpus, Fraction]]) -> Source:
    """Return the mixture of prepared corpora, each with its weight.

    The training splits are interleaved document by document so that each corpus has its share of
    the bytes at any point, equal weights meaning equal bytes. The mixture ends when every corpus
    has been read once; those that end earlier start again, so that nothing is left out. Validation
    and test concatenate those of the parts. If no part is divided, neither is the mixture: its
    only split is `all`.
    Raises DataError if a part has nothing to train on.
    """
    corpora = [corpus for corpus, _ in parts]
    weights = [weight for _, weight in parts]
    identity = {"kind": "mixture", "parts": [[corpus.fingerprint, str(weight)] for corpus, weight in parts]}
    sources = [split_path(corpus.folder, corpus.training_split) for corpus in corpora]
    undivided = all(corpus.splits == (ALL,) for corpus in corpora)

    def load() -> Contents:
        readers = {ALL if undivided else SPLITS[0]: _interleaved(sources, weights)}
        size = _mixed_size(sources, weights)
        for split in SPLITS[1:]:
            paths = [split_path(c.folder, split) for c in corpora if split in c.splits]
            if paths:
                readers[split] = concatenated(paths)
                size += sum(path.stat().st_size for path in paths)
        return Contents(readers, size)

    name = "+".join(corpus.name for corpus in corpora)
    return Source(name, spec, identity, load)


def parts_of(corpora: list[Corpus]) -> tuple[tuple[str, int], ...]:
    """Return the names of a mixture's parts, each different, and their bytes on disk in its validation split."""
    parts: dict[str, int] = {}
    for corpus in corpora:
        numbered = (f"{corpus.name}-{number}" for number in count(2))
        name = corpus.name if corpus.name not in parts else next(name for name in numbered if name not in parts)
        parts[name] = corpus.split(SPLITS[1]).size if corpus.validation_split else 0
    return tuple(parts.items())


def _mixed_size(paths: list[Path], weights: list[Fraction]) -> int:
    # The corpus that is read only once sets the length.
    longest = max(path.stat().st_size / weight for path, weight in zip(paths, weights, strict=True))
    return int(longest * sum(weights))


def _interleaved(paths: list[Path], weights: list[Fraction]) -> Reader:
    # A byte of a corpus costs 1 / weight, in whole numbers: the next document is from the corpus that spent least.
    numerators = lcm(*(weight.numerator for weight in weights))
    prices = [weight.denominator * (numerators // weight.numerator) for weight in weights]

    def read(skip: int) -> Iterator[Document]:
        streams: list[Any] = [prepared_documents(path) for path in paths]
        spent = [0] * len(paths)
        unread = set(range(len(paths)))
        while unread:
            due = spent.index(min(spent))
            document = next(streams[due], None)
            if document is None:
                unread.discard(due)
                streams[due] = prepared_documents(paths[due])
                continue
            size = 1  # the separator
            if skip:
                skip -= 1
                size += sum(map(len, document))
            else:
                counted = _Counted(document)
                yield counted
                size += counted.size
            spent[due] += size * prices[due]

    return read


class _Counted:
    """An iterator over blocks that counts their bytes."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self.blocks = blocks
        self.size = 0

    def __iter__(self) -> Iterator[bytes]:
        for block in self.blocks:
            self.size += len(block)
            yield block


def concatenated(paths: list[Path]) -> Reader:
    """Return the reader of prepared splits, one after another."""

    def read(skip: int) -> Iterator[Document]:
        for path in paths:
            for document in prepared_documents(path):
                if skip:
                    skip -= 1
                    deque(document, maxlen=0)
                else:
                    yield document

    return read


def prepared_documents(path: Path) -> Iterator[Iterator[bytes]]:
    """Yield the documents of a prepared split, each as its blocks, to be read before the next."""
    with open(path, "rb") as file:
        block, at = file.read(BLOCK), 1  # after the first document's separator

        def document() -> Iterator[bytes]:
            nonlocal block, at
            while block:
                end = block.find(b"\0", at)
                if end >= 0:
                    yield block[at:end]
                    at = end + 1
                    return
                yield block[at:]
                block, at = file.read(BLOCK), 0

        while block:
            yield document()
