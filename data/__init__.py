"""Text as bytes on disk, and as streams of bytes, one for each reader."""

from egg.data.corpus import SPLITS, Corpus, with_validation
from egg.data.description import Description, SplitDescription, describe
from egg.data.errors import DataError
from egg.data.inventory import Cleared, clear, list_corpora
from egg.data.opening import NAMED, absolute, open_corpus, parts
from egg.data.streams import read_chunks
from egg.data.tokens import MAX_TEXT

__all__ = [
    "MAX_TEXT",
    "NAMED",
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
    "parts",
    "read_chunks",
    "with_validation",
]
