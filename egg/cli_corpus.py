"""Where the command line joins ``data`` to ``egg``."""

import sys

import numpy as np

import data
from egg.errors import EggError


class CorpusText:
    """A split as what evolution reads."""

    def __init__(self, tokens: np.ndarray):
        self.tokens, self.size = tokens, tokens.size

    def read(self, starts: np.ndarray, length: int) -> np.ndarray:
        """(len(starts), length) uint8 from each start on, wrapping round at the end."""
        return data.read_chunks(self.tokens, starts, length)


def open_for_training(spec: str, column: str, notify) -> tuple[data.Corpus, CorpusText, str]:
    """A corpus, the text to train on, and the name of the split to validate on.

    Raises DataError or EggError, one line.
    """
    corpus = data.open_corpus(spec, column=column, progress=sys.stderr.isatty(), notify=notify)
    training = corpus.training_split
    if not corpus.bytes(training):
        raise EggError(f"{spec}: its split {training} is empty, there is nothing to learn from")
    validation = corpus.validation_split
    if validation is None or not corpus.bytes(validation):
        validation = training
        notify(
            f"{corpus.name} holds no text back for validation: it is measured on what it trains on"
        )
    return corpus, CorpusText(corpus.split(training)), validation


def split_of(corpus: data.Corpus, asked: str | None, notify) -> str:
    """The part of a text to measure on: the one asked for, or validation, or the whole of an undivided text.

    Raises EggError for a part that the text does not have, or that is empty.
    """
    split = asked or corpus.validation_split
    if split is None:
        split = corpus.splits[0]
        notify(f"{corpus.name} has no validation split: measured on {split}")
    if split not in corpus.splits:
        raise EggError(f"--split {split}: {corpus.name} has {', '.join(corpus.splits)}")
    if not corpus.bytes(split):
        raise EggError(f"--split {split}: {corpus.name} has no byte in it, choose another")
    return split


def facts(corpus: data.Corpus) -> dict:
    """What a run's config.json keeps of its corpus."""
    return {
        "name": corpus.name,
        "fingerprint": corpus.fingerprint,
        "bytes": {name: corpus.bytes(name) for name in corpus.splits},
        "documents": {name: corpus.documents(name) for name in corpus.splits},
    }
