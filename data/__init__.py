"""Text to bytes on disk, and from there to one stream of bytes per group of members."""

from egg.data.corpus import SPLITS, Corpus
from egg.data.description import Description, SplitDescription, describe
from egg.data.errors import DataError
from egg.data.inventory import Cleared, clear, list_corpora
from egg.data.opening import absolute, open_corpus
from egg.data.streams import read_chunks, stream_starts
from egg.data.tokens import MAX_TEXT

__all__ = [
    "MAX_TEXT",
    "SPLITS",
    "Cleared",
    "Corpus",
    "DataError",
    "Description",
    "SplitDescription",
    "absolute",
    "clear",
    "describe",
    "list_corpora",
    "open_corpus",
    "read_chunks",
    "stream_starts",
]
