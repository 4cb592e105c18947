"""Documents out of Parquet files: one column of text, a few rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from egg.data.errors import DataError

BUFFER = 1 << 20
"""Bytes read at a time."""

ROWS = 16
"""Rows decoded at a time. A value that many rows share is once in the file, but once for each row in memory."""

CLAIM, RATIO = 1 << 28, 256
"""A column of a row group that claims more than CLAIM bytes, and more than RATIO times its bytes in the file, is
refused: it would be unpacked in memory."""


def parquet_size(path: Path, column: str) -> int:
    """Return about how many bytes a column's documents have, separators included.

    Raises DataError for a file that cannot be read or has no such column of text.
    """
    with _open(path, column) as file:
        metadata = file.metadata
        index = _index(metadata, column)
        groups = (metadata.row_group(group) for group in range(metadata.num_row_groups))
        sizes = sum(group.column(index).total_uncompressed_size for group in groups)
        # Parquet puts four bytes of length before each value, a corpus one NUL.
        return max(0, sizes - 3 * metadata.num_rows)


def parquet_documents(path: Path, column: str, skip: int) -> tuple[int, Iterator[bytes]]:
    """Return how many of `skip` rows remain to be skipped after this file, and the other rows.

    Raises DataError, here or while iterating, for a file that cannot be read or has no such
    column of text.
    """
    with _open(path, column) as file:
        rows = file.metadata.num_rows
    if skip >= rows:
        return skip - rows, iter(())
    return 0, _rows(path, column, skip)


def _rows(path: Path, column: str, skip: int) -> Iterator[bytes]:
    import pyarrow as pa

    with _open(path, column) as file:
        metadata = file.metadata
        index = _index(metadata, column)
        for number in range(metadata.num_row_groups):
            chunk = metadata.row_group(number).column(index)
            claimed, stored = chunk.total_uncompressed_size, chunk.total_compressed_size
            if claimed > CLAIM and claimed > RATIO * stored:
                raise _unreadable(path, f"row group {number} claims {claimed:,} bytes in {stored:,}")
        first = 0
        while skip >= metadata.row_group(first).num_rows:
            skip -= metadata.row_group(first).num_rows
            first += 1
        groups = range(first, metadata.num_row_groups)
        batches = file.iter_batches(ROWS, row_groups=groups, columns=[column], use_threads=False)
        try:
            for batch in batches:
                yield from column_bytes(batch.column(0).slice(skip))
                skip = max(0, skip - batch.num_rows)
        except (pa.ArrowException, OSError, ValueError, IndexError, OverflowError) as error:
            raise _unreadable(path, error) from error


def _index(metadata: Any, column: str) -> int:
    # A column of text is one leaf of the schema; nested neighbours may have several.
    return next(index for index in range(metadata.num_columns) if metadata.schema.column(index).path == column)


def _open(path: Path, column: str) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # Buffered, without reading ahead, so that a row group of gigabytes is read page by page.
        file = pq.ParquetFile(path, buffer_size=BUFFER, pre_buffer=False)
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise _unreadable(path, error) from error
    try:
        check_column(file.schema_arrow, column, path)
    except DataError:
        file.close()
        raise
    return file


def _unreadable(path: Path, error: object) -> DataError:
    return DataError(f"cannot read {path} as Parquet ({error}): repair it, or leave it out")


def check_column(schema: Any, column: str, where: object) -> None:
    """Raise DataError unless an Arrow schema has the column and it holds text."""
    if column not in schema.names:
        raise DataError(f"{where} has no column {column!r}: choose one of {', '.join(schema.names)} with --data-column")
    type_ = schema.field(column).type
    if str(type_) not in ("string", "large_string", "binary", "large_binary"):
        raise DataError(
            f"the column {column!r} of {where} is of type {type_}, not text: choose another of "
            f"{', '.join(schema.names)} with --data-column"
        )


def column_bytes(array: Any) -> Iterator[bytes]:
    """Yield the values of an Arrow array of text as bytes, not decoded; null becomes empty."""
    import pyarrow as pa

    raw = array.cast(pa.large_binary() if str(array.type).startswith("large") else pa.binary())
    for value in raw:
        yield value.as_py() or b""
