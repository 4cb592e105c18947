"""The source of a corpus: an identity, and per split an iterator over documents."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

# A document is its bytes, or an iterable of blocks where it may be too large for memory.
Document = bytes | Iterable[bytes]

# Called with the number of documents to skip at the start, where an interrupted preparation continues.
Reader = Callable[[int], Iterator[Document]]


@dataclass(frozen=True)
class Contents:
    """The documents of a source, found but not yet read."""

    readers: dict[str, Reader]
    """One reader per split, in the order in which the splits are written."""
    size_hint: int | None = None
    """Bytes expected on disk, all splits together; None where that is unknown."""
    stamp: str = ""
    """Version of the documents, where the identity does not include it (a data set on the hub)."""
    unchanged: Callable[[], bool] = lambda: True
    """Tells after reading whether the documents still match the identity."""


@dataclass(frozen=True)
class Source:
    """The origin of documents; its identity determines its prepared corpus."""

    name: str
    """Short name, the first half of the cache folder's name."""
    spec: str
    """The specification as given by the caller."""
    identity: dict[str, Any]
    """JSON values that change whenever the documents may have changed."""
    load: Callable[[], Contents]
    """Finds the documents; called only if the corpus is not in the cache."""
    task: str = "preparing"
    """What its preparation does, for the notice."""
