"""Documents out of single files: text, and Parquet."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from data.errors import DataError
from data.source import Document

BLOCK = 1 << 20
"""Bytes read at a time from a file of text."""

ROWS = 256
"""Rows decoded at a time from Parquet: a few megabytes of ordinary documents."""


def is_table(path: str | Path) -> bool:
    """Tell from its name whether a file holds many documents, one per row."""
    return str(path).lower().endswith(".parquet")


def documents_of(path: Path, column: str, skip: int) -> tuple[int, Iterator[Document]]:
    """Return how many of `skip` documents are left to leave out after this file, and the rest.

    Raises DataError, here or while iterating, for a file that cannot be read.
    """
    if is_table(path):
        return _parquet_documents(path, column, skip)
    if skip:
        return skip - 1, iter(())
    return 0, iter([_text_blocks(path)])


def size_hint(files: list[Path], column: str) -> int | None:
    """Return about how many bytes the documents of all these files have, separators included.

    Raises DataError for a file that cannot be read.
    """
    return sum(_parquet_size(file, column) if is_table(file) else _size(file) for file in files)


def _size(path: Path) -> int:
    return path.stat().st_size + 1


def _text_blocks(path: Path) -> Iterator[bytes]:
    # Raw bytes, whatever their encoding: the model reads bytes.
    try:
        with open(path, "rb") as file:
            while block := file.read(BLOCK):
                yield block
    except OSError as error:
        raise _unreadable(path, error.strerror) from error


def _unreadable(path: Path, reason: object) -> DataError:
    return DataError(f"cannot read {path} ({reason}): mend it, or leave it out")


def _open_parquet(path: Path, column: str) -> Any:
    """Open a Parquet file and check its column; raises DataError."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # Buffered and not read ahead: a row group of gigabytes is then read page by page.
        file = pq.ParquetFile(path, buffer_size=BLOCK, pre_buffer=False)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, f"as Parquet: {error}") from error
    schema = file.schema_arrow
    if column not in schema.names:
        file.close()
        raise DataError(
            f"{path} has no column {column!r}: choose one of {', '.join(schema.names)} "
            "with --data-column"
        )
    if not is_text_type(schema.field(column).type):
        file.close()
        raise DataError(
            f"the column {column!r} of {path} is of type {schema.field(column).type}, not text: "
            f"choose another of {', '.join(schema.names)} with --data-column"
        )
    return file


def is_text_type(type_: Any) -> bool:
    """Tell whether an Arrow type holds strings or raw bytes."""
    import pyarrow as pa

    return (
        pa.types.is_string(type_)
        or pa.types.is_large_string(type_)
        or pa.types.is_binary(type_)
        or pa.types.is_large_binary(type_)
    )


def column_bytes(array: Any) -> list[bytes]:
    """Return the values of an Arrow array of text as bytes, not decoded; null becomes empty."""
    import pyarrow as pa

    large = pa.types.is_large_string(array.type) or pa.types.is_large_binary(array.type)
    raw = array.cast(pa.large_binary() if large else pa.binary())
    return [value or b"" for value in raw.to_pylist()]


def _parquet_size(path: Path, column: str) -> int:
    with _open_parquet(path, column) as file:
        metadata = file.metadata
        index = metadata.schema.names.index(column) if column in metadata.schema.names else 0
        groups = (metadata.row_group(group) for group in range(metadata.num_row_groups))
        sizes = sum(group.column(index).total_uncompressed_size for group in groups)
        # Parquet has four bytes of length before each value, we have one NUL.
        return max(0, sizes - 3 * metadata.num_rows)


def _parquet_documents(path: Path, column: str, skip: int) -> tuple[int, Iterator[bytes]]:
    with _open_parquet(path, column) as file:
        rows = file.metadata.num_rows
    if skip >= rows:
        return skip - rows, iter(())
    return 0, _parquet_rows(path, column, skip)


def _parquet_rows(path: Path, column: str, skip: int) -> Iterator[bytes]:
    import pyarrow as pa

    with _open_parquet(path, column) as file:
        metadata = file.metadata
        first = 0
        while skip >= metadata.row_group(first).num_rows:
            skip -= metadata.row_group(first).num_rows
            first += 1
        groups = range(first, metadata.num_row_groups)
        batches = file.iter_batches(ROWS, row_groups=groups, columns=[column], use_threads=False)
        try:
            for batch in batches:
                values = column_bytes(batch.column(0))
                yield from islice(values, skip, None)
                skip = max(0, skip - len(values))
        except (pa.ArrowException, OSError) as error:
            raise _unreadable(path, f"as Parquet: {error}") from error
