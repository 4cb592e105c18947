"""A corpus without validation text, divided: a fixed share of its training text is held out.

Whole documents are held out by their hash, so that equal documents are on one side, and a document that is added moves
few others. A document that is too large a part of the text is cut into stretches, some of which are held out; what
remains between these are training documents of their own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from egg.data.corpus import SPLITS, Corpus, split_path
from egg.data.errors import DataError
from egg.data.mixture import concatenated, prepared_documents
from egg.data.source import Contents, Document, Reader, Source

RULE = 1
"""Version of the rule below; it is part of the identity."""

HASHES = 1 << 64
"""One more than the largest hash, the first eight bytes of a document's SHA-256."""

MANY = 1 << 18
"""Of more documents than these, those whose hash is below the share of all hashes are held out; of fewer, in the order
of the hashes, those that bring the bytes nearer to the share."""

WHOLE = 1 << 24
"""Bytes of the largest document that is held out whole: it is in memory until its hash is known."""

STRETCHES, LEAST, SHORT, LONG = 16, 32, 1 << 8, 1 << 16
"""At least so many stretches of long documents are held out, each of SHORT to LONG bytes; of little text fewer, and
none of less than LEAST bytes."""


@dataclass(frozen=True)
class Division:
    """What is held out of a text."""

    longest: int
    """Documents of more bytes are long: cut into stretches."""
    chosen: frozenset[int]
    """Other documents are held out if they have one of these hashes."""
    bound: int
    """Or a hash below."""
    stretches: int
    """Number of stretches of long documents that are held out."""
    period: int
    """Bytes of long documents, laid end to end, at whose end a stretch is held out."""
    stretch: int
    """Bytes of a stretch."""


def check_share(share: float) -> None:
    """Raise DataError unless a share can be held out."""
    if not 0 <= share <= 0.5:
        raise DataError(f"--validation-share {share:g}: must be 0 to 0.5, such as 0.05 or 5%")


def division_of(corpus: Corpus, share: float) -> Division | None:
    """Decide what to hold out of a corpus's training text, which is read whole; None if it is too short to be divided.

    share : of its bytes, above 0, at most 0.5

    >>> division_of(open_corpus("letters.txt"), 0.05)  # one document of 2,000 bytes: its last 100
    Division(longest=200, chosen=frozenset(), bound=0, stretches=1, period=2000, stretch=100)
    """
    exact, total = Fraction(str(share)), corpus.bytes(corpus.training_split)
    longest = min(int(min(2 * exact, Fraction(1, 2)) * total), WHOLE)
    few, long = corpus.documents(corpus.training_split) <= MANY, 0
    sizes: dict[int, int] = {}  # hash -> bytes of the document
    copies: dict[int, int] = {}  # hash -> equal documents
    for document in prepared_documents(split_path(corpus.folder, corpus.training_split)):
        size, number = _digest(document)
        if size > longest:
            long += size
        if few:
            sizes[number] = size
            copies[number] = copies.get(number, 0) + 1
    held = {number: size * copies[number] for number, size in sizes.items()}
    chosen = _chosen({number: held[number] for number in sizes if sizes[number] <= longest}, exact)
    bound = 0 if few else int(exact * HASHES)
    target = int(exact * long)
    stretch = min(max(target // STRETCHES, min(target, SHORT)), LONG)
    if stretch >= LEAST:
        stretches = round(Fraction(target, stretch))
        return Division(longest, chosen, bound, stretches, long // stretches, stretch)
    if chosen or bound:
        return Division(longest, chosen, bound, 0, 0, 0)
    # Few and short documents: one of them, though it is more than the share.
    first = min((number for number in sizes if 2 * sizes[number] <= total), default=None)
    if first is None or 2 * held[first] > total:
        return None
    return Division(total // 2, frozenset([first]), 0, 0, 0, 0)


def division_source(corpus: Corpus, share: float) -> Source:
    """Return the source of a corpus whose training text is divided into train and validation.

    share : of its bytes that are held out; loading raises DataError if the text is too short to be divided
    """
    identity = {"kind": "division", "rule": RULE, "of": corpus.fingerprint, "share": share}
    if path := corpus.manifest["source"].get("path"):
        identity["path"] = path  # by which the cache finds it

    def load() -> Contents:
        division = division_of(corpus, share)
        if division is None:
            raise DataError(f"{corpus.spec} is too short to hold out {100 * share:g} %: give --validation-share 0")
        path = split_path(corpus.folder, corpus.training_split)
        readers = {SPLITS[0]: _reader(path, division, held=False), SPLITS[1]: _reader(path, division, held=True)}
        others = [split for split in SPLITS[2:] if split in corpus.splits]
        readers |= {split: concatenated([split_path(corpus.folder, split)]) for split in others}
        paths = [path, *(split_path(corpus.folder, split) for split in others)]
        return Contents(readers, sum(path.stat().st_size for path in paths))

    return Source(corpus.name, corpus.spec, identity, load, f"holding out {100 * share:g} % of")


def _digest(document: Iterator[bytes]) -> tuple[int, int]:
    """A document's size and hash."""
    size, sha256 = 0, hashlib.sha256()
    for block in document:
        size += len(block)
        sha256.update(block)
    return size, int.from_bytes(sha256.digest()[:8], "big")


def _chosen(sizes: dict[int, int], share: Fraction) -> frozenset[int]:
    """The hashes of documents to hold out: in order each that brings their bytes nearer to a share of all.

    sizes : hash -> bytes of all documents that have it
    """
    total, held, chosen = sum(sizes.values()), 0, set()
    for number in sorted(sizes):
        after = held + sizes[number]
        if held + after <= 2 * share * total and after < total:
            held = after
            chosen.add(number)
    return frozenset(chosen)


def _reader(path: Path, division: Division, *, held: bool) -> Reader:
    def read(skip: int) -> Iterator[Document]:
        for is_held, document in _divided(path, division):
            if is_held != held:
                continue
            if skip:
                skip -= 1
            else:
                yield document

    return read


def _divided(path: Path, division: Division) -> Iterator[tuple[bool, Iterator[bytes]]]:
    """Yield all documents, in the order of the text, and whether each is held out; to be read before the next."""
    cutter = _Cutter(division)
    for document in prepared_documents(path):
        head, size = [], 0
        for block in document:
            head.append(block)
            size += len(block)
            if size > division.longest:
                for is_held, blocks in groupby(cutter.cut(_chained(head, document)), itemgetter(0)):
                    yield is_held, (block for _, block in blocks)
                break
        else:
            number = _digest(iter(head))[1]
            yield number in division.chosen or number < division.bound, iter(head)


def _chained(head: list[bytes], rest: Iterator[bytes]) -> Iterator[bytes]:
    yield from head
    yield from rest


class _Cutter:
    """Cuts long documents, laid end to end, where stretches begin and end."""

    def __init__(self, division: Division) -> None:
        self.division = division
        self.at = 0  # bytes of long documents so far
        self.cuts = 0  # cuts so far: after an odd number of them the text is held out

    def cut(self, blocks: Iterator[bytes]) -> Iterator[tuple[bool, bytes]]:
        """Yield a document's bytes again, in blocks that are held out or not, none of them empty."""
        slack, buffer = self.division.stretch // 4, b""
        for block in blocks:
            buffer += block
            while (away := self._away()) + slack <= len(buffer):
                yield from self._take(buffer[: (at := _boundary(buffer, away, slack))])
                self.cuts, buffer = self.cuts + 1, buffer[at:]
            # Up to a byte before the next cut, so that only one at a document's beginning is no byte away.
            at = min(len(buffer), max(0, away - 1))
            yield from self._take(buffer[:at])
            buffer = buffer[at:]
        while buffer:
            cuts = (away := self._away()) < len(buffer)
            at = _boundary(buffer, away, slack) if cuts else len(buffer)
            yield from self._take(buffer[:at])
            self.cuts, buffer = self.cuts + cuts, buffer[at:]

    def _take(self, block: bytes) -> Iterator[tuple[bool, bytes]]:
        if block:
            yield self.cuts % 2 == 1, block
        self.at += len(block)

    def _away(self) -> int:
        """Bytes to where the next cut should be; beyond any text once the last stretch has begun."""
        division, (period, ends) = self.division, divmod(self.cuts, 2)
        if self.cuts >= 2 * division.stretches - 1:
            return HASHES
        return (period + 1) * division.period - (0 if ends else division.stretch) - self.at


def _boundary(buffer: bytes, at: int, slack: int) -> int:
    """The first end of a line from a place on, or of a word, or of a character, within the slack."""
    if at <= 0:  # a document's beginning
        return 0
    for mark in (b"\n", b" "):
        if (found := buffer.find(mark, at - 1, at + slack)) >= 0:
            return found + 1
    return next((i for i in range(at, min(at + 4, len(buffer))) if buffer[i] & 0xC0 != 0x80), at)
