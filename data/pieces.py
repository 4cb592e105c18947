"""Writing one split to disk, piece by piece, so that an interruption loses at most one piece.

After every piece of `PIECE` bytes the split's file is flushed and one line is added to its
journal: how far the split has come, in documents read and bytes written, and the SHA-256 of all
its bytes so far. A later attempt verifies the file against the journal, cuts off whatever came
after the last whole piece, and continues with the next document.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from egg.data.cache import writing
from egg.data.corpus import MAX_JSON, journal_path, open_file, split_path
from egg.data.source import Document

PIECE = 64 << 20
"""Bytes between two lines of a journal."""

BLOCK = 1 << 20
"""Bytes collected before they are hashed and written."""

Report = Callable[[str, int, int], None]

SEPARATOR = b"\0"
"""Precedes every document; removed inside documents, so that it means nothing else."""


@dataclass
class Counts:
    """The progress of a split."""

    read: int = 0
    """Documents taken from the source, empty ones among them."""
    documents: int = 0
    """Documents written."""
    empty_documents: int = 0
    """Documents left out because they had no bytes, or none but NULs."""
    nuls_removed: int = 0
    """NULs dropped inside documents."""
    size: int = 0
    """Bytes on disk, separators among them."""


def read_journal(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a journal up to the first that is incomplete or invalid."""
    entries: list[dict[str, Any]] = []
    if path.exists():
        with open_file(path) as file:
            while line := file.readline(MAX_JSON):
                try:
                    entry = json.loads(line)
                    counts = Counts(**entry["counts"])
                    before = entries[-1]["counts"]["size"] if entries else 0
                    numbers = all(type(number) is int and number >= 0 for number in asdict(counts).values())
                    if not numbers or counts.size < before or type(entry["complete"]) is not bool:
                        break
                    entry["sha256"].encode()
                    entry["counts"] = asdict(counts)
                except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                    break
                entries.append(entry)
    return entries


class SplitWriter:
    """Writes the documents of one split into `folder`; a context manager.

    `report` is called after every block with the split, the bytes added, and the split's number of
    documents so far. Every method raises DataError if it cannot write.
    """

    def __init__(self, folder: Path, split: str, report: Report) -> None:
        self.split = split
        self.path = split_path(folder, split)
        self.journal = journal_path(folder, split)
        self.report = report
        self.counts = Counts()
        self.sha256 = hashlib.sha256()
        self.buffer = bytearray()
        self.journaled = 0  # bytes covered by the journal
        self.complete = False
        with writing(self.path):
            mode = "r+b" if self.path.exists() else "w+b"
            self.file = open_file(self.path, mode)  # __exit__ closes it
        try:
            with writing(self.path):
                self._resume()
        except BaseException:
            self.file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with writing(self.path):  # closing may write buffered bytes
            self.file.close()

    def add(self, document: Document) -> None:
        """Write one document after a NUL, unless it is empty."""
        empty = True
        for block in (document,) if isinstance(document, bytes) else document:
            nuls = block.count(SEPARATOR)
            if nuls:
                block = block.replace(SEPARATOR, b"")
                self.counts.nuls_removed += nuls
            if block:
                if empty:
                    self.buffer += SEPARATOR
                    empty = False
                self.buffer += block
                if len(self.buffer) >= BLOCK:
                    self._write()
        self.counts.read += 1
        if empty:
            self.counts.empty_documents += 1
        else:
            self.counts.documents += 1
        if self.counts.size + len(self.buffer) - self.journaled >= PIECE:
            self._write()
            self._sync()

    def finish(self) -> None:
        """Write the rest; the split is then whole."""
        self.complete = True
        self._write()
        self._sync()

    def figures(self) -> dict[str, Any]:
        """Return this split's entry in the manifest."""
        figures = asdict(self.counts)
        del figures["read"]
        figures["bytes"] = figures["size"] - figures["documents"]
        figures["sha256"] = self.sha256.hexdigest()
        return figures

    def _write(self) -> None:
        with writing(self.path):
            self.file.write(self.buffer)
        self.sha256.update(self.buffer)
        self.counts.size += len(self.buffer)
        self.report(self.split, len(self.buffer), self.counts.documents)
        self.buffer.clear()

    def _sync(self) -> None:
        # The bytes first, then the line that vouches for them.
        with writing(self.path):
            self.file.flush()
            os.fsync(self.file.fileno())
            with open_file(self.journal, "ab") as journal:
                journal.write(json.dumps(self._entry()).encode() + b"\n")
                journal.flush()
                os.fsync(journal.fileno())
        self.journaled = self.counts.size

    def _entry(self) -> dict[str, Any]:
        return {"counts": asdict(self.counts), "sha256": self.sha256.hexdigest(), "complete": self.complete}

    def _resume(self) -> None:
        """Keep the whole pieces of an earlier attempt; cut off the rest."""
        entries = read_journal(self.journal)
        good = 0
        for entry in entries:
            sha256 = self.sha256.copy()
            left = entry["counts"]["size"] - self.counts.size
            while left:
                block = self.file.read(min(left, BLOCK))
                if not block:
                    break
                sha256.update(block)
                left -= len(block)
            if left or sha256.hexdigest() != entry["sha256"]:
                break
            good += 1
            self.sha256 = sha256
            self.counts = Counts(**entry["counts"])
            self.complete = entry["complete"]
        self.journaled = self.counts.size
        self.file.truncate(self.journaled)
        self.file.seek(self.journaled)
        lines = b"".join(json.dumps(entry).encode() + b"\n" for entry in entries[:good])
        self.journal.write_bytes(lines)
        if self.journaled:
            self.report(self.split, self.journaled, self.counts.documents)
