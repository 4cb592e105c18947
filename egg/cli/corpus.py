"""Where the command line joins ``data`` to ``egg``."""

import sys
from dataclasses import asdict

import numpy as np

from egg import data
from egg.cli.options import say
from egg.errors import EggError
from egg.model.baselines import baselines, strong_baselines
from egg.view.figures import count


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
        notify(f"{corpus.name} holds no text back for validation: it is measured on what it trains on")
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


BASELINES = {
    "trigram": "frequencies of three bytes, in the training split",
    "bigram": "frequencies of pairs of bytes there",
    "unigram": "frequencies of bytes there",
    "xz": "xz -9e of the same bytes, by themselves",
    "zstd": "zstd -19",
    "gzip": "gzip -9",
}
"""What is measured beside the model, and how the table explains it."""


def text_of(config: dict, spec: str | None, column: str | None) -> tuple[str | None, str]:
    """The text to measure on, and its column: as asked for, or as in training; None if neither says.

    config : what the model's config.json holds
    """
    trained = config.get("run") if isinstance(config.get("run"), dict) else {}
    spec = spec if spec is not None else trained.get("data")
    column = column or trained.get("data_column") or "text"
    return (spec or None) if isinstance(spec, str) else None, str(column)


def simple_models(corpus: data.Corpus, split: str, text: np.ndarray) -> dict[str, float]:
    """Bits per byte by name, in the order of BASELINES."""
    training = corpus.split(corpus.training_split)
    if split == corpus.training_split:
        say(f"{split} is the training split: unigram, bigram and trigram have seen its text")
    figures = asdict(baselines(training, text)) | asdict(strong_baselines(training, text))
    if figures["fit_bytes"] < training.size:
        say(f"frequencies are of {count(figures['fit_bytes'])} bytes spread over the training split")
    return {name: figures[name] for name in BASELINES}
