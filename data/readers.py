"""Documents from single files: text, JSONL and Parquet, the first two possibly compressed."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from egg.data.errors import DataError
from egg.data.looks import HEAD, refuse_unless_text
from egg.data.parquet import parquet_documents, parquet_size
from egg.data.source import Document

BLOCK = 1 << 20
"""Bytes read at a time."""

ZSTD_BLOCK = 1 << 10
"""Compressed bytes taken at a time. Four of them can become a block of 128 KiB: at most 32 MiB."""

ZSTD_WINDOW = 1 << 27
"""Largest window of a Zstandard frame, which is kept in memory; the default limit of the program zstd."""

LINE = 1 << 28
"""Largest line of JSONL, in bytes."""

JSONL = (".jsonl", ".jsonl.gz", ".jsonl.zst")


def is_table(path: str | Path) -> bool:
    """Tell from its name whether a file holds many documents, one per row."""
    return str(path).lower().endswith((".parquet", *JSONL))


def documents_of(path: Path, column: str, skip: int) -> tuple[int, Iterator[Document]]:
    """Return how many of `skip` documents remain to be skipped after this file, and the other documents.

    Raises DataError, here or while iterating, for a file that cannot be read.
    """
    name = path.name.lower()
    if name.endswith(".parquet"):
        return parquet_documents(path, column, skip)
    if name.endswith(JSONL):
        lines = _lines(path)
        skipped = sum(1 for _ in islice(lines, skip))
        return skip - skipped, _json_documents(path, column, lines)
    if skip:
        return skip - 1, iter(())
    return 0, iter([blocks_of(path)])


def check_text(path: Path) -> None:
    """Raise DataError if a file of text or JSONL looks like something else, or cannot be read."""
    if path.name.lower().endswith(".parquet"):
        return
    head = b""
    for block in blocks_of(path):
        head += block[:HEAD]
        if len(head) >= HEAD:
            break
    refuse_unless_text(path, head[:HEAD], jsonl=is_table(path))


def size_hint(files: list[Path], column: str) -> int | None:
    """Return about how many bytes all documents have; None if some file is compressed.

    Raises DataError for a file that cannot be read.
    """
    if any(file.name.lower().endswith((".gz", ".zst")) for file in files):
        return None
    return sum(
        parquet_size(file, column) if file.name.lower().endswith(".parquet") else file.stat().st_size + 1
        for file in files
    )


def blocks_of(path: Path) -> Iterator[bytes]:
    """Yield a file's bytes, decompressed according to its name, in whatever encoding they are.

    Raises DataError for a file that cannot be read or is truncated.
    """
    suffix = path.suffix.lower()
    try:
        if suffix == ".zst":
            yield from _zstd_blocks(path)
            return
        opened: Callable = gzip.open if suffix == ".gz" else open
        with opened(path, "rb") as file:
            while block := file.read(BLOCK):
                yield block
    except (OSError, EOFError, zlib.error) as error:
        raise unreadable(path, getattr(error, "strerror", None) or error) from error


def _zstd_blocks(path: Path) -> Iterator[bytes]:
    try:
        import zstandard
    except ImportError as error:
        raise unreadable(path, "the package zstandard is not installed") from error
    decompressor = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW)
    frame = None  # a file may hold several frames in sequence
    try:
        with open(path, "rb") as file:
            while raw := file.read(ZSTD_BLOCK):  # buffered
                while raw:
                    frame = frame or decompressor.decompressobj()
                    yield frame.decompress(raw)
                    raw = b""
                    if frame.eof:
                        raw, frame = frame.unused_data, None
    except zstandard.ZstdError as error:
        raise unreadable(path, error) from error
    if frame is not None:
        raise unreadable(path, "it ends in the middle of its compressed data")


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the lines that are not blank, with their numbers from 1."""
    number, size = 1, 0
    parts: list[bytes] = []
    for block in blocks_of(path):
        head, *rest = block.split(b"\n")
        parts.append(head)
        size = len(rest[-1]) if rest else size + len(head)
        if size > LINE:
            raise unreadable(path, f"line {number + len(rest)} is longer than {LINE >> 20} MiB")
        for part in rest:
            line = b"".join(parts)
            parts = [part]
            if not line.isspace() and line:
                yield number, line
            number += 1
    line = b"".join(parts)
    if line and not line.isspace():
        yield number, line


def _json_documents(path: Path, column: str, lines: Iterator[tuple[int, bytes]]) -> Iterator[bytes]:
    for number, line in lines:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise unreadable(path, f"line {number} is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise unreadable(path, f"line {number} is not a JSON object")
        if column not in row:
            raise DataError(
                f"line {number} of {path} has no key {column!r}: choose one of {', '.join(row)} with --data-column"
            )
        text = row[column]
        if text is not None and not isinstance(text, str):
            raise DataError(
                f"{column!r} in line {number} of {path} is not text: choose another of "
                f"{', '.join(row)} with --data-column"
            )
        # JSON can express half a surrogate pair, UTF-8 cannot.
        yield (text or "").encode("utf-8", errors="replace")


def unreadable(path: Path, reason: object) -> DataError:
    """Return the error that says why a file cannot be read."""
    return DataError(f"cannot read {path} ({reason}): repair it, or leave it out")
