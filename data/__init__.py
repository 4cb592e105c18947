"""Text to bytes on disk, and from there to one stream of bytes per group of members."""

from data.corpus import SPLITS, Corpus
from data.errors import DataError
from data.opening import open_corpus
from data.streams import read_chunks, stream_starts

__all__ = [
    "SPLITS",
    "Corpus",
    "DataError",
    "open_corpus",
    "read_chunks",
    "stream_starts",
]
